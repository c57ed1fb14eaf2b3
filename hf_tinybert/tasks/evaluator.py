"""Measures a model on a task's data: in PyTorch, ONNX Runtime or whatever answers as a transformers model does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from hf_tinybert.tasks.task import Encoded, Metric
from hf_tinybert.utils.types import Forward

_Argument: TypeAlias = int | bool | list[str]


class Evaluator:
    """A plain `Trainer` that only evaluates, and leaves nothing behind.

    Args:
        model: takes a batch and returns its outputs as a transformers model does.
        tokenizer: of the model.
        encoded: examples, collator and metrics.
        quiet: without a progress bar and without printing metrics.
        **arguments: of `TrainingArguments`, such as `use_cpu` and `per_device_eval_batch_size`.
    """

    def __init__(
        self,
        model: nn.Module | Forward,
        tokenizer: PreTrainedTokenizerBase,
        encoded: Encoded,
        quiet: bool = True,
        **arguments: _Argument,
    ) -> None:
        """Nothing is measured yet."""
        self.encoded = encoded
        self._model, self._tokenizer, self._quiet, self._arguments = model, tokenizer, quiet, arguments

    def metrics(self, split: str) -> dict[str, float]:
        """All metrics of a split, with its name as their prefix."""
        with self._trainer(self.encoded.metrics[split]) as trainer:
            metrics: dict[str, float] = trainer.evaluate(self.encoded.splits[split], metric_key_prefix=split)
        return metrics

    def score(self, split: str) -> float:
        """The leading metric of a split."""
        return float(self.metrics(split)[f"{split}_{self.encoded.leading}"])

    def logits(self, split: str) -> npt.NDArray[np.float32]:
        """Logits of a split, in the order of its rows."""
        with self._trainer(None) as trainer:
            logits: npt.NDArray[np.float32] = trainer.predict(self.encoded.splits[split]).predictions
        return logits

    @contextmanager
    def _trainer(self, compute_metrics: Metric | None) -> Iterator[Trainer]:
        with tempfile.TemporaryDirectory() as scratch:
            args = TrainingArguments(scratch, report_to="none", disable_tqdm=self._quiet, **self._arguments)
            trainer = Trainer(
                model=self._model,
                args=args,
                processing_class=self._tokenizer,
                data_collator=self.encoded.collator,
                compute_metrics=compute_metrics,
                preprocess_logits_for_metrics=self.encoded.preprocess,
            )
            if self._quiet:
                trainer.remove_callback(PrinterCallback)
            yield trainer
