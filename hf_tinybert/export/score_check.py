"""Measures exported files on a task's data, and refuses those that lose too much."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert import tasks
from hf_tinybert.data.loading import check_max_length
from hf_tinybert.export.session import ExportedModel
from hf_tinybert.models.architectures import Encoder


class ScoreCheck:
    """A `check` for `export_onnx`: the leading metric of every file on held-out data.

    Args:
        model: the student, in float32.
        tokenizer: of the student.
        task: with its data read; files are measured on its eval data, else on its test data.
        max_drop: how much of the metric, from 0 to 1, a file may lose.
        report: is called with a line of text for each score.

    Attributes:
        split: on which files are measured; None where the task has no held-out data.
        reference: the score of the student in PyTorch.

    Raises:
        ValueError: the task has no labels to measure on, or its inputs are too long for the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: tasks.Task,
        max_drop: float = 0.01,
        report: Callable[[str], None] = print,
    ) -> None:
        """Encode the data and measure the student in PyTorch."""
        if isinstance(task, tasks.FeatureExtraction):
            raise ValueError("Vectors are not measured here: leave out the data, or compare them in your own script.")
        check_max_length(task.args.max_length, Encoder.from_model(model).max_length, "the model")
        spans = isinstance(task, tasks.QuestionAnswering)
        self._labels = ["start_positions", "end_positions"] if spans else ["labels"]
        self._max_drop = max_drop * (100 if spans else 1)  # SQuAD's metrics are in hundredths
        self._tokenizer, self._report = tokenizer, report
        self.encoded = task.encode(tokenizer, model.config)
        self.split = next((name for name in self.encoded.splits if name != "train"), None)
        self.reference = 0.0 if self.split is None else self._score(model, self.split, "PyTorch")

    def __call__(self, kind: str, exported: ExportedModel) -> dict[str, float]:
        """Measure one file; its score, by the name of metric and split.

        Raises:
            ValueError: it loses more than `max_drop`.
        """
        if self.split is None:
            return {}
        name = exported.path.name
        score = self._score(exported, self.split, name)
        lost = self.reference - score
        if not lost <= self._max_drop:
            raise ValueError(
                f"{name} has lost {lost:.4f} of {self.encoded.leading}, more than --max-drop allows "
                f"({self._max_drop:g}): nothing was written."
            )
        return {f"{self.encoded.leading} ({self.split})": score}

    def _score(self, model: ExportedModel | nn.Module, split: str, name: str) -> float:
        evaluator = tasks.Evaluator(model, self._tokenizer, self.encoded, use_cpu=True, label_names=self._labels)
        score = evaluator.score(split)
        self._report(f"{split} {self.encoded.leading}: {score:.4f} in {name}")
        return score
