"""What models have to be loaded for: how alike their layers are, and what they answer."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from hf_tinybert import tasks
from hf_tinybert.labels import LabelOrder
from hf_tinybert.report import answers, likeness
from hf_tinybert.report.answers import Answers
from hf_tinybert.report.likeness import Likeness
from hf_tinybert.report.runs import Run
from hf_tinybert.teacher import load_teacher, load_tokenizer

logger = logging.getLogger(__name__)

#: Texts on which layers are compared.
_TEXTS = 64


def measure(
    runs: Sequence[Run], teacher_name: str, task: tasks.Task, sentence: str, use_cpu: bool = False
) -> tuple[dict[str, Likeness], dict[str, Answers]]:
    """Compare every run's student with their teacher.

    Args:
        runs: with different names.
        teacher_name: folder or Hub id.
        task: of all; where it has read held-out data, answers are compared on its test data, else on its eval data,
            and layers on the first of them; without, layers on the sentence alone.
        sentence: whose attention is shown.
        use_cpu: leave a GPU alone.

    Returns:
        name of a run -> how alike the models are; and what they answer, where texts have one label each.
    """
    teacher = load_teacher(teacher_name, task.auto).eval()
    tokenizer = load_tokenizer(teacher_name, "teacher", task.single_words)
    split = next((name for name in ("test", "eval") if name in task.splits), None)
    texts, theirs = [sentence], None
    if split is not None:
        encoded = task.encode(tokenizer, teacher.config)
        some = encoded.splits[split].select(range(min(_TEXTS, len(encoded.splits[split]))))
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in some["input_ids"]]
        if isinstance(task, tasks.TextClassification) and encoded.leading == "accuracy":
            theirs = torch.from_numpy(_logits(teacher, tokenizer, encoded, split, use_cpu))
        else:
            logger.warning("Mistakes are listed of texts with one label each; these are not.")
    alike, said = {}, {}
    for run in runs:
        student = load_teacher(run.folder, task.auto, role="student").eval()
        own = load_tokenizer(run.folder, "student", task.single_words)
        if own.get_vocab() == tokenizer.get_vocab():
            alike[run.name] = likeness.measure(student, teacher, tokenizer, texts, run.mapping, sentence)
        else:
            logger.warning(f"{run.name} reads other tokens than the teacher: their layers are not compared.")
        if theirs is None or split is None:
            continue
        order, mine = LabelOrder.between(student.config, teacher.config), task.encode(own, student.config)
        said[run.name] = answers.compare(
            _logits(student, own, mine, split, use_cpu),
            order.logits(theirs).numpy(),
            np.asarray(mine.splits[split]["labels"]),
            _texts(task, split),
            student.config.id2label,
        )
    return alike, said


def _texts(task: Any, split: str) -> list[str]:
    columns = [name for name in (task.columns.text, task.columns.pair) if name]
    return [" / ".join(str(row[name]) for name in columns) for row in task.splits[split]]


def _logits(model: Any, tokenizer: Any, encoded: tasks.Encoded, split: str, use_cpu: bool) -> np.ndarray:
    """Logits of a split, in its order."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(
            scratch, report_to="none", per_device_eval_batch_size=64, use_cpu=use_cpu, disable_tqdm=True
        )
        trainer = Trainer(model=model, args=settings, processing_class=tokenizer, data_collator=encoded.collator)
        trainer.remove_callback(PrinterCallback)
        logits: np.ndarray = trainer.predict(encoded.splits[split]).predictions
    return logits
