"""Measurements that need the models: similarity of their layers, correct predictions and mistakes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

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

#: Number of examples on which layers are compared, and maximum tokens of the demo's requests, used without data.
_ROWS, _LENGTH = 64, 64


def measure(
    runs: Sequence[Run],
    teacher_name: str,
    task: tasks.Task | None,
    sentence: str,
    mistakes: int,
    use_cpu: bool = False,
) -> tuple[dict[str, LayerSimilarity], dict[str, Answers]]:
    """Compare the student of every run with the runs' teacher.

    Args:
        runs: with different names.
        teacher_name: folder or Hub id.
        task: of all models, with its held-out data: predictions are compared on the test split, or else on the eval
            split, and layers on its first examples. None: only layers are compared, on the demo's requests.
        sentence: input of the attention maps.
        mistakes: maximum number of listed mistakes of each student.
        use_cpu: run on the CPU even if a GPU is available.

    Returns:
        name of a run -> similarity of the layers; and name of a run -> comparison of the predictions, for
        single-label classification of texts.

    Raises:
        ValueError: models or data do not fit together.
    """
    auto = transformers.AutoModel if task is None else task.auto
    kwargs = {"dtype": torch.float32}
    teacher = load_model(teacher_name, auto, kwargs).eval()
    tokenizer = load_tokenizer(teacher_name, "teacher", task is not None and task.single_words)
    classification, teacher_logits, split = None, None, ""
    rows: Sequence[Mapping[str, Sequence[int]]]
    if task is None:
        rows = [dict(tokenizer(text, truncation=True, max_length=_LENGTH)) for text in demo_requests()]
    else:
        loading.check_max_length(task.args.max_length, Encoder.from_model(teacher).max_length, "the teacher")
        split = next(name for name in ("test", "eval") if name in task.splits)
        encoded = task.encode(tokenizer, teacher.config)
        rows = list(encoded.splits[split].select(range(min(_ROWS, len(encoded.splits[split])))))
        if isinstance(task, tasks.TextClassification) and encoded.leading == "accuracy":
            evaluator = tasks.Evaluator(teacher, tokenizer, encoded, per_device_eval_batch_size=64, use_cpu=use_cpu)
            classification, teacher_logits = task, torch.from_numpy(evaluator.logits(split))
        else:
            logger.warning("Predictions are compared for single-label text classification only, not for this task.")
    similarities, answers = {}, {}
    for run in runs:
        student = load_model(run.folder, auto, kwargs, role="student").eval()
        student_tokenizer = load_tokenizer(run.folder, "student", task is not None and task.single_words)
        _check(run, student, teacher, max(len(row["input_ids"]) for row in rows))
        if student_tokenizer.get_vocab() == tokenizer.get_vocab():
            similarities[run.name] = layer_similarity.measure(student, teacher, tokenizer, rows, run.mapping, sentence)
        else:
            logger.warning(f"{run.name} has another vocabulary than the teacher: its layers are not compared.")
        if classification is None or teacher_logits is None:
            continue
        alignment = LabelAlignment.from_configs(student.config, teacher.config)
        encoded = classification.encode(student_tokenizer, student.config)
        evaluator = tasks.Evaluator(
            student, student_tokenizer, encoded, per_device_eval_batch_size=64, use_cpu=use_cpu
        )
        answers[run.name] = error_analysis.compare(
            evaluator.logits(split),
            alignment.logits(teacher_logits).numpy(),
            np.asarray(encoded.splits[split]["labels"]),
            _texts(classification, split),
            student.config.id2label,
            mistakes,
        )
    return similarities, answers


def _check(run: Run, student: PreTrainedModel, teacher: PreTrainedModel, longest: int) -> None:
    """Refuse a run of another teacher, and examples that are longer than the student's maximum length.

    Raises:
        ValueError: the message says which.
    """
    loading.check_max_length(longest, Encoder.from_model(student).max_length, f"the student {run.name}")
    deepest, layers = max(run.mapping.values() if run.mapping else [0]), Encoder.from_model(teacher).num_layers
    if deepest > layers:
        raise ValueError(
            f"{run.name} learnt from a teacher with at least {deepest} layers; the one that --teacher names has "
            f"{layers}."
        )


def _texts(task: tasks.TextClassification, split: str) -> list[str]:
    columns = [name for name in (task.columns.text, task.columns.pair) if name]
    return [" / ".join(str(row[name]) for name in columns) for row in task.splits[split]]
