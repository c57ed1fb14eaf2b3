from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import BertConfig, EvalPrediction

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.tasks.feature_extraction import FeatureExtraction

PAIRS = [
    {"sentence1": "a lamp", "sentence2": "a light", "score": 4.5},
    {"sentence1": "a lamp", "sentence2": "a cat", "score": 0},
    {"sentence1": "rain", "sentence2": "snow", "score": 2.5},
]


def task_of(tmp_path, train, held_out, **changes):
    paths = {}
    for split, rows in {"train_file": train, "eval_file": held_out}.items():
        paths[split] = tmp_path / f"{split}.jsonl"
        paths[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = FeatureExtraction(
        DataArguments(**{name: str(path) for name, path in paths.items()}, **changes), training=True
    )
    return task


def test_pairs_teach_text_by_text_and_are_ranked(tmp_path, tokenizer):
    encoded = task_of(tmp_path, PAIRS, PAIRS).encode(tokenizer, BertConfig())
    assert encoded.leading == "spearman"
    assert encoded.splits["train"]["input_ids"] == [
        tokenizer(text)["input_ids"] for text in ("a lamp", "a light", "a cat", "rain", "snow")
    ]
    assert len(encoded.splits["eval"]) == 6
    assert "labels" not in encoded.splits["eval"].column_names
    angles = np.array([0.0, 0.1, 0.0, 3.0, 0.0, 1.0])  # cosines fall as scores do
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    measured = encoded.metrics["eval"](EvalPrediction(predictions=vectors, label_ids=vectors))
    assert measured == {"spearman": pytest.approx(1.0, abs=1e-4)}


def test_texts_alone_are_compared_with_the_teachers(tmp_path, tokenizer):
    rows = [{"text": "a lamp"}, {"text": "rain"}]
    encoded = task_of(tmp_path, rows, rows).encode(tokenizer, BertConfig())
    assert encoded.leading == "cosine"
    vectors = np.eye(2)
    measured = encoded.metrics["eval"](EvalPrediction(predictions=vectors, label_ids=vectors[::-1].copy()))
    assert measured == {"cosine": pytest.approx(0.0)}


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ([{"sentence1": "a", "sentence2": "b", "score": "good"}], "column 'score' holds a value that is no number"),
        ([{"sentence1": "a"}], "The eval data has no column 'sentence2'"),
        ([{"sentence1": "a", "sentence2": None, "score": 1}], "row 1: there is no text in the column"),
    ],
)
def test_what_cannot_be_is_refused(held_out, message, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=message):
        task_of(tmp_path, PAIRS, held_out).encode(tokenizer, BertConfig())
