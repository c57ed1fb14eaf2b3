"""Variants on which a real teacher sees another label are dropped, and nothing else."""

from __future__ import annotations

import augment_worker
import factories
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hf_tinybert.augmentation import TextAugmenter, keep_labels


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    augmenter = TextAugmenter(word_vectors=augment_worker.vectors(), n=8, p=0.9)
    return augmenter.map(augment_worker.data(40), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def said(augmented, teacher_folder):
    """The number of the label that the teacher gives each row, asked one by one."""
    model, tokenizer = factories.load(teacher_folder).eval(), AutoTokenizer.from_pretrained(teacher_folder)
    with torch.no_grad():
        return [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in augmented["text"]]


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("batch_size", [3, 64])
def test_what_the_teacher_reads_otherwise_is_dropped(batch_size, augmented, said, teacher_folder):
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    kept = keep_labels(augmented, factories.load(teacher_folder), tokenizer, batch_size=batch_size)
    expected = [
        row for row, number in zip(augmented, said, strict=True) if not row["augmented"] or number == row["label"]
    ]
    assert list(kept) == expected
    dropped = len(augmented) - len(kept)
    assert 0 < dropped < len(augmented) - 40


def test_names_of_labels_and_streams(augmented, teacher_folder):
    tokenizer, teacher = AutoTokenizer.from_pretrained(teacher_folder), factories.load(teacher_folder)
    usual = list(keep_labels(augmented, teacher, tokenizer))
    names = [teacher.config.id2label[number] for number in augmented["label"]]
    named = augmented.remove_columns("label").add_column("intent", names)
    kept = keep_labels(named, teacher, tokenizer)
    assert kept["text"][:] == [row["text"] for row in usual]
    stream = keep_labels(augmented.to_iterable_dataset(), teacher, tokenizer)
    assert [row["text"] for row in stream] == [row["text"] for row in usual]


def test_what_cannot_be_filtered_is_refused(augmented, teacher_folder):
    tokenizer, teacher = AutoTokenizer.from_pretrained(teacher_folder), factories.load(teacher_folder)
    with pytest.raises(ValueError, match="no column 'augmented': augment it first"):
        keep_labels(augment_worker.data(3), teacher, tokenizer)
    with pytest.raises(ValueError, match="Name the column with the labels: there are text, id"):
        keep_labels(augmented.remove_columns("label"), teacher, tokenizer)
    other = augmented.remove_columns("label").add_column("label", [99] * len(augmented))
    with pytest.raises(ValueError, match="The label 99 is not one of the teacher's: "):
        keep_labels(other, teacher, tokenizer)
    tokens = Dataset.from_dict({"tokens": [["a", "film"]], "label": [0], "augmented": [True]})
    with pytest.raises(ValueError, match="tokens hold lists of words, whose variants cannot be filtered"):
        keep_labels(tokens, teacher, tokenizer)
    teacher.config.problem_type = "regression"
    with pytest.raises(ValueError, match=r"single-label classifier as teacher, got one with .* 'regression'"):
        keep_labels(augmented, teacher, tokenizer)
