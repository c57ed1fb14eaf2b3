"""What models have to be loaded for: how alike their layers are, and what they answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from hf_tinybert import tasks
from hf_tinybert.data import loading
from hf_tinybert.data.demo import demo_requests
from hf_tinybert.evaluation import error_analysis, layer_similarity
from hf_tinybert.evaluation.error_analysis import Answers
from hf_tinybert.evaluation.layer_similarity import LayerSimilarity
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import load_model, load_tokenizer
from hf_tinybert.report.runs import Run

logger = logging.getLogger(__name__)

#: Examples on which layers are compared; without data, requests of the demo, of so many tokens at most.
_ROWS, _LENGTH = 64, 64


def measure(
    runs: Sequence[Run],
    teacher_name: str,
    task: tasks.Task | None,
    sentence: str,
    mistakes: int,
    use_cpu: bool = False,
) -> tuple[dict[str, LayerSimilarity], dict[str, Answers]]:
    """Compare every run's student with their teacher.

    Args:
        runs: with different names.
        teacher_name: folder or Hub id.
        task: of all, with the held-out data that were read for it: answers are compared on its test data, else on its
            eval data, and layers on the first of them. None: layers alone, on the requests of the demo.
        sentence: whose attention is shown.
        mistakes: of a student alone, to list at most.
        use_cpu: leave a GPU alone.

    Returns:
        name of a run -> how alike the models are; and what they answer, where texts have one label each.

    Raises:
        ValueError: the models do not fit together, or the data not to them.
    """
    auto = transformers.AutoModel if task is None else task.auto
    kwargs = {"dtype": torch.float32}
    teacher = load_model(teacher_name, auto, kwargs).eval()
    tokenizer = load_tokenizer(teacher_name, "teacher", task is not None and task.single_words)
    theirs, split = None, None
    if task is None:
        rows: Any = [dict(tokenizer(text, truncation=True, max_length=_LENGTH)) for text in demo_requests()]
    else:
        loading.check_max_length(task.args.max_length, Encoder.from_model(teacher).max_length, "the teacher")
        split = next(name for name in ("test", "eval") if name in task.splits)
        encoded = task.encode(tokenizer, teacher.config)
        rows = list(encoded.splits[split].select(range(min(_ROWS, len(encoded.splits[split])))))
        if isinstance(task, tasks.TextClassification) and encoded.leading == "accuracy":
            theirs = torch.from_numpy(_logits(teacher, tokenizer, encoded, split, use_cpu))
        else:
            logger.warning("Mistakes are listed of texts with one label each; these are not.")
    alike, said = {}, {}
    for run in runs:
        student = load_model(run.folder, auto, kwargs, role="student").eval()
        own = load_tokenizer(run.folder, "student", task is not None and task.single_words)
        _check(run, student, teacher, max(len(row["input_ids"]) for row in rows))
        if own.get_vocab() == tokenizer.get_vocab():
            alike[run.name] = layer_similarity.measure(student, teacher, tokenizer, rows, run.mapping, sentence)
        else:
            logger.warning(f"{run.name} reads other tokens than the teacher: their layers are not compared.")
        if theirs is None or split is None or task is None:
            continue
        order, mine = LabelAlignment.from_configs(student.config, teacher.config), task.encode(own, student.config)
        said[run.name] = error_analysis.compare(
            _logits(student, own, mine, split, use_cpu),
            order.logits(theirs).numpy(),
            np.asarray(mine.splits[split]["labels"]),
            _texts(task, split),
            student.config.id2label,
            mistakes,
        )
    return alike, said


def _check(run: Run, student: Any, teacher: Any, longest: int) -> None:
    """Refuse a run of another teacher, and examples that a student cannot read.

    Raises:
        ValueError: says which.
    """
    loading.check_max_length(longest, Encoder.from_model(student).max_length, f"the student {run.name}")
    deepest, layers = max(run.mapping.values() if run.mapping else [0]), Encoder.from_model(teacher).num_layers
    if deepest > layers:
        raise ValueError(
            f"{run.name} learnt from a teacher with at least {deepest} layers; the one that --teacher names has "
            f"{layers}."
        )


def _texts(task: Any, split: str) -> list[str]:
    columns = [name for name in (task.columns.text, task.columns.pair) if name]
    return [" / ".join(str(row[name]) for name in columns) for row in task.splits[split]]


def _logits(model: Any, tokenizer: Any, encoded: tasks.Encoded, split: str, use_cpu: bool) -> np.ndarray:
    """Logits of a split, in its order."""
    with tasks.measuring(model, tokenizer, encoded, per_device_eval_batch_size=64, use_cpu=use_cpu) as trainer:
        trainer.compute_metrics = None
        logits: np.ndarray = trainer.predict(encoded.splits[split]).predictions
    return logits
