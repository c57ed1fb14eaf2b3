"""`TextAugmenter`: whole data sets, whatever their form, and the same variants however they are made."""

from __future__ import annotations

import signal

import augment_worker
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from hf_tinybert.augmentation import TextAugmenter, WordVectors, report
from hf_tinybert.augmentation.words import words_of

ODD = [
    "",
    "   ",
    "film",
    "the of and",
    "12 345 !?",
    "I \U0001f60d this film \U0001f44d\U0001f3fd very much",
    "هذا الفيلم جميل جدا",
    "这部电影很好看",
    "naïve café Straße",
    "a\tb\nnew line",
    "and the of to good " * 60,
]


@pytest.fixture(scope="module")
def vectors() -> WordVectors:
    return augment_worker.vectors()


@pytest.fixture(scope="module")
def augmenter(vectors) -> TextAugmenter:
    return TextAugmenter(word_vectors=vectors, n=5)


@pytest.fixture(scope="module")
def with_model(masked_lm_folder) -> TextAugmenter:
    model = AutoModelForMaskedLM.from_pretrained(masked_lm_folder, dtype=torch.float32)
    return TextAugmenter(model, AutoTokenizer.from_pretrained(masked_lm_folder), n=5)


def rows_of(dataset):
    return [dict(row) for row in dataset]


def test_every_row_is_followed_by_its_variants_with_all_it_carries(augmenter, tmp_path):
    data = augment_worker.data(40)
    augmented = augmenter.map(data, cache_dir=tmp_path)
    rows = rows_of(augmented)
    assert augmented.column_names == ["text", "label", "id", "augmented", "words_replaced", "words_of_model"]
    assert [row["text"] for row in rows if not row["augmented"]] == data["text"][:]
    carried = {row["id"]: row["label"] for row in data}
    current, texts = None, set()
    for row in rows:
        if not row["augmented"]:
            current, texts = row, set()
            assert row["words_replaced"] == 0
        assert (row["id"], row["label"]) == (current["id"], carried[current["id"]])
        assert row["text"] not in texts
        texts.add(row["text"])
        before, after = ([word.text for word in words_of(r["text"])] for r in (current, row))
        assert len(before) == len(after)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == row["words_replaced"]
    told = report(augmented)
    assert told["originals"] == 40
    assert told["variants"] == len(rows) - 40 > 100
    assert told["words_replaced"] == sum(row["words_replaced"] for row in rows)
    assert (told["share_of_masked_lm"], told["share_of_word_vectors"]) == (0.0, 1.0)


@pytest.mark.parametrize(("rows_at_once", "num_proc"), [(1, None), (7, 2), (1000, 2)])
def test_pieces_and_processes_change_nothing(rows_at_once, num_proc, augmenter, tmp_path):
    data = augment_worker.data(15)
    usual = rows_of(augmenter.map(data, cache_dir=tmp_path / "usual"))
    assert len(usual) > 30
    again = augmenter.map(data, rows_at_once=rows_at_once, num_proc=num_proc, cache_dir=tmp_path / "again")
    assert rows_of(again) == usual


def test_a_stream_gives_the_same_rows_and_keeps_nothing(augmenter, tmp_path, monkeypatch):
    data = augment_worker.data(30)
    usual = rows_of(augmenter.map(data, cache_dir=tmp_path))
    monkeypatch.setattr("hf_tinybert.utils.work_sharing.HF_HOME", str(tmp_path / "none"))
    stream = augmenter.map(data.to_iterable_dataset(), rows_at_once=7)
    assert isinstance(stream, IterableDataset)
    assert rows_of(stream) == usual
    assert not (tmp_path / "none").exists()


def test_a_stream_of_unknown_columns_is_refused(augmenter):
    def rows():
        yield {"text": "a good film"}

    with pytest.raises(ValueError, match="does not know its columns"):
        augmenter.map(IterableDataset.from_generator(rows))


def test_batches_of_the_model_change_nothing(with_model, monkeypatch):
    texts = augment_worker.data(6)["text"][:]
    usual = with_model.augment(texts)
    monkeypatch.setattr(with_model.finder._model, "batch_size", 5)
    assert with_model.augment(texts) == usual
    assert [with_model.augment([text])[0] for text in texts] == usual
    assert len([variant for variants in usual for variant in variants]) > 15


def test_candidates_come_from_model_and_vectors(with_model, tmp_path):
    augmented = with_model.map(augment_worker.data(12), cache_dir=tmp_path)
    told = report(augmented)
    assert 0.5 < told["share_of_masked_lm"] <= 1
    assert told["share_of_masked_lm"] + told["share_of_word_vectors"] == pytest.approx(1)


def test_seed_and_numbers_change_the_choices(vectors):
    texts = augment_worker.data(10)["text"][:]
    usual = TextAugmenter(word_vectors=vectors, n=5).augment(texts)
    assert TextAugmenter(word_vectors=vectors, n=5).augment(texts) == usual
    assert TextAugmenter(word_vectors=vectors, n=5, seed=1).augment(texts) != usual
    assert TextAugmenter(word_vectors=vectors, n=5, p=0.9).augment(texts) != usual


def test_each_side_of_a_pair_is_varied_in_turn(augmenter, tmp_path):
    texts = augment_worker.data(20)["text"][:]
    data = Dataset.from_dict({"sentence1": texts[:10], "sentence2": texts[10:], "label": [0, 1] * 5})
    current, sides = None, set()
    for row in augmenter.map(data, cache_dir=tmp_path):
        if not row["augmented"]:
            current = row
            continue
        changed = [name for name in ("sentence1", "sentence2") if row[name] != current[name]]
        assert len(changed) == 1
        sides.update(changed)
    assert sides == {"sentence1", "sentence2"}


def test_tags_stay_with_their_words(augmenter, tmp_path):
    tokens = [["Angela", "Merkel", "visited", "New", "York", "yesterday", "."], ["he", "likes", "films", "!"]]
    tags = [["B-person", "I-person", "O", "B-location", "I-location", "O", "O"], ["O", "O", "B-product", "O"]]
    kinds = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=sorted({*tags[0], *tags[1]})))})
    data = Dataset.from_dict({"tokens": tokens, "tags": tags}, features=kinds)
    augmented = augmenter.map(data, cache_dir=tmp_path)
    assert augmented.features["tags"] == data.features["tags"]
    assert any(row["augmented"] for row in augmented)
    for row in augmented:
        assert row["tags"] == data[0 if len(row["tokens"]) == 7 else 1]["tags"]
        assert len(row["tokens"]) == len(row["tags"])


@pytest.mark.parametrize("kind", ["vectors", "model"])
def test_odd_texts(kind, augmenter, request):
    one = augmenter if kind == "vectors" else request.getfixturevalue("with_model")
    variants = dict(zip(ODD, one.augment(ODD), strict=True))
    for text in ("", "   ", "the of and", "12 345 !?"):
        assert variants[text] == []
    assert variants["film"]
    for variant in variants[ODD[5]]:
        assert variant.count("\U0001f60d") == variant.count("\U0001f44d\U0001f3fd") == 1
    for text, found in variants.items():
        assert text not in found
        assert all(len(words_of(variant)) == len(words_of(text)) for variant in found)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_any_text_at_all(augmenter, texts):
    together = augmenter.augment(texts)
    assert together == [augmenter.augment([text])[0] for text in texts]
    for text, variants in zip(texts, together, strict=True):
        assert text not in variants
        assert len(set(variants)) == len(variants)


def test_missing_texts_stay_and_have_no_variants(augmenter, tmp_path):
    data = Dataset.from_dict({"text": ["a good film", None]})
    rows = rows_of(augmenter.map(data, cache_dir=tmp_path))
    assert [row["text"] for row in rows if not row["augmented"]] == ["a good film", None]
    assert rows[-1]["text"] is None
    assert len(rows) > 2


def test_no_rows(augmenter, tmp_path):
    data = augment_worker.data(3).select([])
    assert len(augmenter.map(data, cache_dir=tmp_path)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give a masked language model with its tokenizer, word vectors, or both"),
        ({"n": 0}, "n, k and batch_size must be at least 1"),
        ({"p": 0.0}, "p above 0 and at most 1; got n=20, k=15, batch_size=64, p=0.0"),
        ({"stop_words": "klingon"}, "no stop words for 'klingon'; there are for .*english"),
    ],
)
def test_bad_numbers_are_refused(arguments, message, vectors):
    with pytest.raises(ValueError, match=message):
        TextAugmenter(**({"word_vectors": vectors} | arguments if arguments else {}))


def test_a_model_needs_its_tokenizer(encoder):
    with pytest.raises(ValueError, match="A masked language model needs its tokenizer"):
        TextAugmenter(AutoModel.from_pretrained(encoder))


def test_bad_columns_are_refused(augmenter, tmp_path):
    data = augment_worker.data(3)
    for columns, wrong in (("label", "label"), ("nothing", "nothing"), (["text", "id", "text"], "text, id, text")):
        with pytest.raises(ValueError, match=f"got {wrong}, and the columns that hold texts .* are text, id of"):
            augmenter.map(data, columns, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="got none"):
        augmenter.map(data.rename_column("text", "body"), cache_dir=tmp_path)
    augmented = augmenter.map(data, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="has been augmented before"):
        augmenter.map(augmented, cache_dir=tmp_path)


# Processes that are killed, and several at once


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = processes.run(augment_worker.__file__, folder)
    assert done.returncode == 0, done.output
    text = (folder / "augmented.jsonl").read_text()
    assert len(text.splitlines()) > 2 * augment_worker.ROWS
    return text


def test_a_killed_run_goes_on_where_it_was(undisturbed, processes, tmp_path):
    assert processes.run(augment_worker.__file__, tmp_path, 2).returncode == -signal.SIGKILL
    assert len((tmp_path / "found").read_text().split()) == 2
    assert not (tmp_path / "augmented.jsonl").exists()
    (half,) = {path.parent for path in tmp_path.glob("cache/*/*.arrow")}
    (half / "piece-00002-of-00005.arrow.partial-1").write_text("half of a piece")
    done = processes.run(augment_worker.__file__, tmp_path)
    assert done.returncode == 0, done.output
    assert (tmp_path / "augmented.jsonl").read_text() == undisturbed
    assert len((tmp_path / "found").read_text().split()) == augment_worker.ROWS // augment_worker.ROWS_AT_ONCE
    assert not list(tmp_path.rglob("*.partial*"))


def test_two_runs_at_once_share_the_work(undisturbed, processes, tmp_path):
    for running in [processes.start(augment_worker.__file__, tmp_path) for _ in range(2)]:
        assert running.wait().returncode == 0, running.output
    assert (tmp_path / "augmented.jsonl").read_text() == undisturbed
    assert len((tmp_path / "found").read_text().split()) == augment_worker.ROWS // augment_worker.ROWS_AT_ONCE


def test_what_is_kept_belongs_to_data_and_models(augmenter, vectors, tmp_path):
    data = augment_worker.data(5)
    augmenter.map(data, cache_dir=tmp_path)
    augmenter.map(data.rename_column("label", "other"), cache_dir=tmp_path)
    TextAugmenter(word_vectors=vectors, n=9, p=0.1, seed=4).map(data, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    TextAugmenter(word_vectors=vectors, k=3).map(data, cache_dir=tmp_path)
    augmenter.map(data.select([0, 1, 2, 4, 3]), cache_dir=tmp_path)
    fewer = WordVectors(vectors.words[:-1], vectors.unit[:-1])
    TextAugmenter(word_vectors=fewer).map(data, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
