from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from transformers import EvalPrediction

from hf_tinybert.evaluation import metrics


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 999), st.booleans())
def test_accuracy_counts_the_most_likely_classes(rows, classes, seed, as_tuple):
    source = np.random.default_rng(seed)
    logits, labels = source.normal(size=(rows, classes)), source.integers(0, classes, rows)
    predictions = (logits, np.zeros((rows, 3, 4))) if as_tuple else logits
    right = sum(max(range(classes), key=lambda c: row[c]) == y for row, y in zip(logits, labels, strict=True))
    found = metrics.accuracy(EvalPrediction(predictions=predictions, label_ids=labels))
    assert found == {"accuracy": pytest.approx(right / rows)}


@pytest.mark.parametrize("column", [True, False])
def test_pearson_and_squared_error(column):
    values, gold = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 2.0, 4.0, 4.0])
    predictions = values[:, None] if column else values
    found = metrics.pearson(EvalPrediction(predictions=predictions, label_ids=gold))
    a, b = values - values.mean(), gold - gold.mean()
    assert found == pytest.approx({"pearson": (a @ b) / np.sqrt((a @ a) * (b @ b)), "mse": 0.75})
    same = metrics.pearson(EvalPrediction(predictions=-2 * predictions, label_ids=values))
    assert same["pearson"] == pytest.approx(-1.0)


def test_several_labels():
    logits = np.array([[1.0, -1.0, 2.0, -3.0], [-1.0, 1.0, -1.0, -3.0], [-1.0, -1.0, 1.0, -3.0]])
    gold = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    found = metrics.several_labels(EvalPrediction(predictions=logits, label_ids=gold))
    # chosen: 0 and 2; 1; 2. Right 3, too many 1, missed 1. By class: 1, 0 and 1; the fourth never occurs.
    assert found == pytest.approx({"f1": 6 / 8, "f1_macro": 2 / 3, "accuracy": 1 / 3})


def test_vectors_against_the_teachers_and_in_pairs():
    source = np.random.default_rng(0)
    ours, theirs = source.normal(size=(2, 6, 4))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True)]
    found = metrics.vector_cosine(EvalPrediction(predictions=ours, label_ids=theirs))
    assert found == pytest.approx({"cosine": np.mean(cosines)})
    scores = [3.0, 1.0, 1.0]
    of_pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(ours[::2], ours[1::2], strict=True)]
    found = metrics.vector_ranking(EvalPrediction(predictions=ours, label_ids=theirs), scores)
    assert found == pytest.approx({"spearman": spearmanr(of_pairs, scores).statistic}, abs=1e-4)


def test_tags_count_whole_entities():
    names = ["O", "B-person", "I-person", "B-group"]
    gold = np.array([[1, 2, 0, -100], [0, 3, 0, 0]])
    chosen = np.array([[1, 2, 0, 3], [0, 3, 1, 0]])
    assert metrics.tags(chosen, gold, names) == pytest.approx(
        {"accuracy": 6 / 7, "precision": 2 / 3, "recall": 1.0, "f1": 0.8}
    )
    half = np.array([[1, 0, 0, 0], [0, 3, 0, 0]])
    assert metrics.tags(half, gold, names)["recall"] == pytest.approx(0.5)
    assert metrics.tags(chosen, gold, ["DET", "NOUN", "VERB", "ADJ"]) == pytest.approx({"accuracy": 6 / 7})


def test_answers_as_squad_counts_them():
    found = metrics.answers(["the year 1976", "", "Denver"], [["1976", "in 1976"], [], ["Denver."]])
    # the words "year 1976" against "1976": precision a half, recall one
    assert found == pytest.approx({"exact_match": 200 / 3, "f1": 100 * (2 / 3 + 1 + 1) / 3})


def without(monkeypatch, package):
    """As where a package is not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))


@pytest.mark.parametrize(
    ("package", "check", "message"),
    [
        ("sklearn", lambda: metrics.for_labels(False, True), "The F1 of several labels needs sklearn: pip install"),
        ("seqeval", lambda: metrics.check_tags(["O", "B-person"]), "The F1 of entities needs seqeval: pip install"),
        ("torchmetrics", metrics.check_answers, "The F1 of answers needs torchmetrics: pip install"),
        ("torchmetrics", metrics.check_ranking, "Spearman's rank correlation needs torchmetrics: pip install"),
    ],
)
def test_a_metric_without_its_package_is_refused_early(monkeypatch, package, check, message):
    check()
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=message):
        check()


def test_metrics_that_need_no_package_are_not_refused(monkeypatch):
    without(monkeypatch, "sklearn")
    without(monkeypatch, "seqeval")
    assert metrics.for_labels(True, True) == ("pearson", metrics.pearson)
    assert metrics.for_labels(False, False) == ("accuracy", metrics.accuracy)
    metrics.check_tags(["DET", "NOUN"])


def test_the_leading_metric_of_labels():
    assert metrics.for_labels(True, False) == ("pearson", metrics.pearson)
    assert metrics.for_labels(False, False) == ("accuracy", metrics.accuracy)
    assert metrics.for_labels(False, True) == ("f1", metrics.several_labels)
