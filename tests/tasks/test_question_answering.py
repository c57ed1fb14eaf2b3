from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, EvalPrediction

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.tasks.question_answering import QuestionAnswering, best_span

CONTEXT = (
    "The bridge was opened in 1976 by the mayor. It spans the river near the old mill, and thousands of people cross "
    "it every day on their way to the market, the school, and the harbour, where the ferries leave for the islands."
)


def answer(text):
    return {"text": [text], "answer_start": [CONTEXT.index(text)]}


ROWS = [
    {"question": "When was the bridge opened?", "context": CONTEXT, "answers": answer("1976")},
    {"question": "  Where do the ferries leave for?", "context": CONTEXT, "answers": answer("the islands")},
    {"question": "Who sank it?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]


def encoded(tmp_path, tokenizer, rows=ROWS, **changes):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = QuestionAnswering(
        DataArguments(train_file=str(path), **{"max_length": 40, "doc_stride": 8} | changes), training=True
    )
    return task.encode(tokenizer, BertConfig())


def test_long_texts_are_read_in_windows_that_overlap(tmp_path, tokenizer):
    result = encoded(tmp_path, tokenizer)
    windows = result.splits["train"]
    assert len(windows) >= 2 * len(ROWS)
    assert set(windows.column_names) == {*tokenizer.model_input_names, "start_positions", "end_positions"}
    assert max(map(len, windows["input_ids"])) == 40
    found = {}
    for row in windows:
        start, end = row["start_positions"], row["end_positions"]
        if (start, end) != (0, 0):
            found.setdefault(tokenizer.decode(row["input_ids"][start : end + 1]), []).append(start)
    assert set(found) == {"1976", "the islands"}
    whole = encoded(tmp_path, tokenizer, max_length=128).splits["train"]
    assert len(whole) == len(ROWS)
    assert [row["start_positions"] > 0 for row in whole] == [True, True, False]


def test_the_best_span_over_all_windows_is_the_answer(tmp_path, tokenizer):
    """Logits that are high at the gold positions of each window, and nowhere else."""
    result = encoded(tmp_path, tokenizer)
    windows = result.splits["train"]
    starts, ends = np.full((2, len(windows), 40), -5.0)
    for number, row in enumerate(windows):
        starts[number, row["start_positions"]] = ends[number, row["end_positions"]] = 5.0
    perfect = EvalPrediction(predictions=(starts, ends), label_ids=None)
    assert result.metrics["train"](perfect) == {"exact_match": 100.0, "f1": 100.0}
    nothing = EvalPrediction(predictions=(np.zeros_like(starts), np.zeros_like(ends)), label_ids=None)
    assert result.metrics["train"](nothing)["exact_match"] < 100.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 999))
def test_the_best_span_is_found_by_trying_all(length, seed):
    source = np.random.default_rng(seed)
    start, end = source.normal(size=(2, length))
    places = [(i * 3, i * 3 + 2) if source.random() < 0.7 else (-1, -1) for i in range(length)]
    score, span = best_span(start, end, places)
    tried = [
        (start[i] + end[j], (places[i][0], places[j][1]))
        for i in range(length)
        for j in range(i, length)
        if places[i][0] >= 0 and places[j][0] >= 0
    ]
    assert (score, span) == (max(tried) if tried else (-np.inf, None))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "context": "t", "answers": {"text": ["x"], "answer_start": [0]}}, "row 1: its answer 'x'"),
        ({"question": "q", "context": "t", "answers": {"text": ["t"]}}, "row 1: it is not as in SQuAD"),
    ],
)
def test_rows_that_are_not_as_in_squad(row, message, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=message):
        encoded(tmp_path, tokenizer, [row])


def test_a_question_that_fills_the_window(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"--max-length 40 leaves no room.*--doc-stride of 36"):
        encoded(tmp_path, tokenizer, doc_stride=36)
