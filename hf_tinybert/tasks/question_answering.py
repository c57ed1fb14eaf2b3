"""Extractive question answering: the span of a text that answers a question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict, Features, List, Value, concatenate_datasets

from hf_tinybert.data import column_names, loading
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.tasks.task import Encoded, LazyAutoClass, Metric, Task, View
from hf_tinybert.utils.types import Columns

if TYPE_CHECKING:  # data are read without models
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedTokenizerBase

#: Candidates for the start and for the end of a span, and the longest answer in tokens.
_BEST, _LONGEST = 20, 30

#: The column of answers, and usual names of a column of their texts beside one of their starts.
_ANSWERS = "answers"
_FLAT_TEXTS = ("answer_text", "answer")
_ANSWERS_OF_A_ROW = {"text": List(Value("string")), "answer_start": List(Value("int64"))}


class _Answers(TypedDict):
    """Texts of the right answers, and the character of the context at which each begins."""

    text: list[str]
    answer_start: list[int]


class QuestionAnswering(Task):
    """Rows as SQuAD's: `question`, `context`, and `answers` with lists `text` and `answer_start` (in characters).

    One text and start may stand without lists, or in columns `answer_text` and `answer_start`.

    A text that is longer than the model's input is read in windows that overlap by `--doc-stride` tokens. A row
    without answers is a question that the text does not answer; the first token stands for that.
    """

    auto = LazyAutoClass("AutoModelForQuestionAnswering")

    def _check(self, splits: DatasetDict) -> DatasetDict:
        first, source = self.first(splits)
        self.question = pick_column(first, self.args.text_column, ("question",), "question", "--text-column", source)
        self.context = pick_column(
            first, self.args.text_pair_column, ("context",), "context", "--text-pair-column", source
        )
        flat = self.args.label_column is None and "answers" not in first.column_names
        self.texts = column_names.first(first.column_names, _FLAT_TEXTS) if flat else None
        usual = ("answer_start",) if self.texts else ("answers",)
        self.answers = pick_column(first, self.args.label_column, usual, "answers", "--label-column", source)
        return DatasetDict({name: self._read(name, dataset) for name, dataset in splits.items()})

    def _read(self, name: str, dataset: Dataset) -> Dataset:
        """A split whose answers are lists of texts and starts."""
        loading.require_columns(name, dataset, filter(None, (self.question, self.context, self.answers, self.texts)))
        invalid = self.invalid_rows(name)
        dataset, rows = loading.with_texts(dataset, [self.question, self.context], invalid)
        contexts, given = list(dataset[self.context]), list(dataset[self.answers])
        if self.texts:
            given = [
                {"text": text, "answer_start": start} for text, start in zip(dataset[self.texts], given, strict=True)
            ]
        valid, found = [], []
        for row in rows:
            answers = _normalised(given[row])
            why = _why_no_answers(contexts[row], answers)
            if why is not None:
                invalid.found(f"row {row + 1}", why)
            else:
                valid.append(row)
                found.append(answers)
        invalid.say()
        kept = loading.only(dataset, valid).select_columns([self.question, self.context])
        of_rows = Dataset.from_dict({_ANSWERS: found}, Features({_ANSWERS: _ANSWERS_OF_A_ROW}))
        return concatenate_datasets([kept, of_rows], axis=1)

    def view(self, split: str) -> View:
        """Questions, contexts and first answers of a split."""
        dataset = self.splits[split]
        answers = [answer["text"][0] if answer["text"] else "no answer" for answer in dataset[_ANSWERS]]
        texts = list(zip(dataset[self.question], dataset[self.context], strict=True))
        columns = [("question", self.question), ("context", self.context), ("answers", self.texts or self.answers)]
        return View("an answer in the text", columns, texts, answers, in_windows=True)

    def config_kwargs(self) -> dict[str, object]:
        """Nothing: every model has a start and an end."""
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Windows of question and context, and where the answer starts and ends in each."""
        if not tokenizer.is_fast:
            raise ValueError("Question answering needs a fast tokenizer, which gives the offsets of its tokens.")
        metrics.check_answers()
        stride, length = self.args.doc_stride, self.args.max_length
        longest = max(
            len(ids)
            for dataset in self.examples.values()
            for ids in tokenizer(list(dataset[self.question]), add_special_tokens=True)["input_ids"]
        )
        if longest + stride >= length:
            raise ValueError(
                f"--max-length {length} leaves no room for the text beside a question of {longest} tokens and a "
                f"--doc-stride of {stride}: raise the one or lower the other."
            )
        encoded, measures = DatasetDict(), {}
        for name, dataset in self.examples.items():
            windows = _windows(dataset, tokenizer, (self.question, self.context, _ANSWERS), length, stride)
            measures[name] = metric_of(dataset, windows, self.context, _ANSWERS)
            encoded[name] = windows.remove_columns(["row", "offsets"])
        return Encoded(encoded, loading.collator(tokenizer), "f1", measures)


def metric_of(dataset: Dataset, windows: Dataset, context: str, answers: str) -> Metric:
    """SQuAD's exact match and F1, in percent, of the best span over all windows of a row."""
    rows, offsets = windows["row"], windows["offsets"]
    contexts, gold = dataset[context], dataset[answers]
    unanswered = any(not answer["text"] for answer in gold)

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        starts, ends = prediction.predictions[:2]
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(contexts)
        nothing = [np.inf] * len(contexts)
        for window, row in enumerate(rows):
            spans = offsets[window]
            start, end = (np.asarray(x[window][: len(spans)], dtype=np.float64) for x in (starts, ends))
            nothing[row] = min(nothing[row], start[0] + end[0])
            score, span = best_span(start, end, spans)
            if span is not None and score > best[row][0]:
                best[row] = score, contexts[row][span[0] : span[1]]
        chosen = ["" if unanswered and nothing[row] > score else text for row, (score, text) in enumerate(best)]
        return metrics.answers(chosen, [list(answer["text"]) for answer in gold])

    return measure


def best_span(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], offsets: Sequence[Sequence[int]]
) -> tuple[float, tuple[int, int] | None]:
    """The score and the characters of the most likely span of context tokens.

    Args:
        start: logits of the window's tokens.
        end: the same.
        offsets: for each token its characters (from, to) in the context; (-1, -1) for a token of the question.
    """
    inside = np.asarray([offset[0] >= 0 for offset in offsets])
    score, span = -np.inf, None
    firsts, lasts = (np.argsort(np.where(inside, x, -np.inf))[::-1][:_BEST] for x in (start, end))
    for first in firsts:
        for last in lasts:
            if (
                inside[first]
                and inside[last]
                and first <= last < first + _LONGEST
                and start[first] + end[last] > score
            ):
                score, span = float(start[first] + end[last]), (offsets[first][0], offsets[last][1])
    return score, span


def _windows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, columns: tuple[str, str, str], length: int, stride: int
) -> Dataset:
    question, context, answers = columns

    def tokenize(batch: Columns, numbers: list[int]) -> Columns:
        windows = tokenizer(
            [str(text).lstrip() for text in batch[question]],
            batch[context],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        of_row, mapping = windows.pop("overflow_to_sample_mapping"), windows.pop("offset_mapping")
        offsets = [
            [
                list(offset) if part == 1 else [-1, -1]
                for offset, part in zip(of_window, windows.sequence_ids(number), strict=True)
            ]
            for number, of_window in enumerate(mapping)
        ]
        spans = [_span(offsets[number], batch[answers][row]) for number, row in enumerate(of_row)]
        return {
            **windows,
            "start_positions": [first for first, _ in spans],
            "end_positions": [last for _, last in spans],
            "row": [numbers[row] for row in of_row],
            "offsets": offsets,
        }

    return dataset.map(
        tokenize, batched=True, with_indices=True, remove_columns=dataset.column_names, desc="Tokenising windows"
    )


def _span(offsets: list[list[int]], answers: _Answers) -> tuple[int, int]:
    """First and last token of the first answer in a window, (0, 0) where it is not wholly inside."""
    if not answers["text"]:
        return 0, 0
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    first = next((i for i, (a, b) in enumerate(offsets) if a <= start < b), None)
    last = next((i for i, (a, b) in enumerate(offsets) if a < end <= b), None)
    return (0, 0) if first is None or last is None else (first, last)


def _normalised(given: object) -> _Answers | None:
    """A row's answers as lists of texts and starts, empty where there is no answer; None for anything else."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return None
    if given is None:
        return {"text": [], "answer_start": []}
    if not isinstance(given, dict) or not given.keys() >= {"text", "answer_start"}:
        return None
    texts, starts = (value if isinstance(value, list) else [value] for value in (given["text"], given["answer_start"]))
    there = [(text, start) for text, start in zip_longest(texts, starts) if text not in (None, "")]
    try:
        return {"text": [str(text) for text, _ in there], "answer_start": [int(start) for _, start in there]}
    except (TypeError, ValueError):
        return None


def _why_no_answers(context: str, answers: _Answers | None) -> str | None:
    """Why answers cannot be used; None where they can."""
    if answers is None:
        return "it is not as in SQuAD: answers must be {'text': [...], 'answer_start': [...]}, starts in characters"
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        if context[start : start + len(text)] != text:
            return f"its answer {text!r} does not stand at character {start} (answer_start, from 0) of its context"
    return None
