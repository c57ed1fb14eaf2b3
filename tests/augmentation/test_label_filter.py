"""Variants on which a real teacher sees another label are dropped, and nothing else."""

from __future__ import annotations

import copy
import itertools

import augment_worker
import factories
import pytest
import torch
from datasets import ClassLabel, Dataset
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


def renamed(model, names):
    """The same classifier, whose classes stand in the order of their names, by which it counts them."""
    order = sorted(range(len(names)), key=lambda index: names[index])
    found = copy.deepcopy(model)
    with torch.no_grad():
        found.classifier.weight.copy_(model.classifier.weight[order])
        found.classifier.bias.copy_(model.classifier.bias[order])
    found.config.id2label = {place: names[index] for place, index in enumerate(order)}
    found.config.label2id = {name: place for place, name in found.config.id2label.items()}
    return found


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
@pytest.mark.parametrize("kind", ["names", "whole numbers", "one to three", "stars", "class labels", "texts"])
def test_the_order_in_which_a_teacher_counts_its_labels_changes_nothing(kind, order, augmented, teacher_folder):
    """Three classes are enough to see a cycle; the others keep their places."""
    teacher, tokenizer = factories.load(teacher_folder), AutoTokenizer.from_pretrained(teacher_folder)
    usual = keep_labels(augmented, teacher, tokenizer)["text"][:]
    count = teacher.config.num_labels
    words = [teacher.config.id2label[index] for index in range(count)]
    numbers = list(range(count))
    labels = augmented["label"]
    data = augmented.remove_columns("label")
    places = [*order, *range(3, count)]
    shuffled = [chr(ord("a") + place) for place in places]  # sorted, they bring the classes into this order
    names = [f"{prefix} {word}" for prefix, word in zip(shuffled, words, strict=True)]
    if kind == "names":
        values, spelled = [names[label] for label in labels], names
    elif kind == "class labels":
        values, spelled = list(labels), names
    else:
        first = 0 if kind == "whole numbers" else 1
        spelled = [f"{shuffled[n]}: {n + first}" for n in numbers]
        if kind == "stars":
            spelled = [f"{shuffled[n]}: {n + first} stars" for n in numbers]
        values = [label + first for label in labels]
    data = data.add_column("label", [str(value) for value in values] if kind == "texts" else values)
    if kind == "class labels":
        data = data.cast_column("label", ClassLabel(names=names))
    assert keep_labels(data, renamed(teacher, spelled), tokenizer)["text"][:] == usual


def test_what_cannot_be_filtered_is_refused(augmented, teacher_folder):
    tokenizer, teacher = AutoTokenizer.from_pretrained(teacher_folder), factories.load(teacher_folder)
    with pytest.raises(ValueError, match="no column 'augmented': augment it first"):
        keep_labels(augment_worker.data(3), teacher, tokenizer)
    with pytest.raises(ValueError, match="Name the column with the labels: there are text, id"):
        keep_labels(augmented.remove_columns("label"), teacher, tokenizer)
    other = augmented.remove_columns("label").add_column("label", [99] * len(augmented))
    with pytest.raises(ValueError, match="was not trained for: 99"):
        keep_labels(other, teacher, tokenizer)
    tokens = Dataset.from_dict({"tokens": [["a", "film"]], "label": [0], "augmented": [True]})
    with pytest.raises(ValueError, match="tokens hold lists of words, whose variants cannot be filtered"):
        keep_labels(tokens, teacher, tokenizer)
    teacher.config.problem_type = "regression"
    with pytest.raises(ValueError, match=r"single-label classifier as teacher, got one with .* 'regression'"):
        keep_labels(augmented, teacher, tokenizer)
