"""A plain Trainer that only measures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from hf_tinybert.tasks.task import Encoded


@contextmanager
def measuring(
    model: Any, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, quiet: bool = True, **settings: Any
) -> Iterator[Trainer]:
    """Yield a `Trainer` whose `evaluate` and `predict` are wanted; its folder is gone afterwards.

    Args:
        model: anything that answers as a transformers model does.
        tokenizer: of the model.
        encoded: examples, collator and metrics.
        quiet: no progress bar, and what is measured is not printed.
        **settings: of `TrainingArguments`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        args = TrainingArguments(scratch, report_to="none", disable_tqdm=quiet, **settings)
        trainer = Trainer(model=model, args=args, processing_class=tokenizer, **encoded.trainer_arguments())
        if quiet:
            trainer.remove_callback(PrinterCallback)
        yield trainer
