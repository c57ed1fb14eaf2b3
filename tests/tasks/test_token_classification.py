from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, List
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertConfig, EvalPrediction

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.models.loading import load_tokenizer
from hf_tinybert.tasks.token_classification import TokenClassification, metric_of, tags_of_windows


def task_of(tmp_path, rows, **changes):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = TokenClassification(DataArguments(train_file=str(path), **changes), training=True)
    return task


ROWS = [
    {"tokens": ["Guangdong", "exports", "unbelievably", "much"], "tags": ["B-location", "O", "O", "O"]},
    {"tokens": ["@paulwalk", "waves"], "tags": ["B-person", "O"]},
]


def test_the_first_piece_of_a_word_carries_its_tag(tmp_path, tokenizer):
    task = task_of(tmp_path, ROWS)
    kwargs = task.config_kwargs()
    assert kwargs["id2label"] == {0: "B-location", 1: "B-person", 2: "O"}
    encoded = task.encode(tokenizer, BertConfig(**kwargs))
    assert encoded.leading == "f1"
    for row, whole in zip(encoded.splits["train"], ROWS, strict=True):
        words = tokenizer(whole["tokens"], is_split_into_words=True).word_ids()
        pieces = [(word, label) for word, label in zip(words, row["labels"], strict=True) if label != -100]
        assert [kwargs["id2label"][label] for _, label in pieces] == whole["tags"]
        assert [word for word, _ in pieces] == list(range(len(whole["tokens"])))
        assert len(words) > len(pieces) + 2, "no word had several pieces"
    batch = encoded.collator([dict(row) for row in encoded.splits["train"]])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["labels"].shape[1] % 8 == 0


@pytest.mark.parametrize("max_length", [3, 5, 9, 200])
def test_every_word_of_a_long_text_is_labelled_once(tmp_path, tokenizer, max_length):
    """Long texts are read in windows; their words together are those of the text, in order."""
    rows = [{key: values * 6 for key, values in row.items()} for row in ROWS] + ROWS
    task = task_of(tmp_path, rows, max_length=max_length, doc_stride=4)
    config = BertConfig(**task.config_kwargs())
    encoded = task.encode(tokenizer, config)
    windows = encoded.splits["train"]
    assert max(map(len, windows["input_ids"])) <= max_length
    labels = [label for row in windows["labels"] for label in row if label >= 0]
    assert [config.id2label[label] for label in labels] == [tag for row in rows for tag in row["tags"]]
    assert (len(windows) > len(rows)) == (max_length < 200)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.integers(1, 7),
    st.integers(0, 6),
)
def test_tags_of_windows(pieces, room, stride):
    """Windows as a tokenizer makes them, of words with some pieces each: one special token at either end."""
    stride = min(stride, room // 2)
    words = [word for word, count in enumerate(pieces) for _ in range(count)]
    starts = [0]
    while starts[-1] + room < len(words):
        starts.append(starts[-1] + room - stride)
    windows = [[None, *words[start : start + room], None] for start in starts]
    found = tags_of_windows(windows, list(range(100, 100 + len(pieces))), stride)
    assert [len(window) for window in found] == [len(window) for window in windows]
    tags = [tag for window in found for tag in window if tag != -100]
    assert tags == list(range(100, 100 + len(pieces)))
    for window, tags_there in zip(windows, found, strict=True):
        for word, tag in zip(window, tags_there, strict=True):
            assert tag in (-100, None if word is None else 100 + word)


def test_entities_are_whole_over_windows():
    names = ["O", "B-x", "I-x"]
    gold = np.array([[-100, 0, 1, -100], [-100, 2, 0, -100], [-100, 1, -100, -100]])
    measure = metric_of(names, [0, 0, 1])
    right = measure(EvalPrediction(predictions=gold.clip(0), label_ids=gold))
    assert right["f1"] == right["accuracy"] == 1.0
    wrong = gold.clip(0).copy()
    wrong[1, 1] = 0  # the entity's second word, in the second window
    found = measure(EvalPrediction(predictions=wrong, label_ids=gold))
    assert found["accuracy"] == 0.8
    assert found["f1"] == 0.5


def test_lists_in_a_csv_file(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    lines = [f"{json.dumps(row['tokens'])}|{json.dumps(row['tags'])}" for row in ROWS]
    path.write_text("\n".join(["tokens|tags", *lines]))
    options = {"delimiter": "|", "quoting": "none"}
    task = TokenClassification(DataArguments(train_file=str(path), **options), training=True)
    assert task.splits["train"].to_list() == ROWS


def test_a_class_label_keeps_its_order(tmp_path, tokenizer):
    names = ["O", "B-x", "I-x"]
    data = Dataset.from_dict({"tokens": [["a", "b"]], "ner_tags": [[0, 1]]})
    data = data.cast_column("ner_tags", List(ClassLabel(names=names)))
    data.to_parquet(str(tmp_path / "train.parquet"))
    task = TokenClassification(DataArguments(train_file=str(tmp_path / "train.parquet")), training=True)
    assert list(task.config_kwargs()["id2label"].values()) == names
    backwards = BertConfig(id2label={0: "I-x", 1: "B-x", 2: "O"}, label2id={"I-x": 0, "B-x": 1, "O": 2})
    assert [label for label in task.encode(tokenizer, backwards).splits["train"][0]["labels"] if label >= 0] == [2, 1]


def test_wnut(shared_data, tokenizer):
    folder = shared_data / "wnut17"
    task = TokenClassification(
        DataArguments(train_file=str(folder / "train.conll"), test_file=str(folder / "test.conll")),
        training=True,
    )
    assert {name: len(rows) for name, rows in task.splits.items()} == {"train": 3394, "test": 1287}
    tags = set(task.config_kwargs()["label2id"])
    assert len(tags) == 13
    kinds = {"person", "location", "corporation", "product", "creative-work", "group"}
    assert tags - {"O"} == {f"{side}-{kind}" for side in "BI" for kind in kinds}
    first = task.splits["train"][0]
    assert first["tokens"][0] == "@paulwalk"
    assert first["tags"][first["tokens"].index("Empire")] == "B-location"


def test_words_of_roberta_keep_the_space_that_belongs_to_them(tmp_path):
    folder, texts = tmp_path / "roberta", [" ".join(row["tokens"]) for row in ROWS]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(
        texts * 5, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    folder.mkdir()
    bpe.model.save(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    task = task_of(tmp_path, ROWS)
    config = BertConfig(**task.config_kwargs())
    with pytest.raises(ValueError, match="load it with add_prefix_space=True"):
        task.encode(AutoTokenizer.from_pretrained(folder), config)
    tokenizer = load_tokenizer(folder, "model", task.single_words)
    encoded = task.encode(tokenizer, config).splits["train"]
    assert [sum(label >= 0 for label in row["labels"]) for row in encoded] == [4, 2]
    for row, text in zip(encoded, texts, strict=True):
        assert row["input_ids"] == tokenizer(text)["input_ids"]
    assert "\u0120exports" in tokenizer.convert_ids_to_tokens(encoded[0]["input_ids"])
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert task.encode(again, config).splits["train"]["input_ids"] == encoded["input_ids"]
