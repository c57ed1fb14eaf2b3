from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_tinybert import metrics


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


def test_the_leading_metric_of_a_task():
    assert metrics.for_task(True) == ("pearson", metrics.pearson)
    assert metrics.for_task(False) == ("accuracy", metrics.accuracy)
