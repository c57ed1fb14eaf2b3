from __future__ import annotations

import csv
import json
import re
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import factories
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import BertConfig

from hf_tinybert.data import loading
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.label_values import LabelOptions
from hf_tinybert.data.labels import read_labels
from hf_tinybert.data.loading import check_max_length, load_raw, shortened
from hf_tinybert.tasks.label_names import Labels
from hf_tinybert.tasks.text_classification import Columns, TextClassification

DEMO = resources.files("hf_tinybert.data") / "demo_data"
TRAPS = ["null", "NA", "nan", "None", "N/A", "", "-inf", "true"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))


def demo_rows(split: str, count: int | None = None) -> list[dict[str, str]]:
    with (DEMO / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[:count]


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format that the file's ending names."""
    match path.suffix:
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
        case ".tsv":
            lines = ["\t".join(rows[0])] + ["\t".join(map(str, row.values())) for row in rows]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".parquet":
            Dataset.from_list(rows).to_parquet(path)
    return path


def raw(**args: Path) -> DatasetDict:
    return load_raw(DataArguments(**{name: str(value) for name, value in args.items()})).splits


def prepared(args: DataArguments, tokenizer) -> tuple[DatasetDict, Labels]:
    """All that the commands do with data, in their order."""
    task = TextClassification(args, training=bool(args.train_file or args.dataset))
    labels = Labels.from_values(next(iter(task.labels.values())), "The column")
    return task.encode(tokenizer, BertConfig(**labels.config_kwargs())).splits, labels


# Reading


def test_the_demo_as_files(tokenizer):
    args = DataArguments(*(str(DEMO / f"{split}.csv") for split in ("train", "eval", "test")))
    encoded, labels = prepared(args, tokenizer)
    assert list(labels.names) == factories.intents()
    assert {split: len(rows) for split, rows in encoded.items()} == {"train": 780, "eval": 180, "test": 300}
    for split, rows in encoded.items():
        expected = demo_rows(split)
        assert [labels.names[i] for i in rows["labels"]] == [row["intent"] for row in expected]
        assert rows["input_ids"] == [tokenizer(row["text"])["input_ids"] for row in expected]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".CSV", ".JSONL"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    rows = demo_rows("eval", 60)
    path = write(tmp_path / f"some data{ending.lower()}", rows)
    path = path.rename(path.with_suffix(ending))
    assert raw(train_file=path)["train"].to_list() == rows


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_texts_that_look_like_missing_values_stay_texts(tmp_path, tokenizer, ending):
    texts = [*TRAPS[:-3], 'a "quoted" word', "true", "42"]
    rows = [{"text": text, "label": f"c{index % 2}"} for index, text in enumerate(texts)]
    path = write(tmp_path / f"traps{ending}", rows)
    assert raw(train_file=path)["train"]["text"] == texts
    encoded, _ = prepared(DataArguments(train_file=str(path)), tokenizer)
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded["train"]["input_ids"][:3]] == [
        "null",
        "na",
        "nan",
    ]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_labels_that_look_like_missing_values_are_classes(tmp_path, ending):
    rows = [{"text": "some text", "label": label} for label in ("NA", "null", "yes", "NA")]
    read = raw(train_file=write(tmp_path / f"f{ending}", rows))["train"]
    assert of(list(read["label"])).names == ("NA", "null", "yes")


def test_an_empty_text_is_a_text(tmp_path, tokenizer):
    path = tmp_path / "empty_text.csv"
    path.write_text('text,label\n"",a\nsome words,b\n')
    encoded, _ = prepared(DataArguments(train_file=str(path)), tokenizer)
    assert encoded["train"]["input_ids"][0] == tokenizer("")["input_ids"]


@pytest.mark.parametrize("name", ["a [v2].csv", "what?.csv", "all*.csv", "ünï & cödé.csv", "{x}.csv"])
def test_odd_file_names(tmp_path, name):
    rows = demo_rows("eval", 5)
    write(tmp_path / "all other.csv", demo_rows("train", 7))
    path = write(tmp_path / name, rows)
    assert raw(eval_file=path)["eval"].to_list() == rows


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    for name, text in {
        "a.csv": '\ufefftext,label\r\n"one, two",1\r\nthree,0\r\n',
        "a.tsv": "\ufefftext\tlabel\r\none, two\t1\r\nthree\t0\r\n",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        read = raw(train_file=tmp_path / name)["train"]
        assert read.to_list() == [{"text": "one, two", "label": "1"}, {"text": "three", "label": "0"}]


def test_a_file_that_was_changed_is_read_again(tmp_path):
    path = tmp_path / "f.csv"
    write(path, demo_rows("eval", 5))
    raw(train_file=path)
    write(path, demo_rows("eval", 9))
    assert len(raw(train_file=path)["train"]) == 9


def test_max_train_samples_leaves_the_other_splits_alone():
    args = DataArguments(train_file=str(DEMO / "train.csv"), eval_file=str(DEMO / "eval.csv"), max_train_samples=33)
    whole = load_raw(args).splits
    splits = shortened(whole, args)
    assert splits["train"].to_list() == demo_rows("train", 33)
    assert len(splits["eval"]) == 180
    args.max_train_samples = 10**6
    assert len(shortened(whole, args)["train"]) == 780


@pytest.mark.parametrize("count", [0, -3])
def test_max_train_samples_must_be_positive(count):
    with pytest.raises(ValueError, match=rf"--max-train-samples must be at least 1, got {count}\."):
        load_raw(DataArguments(train_file=str(DEMO / "train.csv"), max_train_samples=count))


# GLUE as distributed


def tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8-sig").splitlines()]


def test_sst2(shared_data, tokenizer):
    path = shared_data / "glue" / "SST-2" / "dev.tsv"
    encoded, labels = prepared(DataArguments(eval_file=str(path)), tokenizer)
    rows = tsv(path)[1:]
    assert labels.names == ("0", "1")
    assert encoded["eval"]["labels"] == [int(row[1]) for row in rows]
    assert encoded["eval"]["input_ids"] == [tokenizer(row[0])["input_ids"] for row in rows]


def test_mrpc_keeps_every_row_and_quote(shared_data, tokenizer):
    folder = shared_data / "glue" / "MRPC"
    args = DataArguments(
        train_file=str(folder / "train.tsv"),
        eval_file=str(folder / "dev.tsv"),
        text_column="#1 String",
        text_pair_column="#2 String",
        label_column="Quality",
    )
    splits = load_raw(args).splits
    assert len(splits["eval"]) == 408
    for split, name in (("train", "train.tsv"), ("eval", "dev.tsv")):
        rows = [line.split("\t") for line in (folder / name).read_text(encoding="utf-8-sig").split("\n")[1:] if line]
        assert splits[split].column_names == ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        given = splits[split].to_dict()
        assert given["#1 String"] == [row[3] for row in rows]
        assert given["#2 String"] == [row[4] for row in rows]
        assert given["Quality"] == [row[0] for row in rows]
    encoded, labels = prepared(args, tokenizer)
    assert labels.names == ("0", "1")
    for encoded_row, row in zip(encoded["eval"].select(range(20)), splits["eval"].select(range(20)), strict=True):
        whole = tokenizer(row["#1 String"], row["#2 String"], truncation=True, max_length=128)
        assert encoded_row["input_ids"] == whole["input_ids"]


def test_sts_b_is_a_regression_on_pairs(shared_data, tokenizer):
    path = shared_data / "glue" / "STS-B" / "dev.tsv"
    args = DataArguments(eval_file=str(path))
    encoded, labels = prepared(args, tokenizer)
    rows = tsv(path)[1:]
    assert labels.is_regression
    assert labels.config_kwargs() == {"num_labels": 1, "problem_type": "regression"}
    assert encoded["eval"]["labels"] == pytest.approx([float(row[9]) for row in rows])
    assert len(encoded["eval"]) == 1500
    assert encoded["eval"]["input_ids"][7] == tokenizer(rows[7][7], rows[7][8])["input_ids"]


# Labels


def of(values: list, feature=None) -> Labels:
    features = Features({"label": feature}) if feature else None
    dataset = Dataset.from_dict({"label": values}, features=features)
    return Labels.from_values(read_labels(dataset, "label", LabelOptions(), InvalidRows("rows", False)), "The column")


def test_labels_of_a_data_set():
    assert of(["b", "a", "c", "a"]).names == ("a", "b", "c")
    assert of([10, 9, 2, 10]).names == ("2", "9", "10")
    assert of([True, False]).names == ("False", "True")
    assert of([1, 0], ClassLabel(names=["zebra", "ant", "never seen"])).names == ("zebra", "ant", "never seen")
    assert of([0.5, 1.0]).names is None
    assert of([0.5, 1.0], Value("float32")).is_regression


@pytest.mark.parametrize("values", [["b", "a", "c"], [1, 2, 5], [0.5, 1.5]])
def test_labels_survive_in_a_models_configuration(tmp_path, values):
    labels = of(values)
    BertConfig(**labels.config_kwargs()).save_pretrained(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    assert Labels.from_config(config) == labels
    if labels.names:
        assert [config.label2id[name] for name in labels.names] == list(range(len(values)))


def test_labels_of_a_configuration_are_in_the_order_of_the_ids():
    names = {2: "two", 0: "zero", 1: "one"}
    assert Labels.from_config(BertConfig(id2label=names, label2id={})).names == ("zero", "one", "two")
    assert Labels.from_config(BertConfig(num_labels=1)).is_regression


def encoded_labels(values: list, labels: Labels, tokenizer, feature=None) -> list:
    rows = {"text": ["what is the weather"] * len(values), "label": values}
    features = Features({"text": Value("string"), "label": feature}) if feature else None
    config = BertConfig(**labels.config_kwargs())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        Dataset.from_dict(rows, features=features).to_parquet(path)
        task = TextClassification(DataArguments(eval_file=str(path)), training=False, config=config)
        return list(task.encode(tokenizer, config).splits["eval"]["labels"])


def test_label_ids_are_the_models_not_the_files(tokenizer):
    model = Labels(("positive", "negative"))
    assert encoded_labels(["negative", "positive"], model, tokenizer) == [1, 0]
    other_order = ClassLabel(names=["negative", "positive"])
    assert encoded_labels([0, 1], model, tokenizer, other_order) == [1, 0]
    assert encoded_labels([0, 1], model, tokenizer) == [0, 1]
    assert encoded_labels(["2", "10"], Labels(("2", "9", "10")), tokenizer) == [0, 2]
    assert encoded_labels([10, 2], Labels(("2", "9", "10")), tokenizer) == [2, 0]
    assert encoded_labels([True, False], Labels(("False", "True")), tokenizer) == [1, 0]
    assert encoded_labels([3, 4], Labels(None), tokenizer) == [3.0, 4.0]
    assert encoded_labels(["1.5", "2"], Labels(None), tokenizer) == [1.5, 2.0]


def test_numbered_classes_are_not_taken_for_positions(tokenizer):
    """Ratings 1..5: a 0 was never seen; it must not shift all the others by one."""
    stars = Labels(("1", "2", "3", "4", "5"))
    assert encoded_labels([1, 5], stars, tokenizer) == [0, 4]
    with pytest.raises(ValueError, match="not trained for: 0"):
        encoded_labels([0, 1, 4], stars, tokenizer)


def test_unknown_labels_are_named(tokenizer):
    known = Labels(tuple(f"c{index}" for index in range(12)))
    with pytest.raises(ValueError, match=r"eval data has 1 label\(s\).*not trained for: sideways\. It knows: c0, c1"):
        encoded_labels(["c0", "sideways"], known, tokenizer)
    with pytest.raises(ValueError, match=r"7 label\(s\).*x0, x1, x2, x3, x4, \.\.\.\. .*c9, \.\.\.\."):
        encoded_labels([f"x{index}" for index in range(7)], known, tokenizer)
    with pytest.raises(ValueError, match="not trained for: 12"):
        encoded_labels([3, 12], known, tokenizer)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(name, text, id=name)
        for name, text in [
            (
                "string.jsonl",
                '{"text": "a b", "label": "x"}\n{"text": "c", "label": null}\n{"text": "d", "label": "y"}\n',
            ),
            ("int.jsonl", '{"text": "a b", "label": 1}\n{"text": "c", "label": null}\n{"text": "d", "label": 0}\n'),
            ("float.jsonl", '{"text": "a b", "label": 1.5}\n{"text": "c", "label": null}\n'),
            ("string.csv", "text,label\na b,x\nc,\nd,y\n"),
            ("int.csv", "text,label\na b,1\nc,\nd,0\n"),
            ("short.csv", "text,label\na b,1\nc\nd,0\n"),
            ("short.tsv", "text\tlabel\na b\t1\nc\nd\t0\n"),
        ]
    ],
)
def test_a_row_without_a_label_is_refused(tmp_path, tokenizer, name, text):
    path = tmp_path / name
    path.write_text(text)
    wanted = "line 3: it has 1 field, the header 2" if name.startswith("short") else "row 2: there is no label in the"
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}, {wanted}"):
        prepared(DataArguments(train_file=str(path)), tokenizer)


@pytest.mark.parametrize("value", ["very", "", "nan", "inf"])
def test_regression_values_are_finite_numbers(tokenizer, value):
    why = f"there is {value!r} in place of a label" if value == "nan" else "holds a value that is no number"
    with pytest.raises(ValueError, match=f"row 2: .*({why}|there is no label)"):
        encoded_labels(["1.5", value], Labels(None), tokenizer)


def test_a_missing_regression_value_is_refused(tokenizer):
    with pytest.raises(ValueError, match="row 2: there is no label in the column 'label'"):
        encoded_labels([1.5, None], Labels(None), tokenizer)


def test_lists_of_labels_make_a_multi_label_task(tmp_path, tokenizer):
    rows = [{"text": "a", "labels": ["x", "z"]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["y"]}]
    path = write(tmp_path / "multi.jsonl", rows)
    encoded, labels = prepared(DataArguments(train_file=str(path)), tokenizer)
    assert labels == Labels(("x", "y", "z"), several=True)
    assert labels.config_kwargs()["problem_type"] == "multi_label_classification"
    assert encoded["train"]["labels"] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert Labels.from_config(BertConfig(**labels.config_kwargs())) == labels
    with pytest.raises(ValueError, match="not trained for: w"):
        encoded_labels([["x", "w"]], labels, tokenizer)
    with pytest.raises(ValueError, match=r"one label a text.*trained for any number of labels"):
        encoded_labels(["x"], labels, tokenizer)
    with pytest.raises(ValueError, match=r"lists of labels.*trained for one label a text"):
        encoded_labels([["x"]], Labels(("x", "y")), tokenizer)


# Columns and texts


def test_usual_columns_are_found():
    def columns(*names: str, **args: str) -> tuple:
        dataset = Dataset.from_dict({name: ["x"] for name in names})
        found = Columns.find(dataset, DataArguments(**args))
        return found.text, found.pair, found.label

    assert columns("text", "label") == ("text", None, "label")
    assert columns("idx", "sentence", "label") == ("sentence", None, "label")
    assert columns("sentence1", "sentence2", "score") == ("sentence1", "sentence2", "score")
    assert columns("premise", "hypothesis", "label", "idx") == ("premise", "hypothesis", "label")
    assert columns("question1", "question2", "label") == ("question1", "question2", "label")
    assert columns("premise", "label") == ("premise", None, "label")
    assert columns("sentence1", "sentence2", "label", text_column="sentence2") == ("sentence2", None, "label")
    assert columns("a", "b", "c", text_column="b", text_pair_column="a", label_column="c") == ("b", "a", "c")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "No text column named text, sentence, .*columns 'body', 'heading', 'kind'. Name it with --text-column"),
        (
            {"text_column": "txt"},
            "No text column 'txt': the data has the columns 'body', 'heading', 'kind'. Name it with --text-column",
        ),
        (
            {"text_column": "body"},
            "No label column named label, .*columns 'body', 'heading', 'kind'. Name it with --label-column",
        ),
        (
            {"text_column": "body", "label_column": "k"},
            "No label column 'k': .*'kind'. Name it with --label-column",
        ),
        (
            {"text_column": "body", "text_pair_column": "h", "label_column": "kind"},
            "No second text column 'h': .*'kind'. Name it with --text-pair-column",
        ),
    ],
)
def test_a_column_that_is_not_there(args, message):
    dataset = Dataset.from_dict({"body": ["x"], "heading": ["y"], "kind": ["z"]})
    with pytest.raises(ValueError, match=message):
        Columns.find(dataset, DataArguments(**args))


def test_another_split_lacks_a_column(tmp_path, tokenizer):
    train = write(tmp_path / "train.csv", [{"text": "a", "label": "x"}])
    other = write(tmp_path / "other.csv", [{"sentence": "a", "label": "x"}])
    with pytest.raises(ValueError, match="The test data has no column 'text'; its columns are sentence, label"):
        prepared(DataArguments(train_file=str(train), test_file=str(other)), tokenizer)


def test_a_text_is_missing_in_a_row(tmp_path, tokenizer):
    rows = [{"text": "a", "label": "x"}, {"text": None, "label": "y"}]
    path = write(tmp_path / "f.jsonl", rows)
    with pytest.raises(ValueError, match="row 2: there is no text in the column 'text'"):
        prepared(DataArguments(train_file=str(path)), tokenizer)
    rows = [{"sentence1": "a", "sentence2": "b", "label": "x"}, {"sentence1": "a", "sentence2": None, "label": "x"}]
    path = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(ValueError, match="row 2: there is no text in the column 'sentence2'"):
        prepared(DataArguments(train_file=str(path)), tokenizer)


def test_pairs_are_tokenised_as_pairs(tmp_path, tokenizer):
    path = write(
        tmp_path / "pairs.csv",
        [
            {"premise": "the lamp is on", "hypothesis": "it is dark", "label": "no"},
            {"premise": "it rains " * 40, "hypothesis": "take an umbrella " * 40, "label": "yes"},
        ],
    )
    encoded, labels = prepared(DataArguments(train_file=str(path), max_length=20), tokenizer)
    short, long = encoded["train"]
    assert tokenizer.decode(short["input_ids"]) == "[CLS] the lamp is on [SEP] it is dark [SEP]"
    assert short["token_type_ids"] == [0] * 6 + [1] * 4
    assert len(long["input_ids"]) == 20
    assert set(long["token_type_ids"]) == {0, 1}
    assert labels.names == ("no", "yes")


def test_long_texts_are_cut_at_the_end_and_not_cached_at_another_length(tokenizer):
    args = DataArguments(eval_file=str(DEMO / "eval.csv"), max_length=6)
    short, _ = prepared(args, tokenizer)
    args.max_length = 64
    long, _ = prepared(args, tokenizer)
    assert max(map(len, short["eval"]["input_ids"])) == 6
    assert max(map(len, long["eval"]["input_ids"])) > 10
    for cut, whole in zip(short["eval"]["input_ids"], long["eval"]["input_ids"], strict=True):
        assert cut[:5] == whole[:5]
        assert cut[-1] == whole[-1] == tokenizer.sep_token_id


def test_encoded_rows_hold_what_a_model_takes_and_nothing_else(tmp_path, tokenizer):
    path = write(
        tmp_path / "f.csv",
        [{"id": i, "text": "a", "label_ids": "z", "labels": "x", "labels2": f"y{i}"} for i in (7, 8)],
    )
    encoded, _ = prepared(DataArguments(train_file=str(path), label_column="labels2"), tokenizer)
    assert set(encoded["train"].column_names) == {*tokenizer.model_input_names, "labels"}


def test_the_collator_pads_to_a_multiple_of_eight(tokenizer):
    encoded, _ = prepared(DataArguments(eval_file=str(DEMO / "eval.csv")), tokenizer)
    batch = loading.collator(tokenizer)(list(encoded["eval"].select(range(9))))
    lengths = [len(ids) for ids in encoded["eval"]["input_ids"][:9]]
    assert batch["input_ids"].shape == (9, -(-max(lengths) // 8) * 8)
    assert batch["attention_mask"].sum(-1).tolist() == lengths
    assert batch["labels"].tolist() == encoded["eval"]["labels"][:9]


# A data set by name


def test_a_local_folder_is_a_data_set(tmp_path, tokenizer):
    for split, name in (("train", "train"), ("eval", "validation"), ("test", "test")):
        write(tmp_path / f"{name}.csv", demo_rows(split))
    encoded, labels = prepared(DataArguments(dataset=str(tmp_path), max_train_samples=200), tokenizer)
    assert {split: len(rows) for split, rows in encoded.items()} == {"train": 200, "eval": 180, "test": 300}
    assert len(labels.names) == 12


def test_a_local_folder_keeps_texts_that_look_like_missing_values(tmp_path):
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(TRAPS)]
    write(tmp_path / "train.csv", rows)
    assert raw(dataset=tmp_path)["train"]["text"] == TRAPS


def test_a_test_split_with_hidden_labels_is_not_measured(tmp_path, tokenizer):
    """GLUE's test splits carry -1 for every label: `--dataset nyu-mll/glue --dataset-config sst2`."""
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    for split, labels in (("train", [0, 1]), ("validation", [1, 0]), ("test", [-1, -1])):
        rows = Dataset.from_dict({"sentence": ["good film", "bad film"], "label": labels}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    encoded, labels = prepared(DataArguments(dataset=str(tmp_path)), tokenizer)
    assert labels.names == ("negative", "positive")
    assert encoded["eval"]["labels"] == [1, 0]
    assert "test" not in encoded


def test_a_folder_whose_splits_do_not_agree_is_refused(tmp_path, tokenizer):
    write(tmp_path / "train.csv", demo_rows("train", 4))
    write(tmp_path / "test.csv", [{"sentence": "no label here"}])
    with pytest.raises(ValueError, match="The test data has no column 'text'"):
        prepared(DataArguments(dataset=str(tmp_path)), tokenizer)


# Refusals


def test_a_data_set_with_other_splits(tmp_path):
    path = write(tmp_path / "rows.parquet", demo_rows("eval", 5))
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: holdout\n    path: {path.name}\n---\n"
    )
    with pytest.raises(ValueError, match="splits holdout; expected train, validation or test"):
        load_raw(DataArguments(dataset=str(tmp_path)))


def test_no_such_data_set():
    with pytest.raises((ValueError, OSError), match="no-such-owner/no-such-data"):
        load_raw(DataArguments(dataset="no-such-owner/no-such-data"))


def test_files_and_a_data_set_are_not_both_taken(tmp_path):
    with pytest.raises(ValueError, match=r"Give either --dataset or files .*, not both"):
        load_raw(DataArguments(dataset=str(tmp_path), eval_file=str(DEMO / "eval.csv")))
    with pytest.raises(ValueError, match="No data: give --train-file"):
        load_raw(DataArguments())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "is empty"),
        ("empty.jsonl", b"", "is empty"),
        ("header.csv", b"text,label\n", "has no rows"),
        ("header.tsv", b"text\tlabel\n", "has no rows"),
        ("blank.jsonl", b"\n", "has no rows"),
        ("list.json", b"[]", "has no rows"),
        ("table.xlsx", b"PK", r"ends in '.xlsx'; expected one of .csv, .tsv, .json, .jsonl, .parquet"),
        ("noending", b"text\na", r"ends in ''; expected one of"),
        ("broken.jsonl", b'{"text": "a"\n{"text": ', "line 1: it is no JSON"),
        ("broken.parquet", b"not parquet at all", "could not be read as parquet"),
        (
            "latin.csv",
            "text,label\ncaf\xe9,1\n".encode("latin-1"),
            "is not in utf-8: line 2 has the byte 0xe9.*--encoding latin-1",
        ),
        ("ragged.tsv", b"text\tlabel\na\t1\nb\t1\textra\tmore\n", "line 3: it has 4 fields, the header 2"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_raw(DataArguments(train_file=str(path)))
    assert str(path) in str(caught.value)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv does not exist"):
        load_raw(DataArguments(train_file=str(DEMO / "train.csv"), test_file=str(tmp_path / "gone.csv")))


@pytest.mark.parametrize(("given", "limit"), [(0, 512), (-1, 512), (513, 512), (0, None)])
def test_max_length_is_refused(given, limit):
    with pytest.raises(ValueError, match=f"--max-length is {given}; the student takes") as caught:
        check_max_length(given, limit, "the student")
    assert "None" not in str(caught.value)


@pytest.mark.parametrize(("given", "limit"), [(1, 512), (512, 512), (100_000, None)])
def test_max_length_that_fits(given, limit):
    check_max_length(given, limit, "the student")


def test_a_folder_of_conll_files(tmp_path):
    for split, word in (("train", "Denver"), ("test", "Oslo")):
        (tmp_path / f"{split}.conll").write_text(f"{word}\tB-location\nshines\tO\n", encoding="utf-8")
    splits = raw(dataset=tmp_path)
    assert splits["train"][0] == {"tokens": ["Denver", "shines"], "tags": ["B-location", "O"]}
    assert splits["test"][0]["tokens"] == ["Oslo", "shines"]


def test_columns_of_conll_files_in_a_folder(tmp_path):
    line = "1\tOslo\toslo\tPROPN\t_\t_\t0\troot\t_\t_\n"
    (tmp_path / "train.conll").write_text(line, encoding="utf-8")
    args = DataArguments(dataset=str(tmp_path), text_column="2", label_column="4")
    assert load_raw(args).splits["train"].to_list() == [{"2": ["Oslo"], "4": ["PROPN"]}]


def test_a_parquet_file_whose_texts_are_no_text(tmp_path):
    """A flipped byte leaves a file that opens, with a text that is no UTF-8."""
    broken = pa.array([b"good", b"b\xffd"]).cast(pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 2, broken.buffers())
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet could not be read as parquet: .*UTF8"):
        raw(train_file=tmp_path / "train.parquet")


def test_a_word_may_hold_what_elsewhere_ends_a_line(tmp_path):
    path = tmp_path / "train.conll"
    path.write_text("a\u2028b\tB-location\r\nshines\tO\r\n", encoding="utf-8")
    rows = raw(train_file=path)["train"]
    assert rows.to_list() == [{"tokens": ["a\u2028b", "shines"], "tags": ["B-location", "O"]}]
