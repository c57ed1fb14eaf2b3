from __future__ import annotations

import json

import pytest
from datasets import ClassLabel, Dataset, List
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertConfig

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.models.loading import load_tokenizer
from hf_tinybert.tasks.token_classification import TokenClassification


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
    for row, given in zip(encoded.splits["train"], ROWS, strict=True):
        words = tokenizer(given["tokens"], is_split_into_words=True).word_ids()
        pieces = [(word, label) for word, label in zip(words, row["labels"], strict=True) if label != -100]
        assert [kwargs["id2label"][label] for _, label in pieces] == given["tags"]
        assert [word for word, _ in pieces] == list(range(len(given["tokens"])))
        assert len(words) > len(pieces) + 2, "no word had several pieces"
    batch = encoded.collator([dict(row) for row in encoded.splits["train"]])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert batch["labels"].shape[1] % 8 == 0


def test_words_beyond_the_longest_input_are_cut_with_their_tags(tmp_path, tokenizer):
    task = task_of(tmp_path, ROWS, max_length=5)
    encoded = task.encode(tokenizer, BertConfig(**task.config_kwargs()))
    assert {len(row["labels"]) for row in encoded.splits["train"]} == {5}


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
