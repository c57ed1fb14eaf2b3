"""The teachers of a trainer: loaded, frozen, weighted."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.models import peft, sentence_transformers_files
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import auto_class, check_tokenizer, freeze, load_model, saved_class
from hf_tinybert.models.output_types import VECTORS, output_type
from hf_tinybert.teacher import inputs as columns
from hf_tinybert.teacher.source import OnlineTeacher, TeacherEnsemble
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils.types import Autocast, AutoClass, Batch

Teacher: TypeAlias = PreTrainedModel | str | os.PathLike

_DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def as_list(teacher: Teacher | Sequence[Teacher] | None) -> list[Teacher]:
    """One teacher, or several, as a list.

    Raises:
        ValueError: there is none.
    """
    if teacher is None or (isinstance(teacher, Sequence) and not len(teacher)):
        raise ValueError("DistillationTrainer needs a teacher: a model, a folder or a Hub id.")
    if isinstance(teacher, Teacher) or peft.has_adapter(teacher):
        return [teacher]
    return list(teacher)


def load_teachers(
    teachers: Sequence[Teacher],
    student: PreTrainedModel | None,
    tokenizer: object,
    init_kwargs: Mapping[str, object] | None,
) -> list[PreTrainedModel]:
    """The teachers as models: loaded where names are given, adapters merged into copies.

    Args:
        teachers: models or names.
        student: its Auto class loads the names; without a student, the Auto class of the first teacher's checkpoint.
        tokenizer: that makes the teacher's token ids, if there is one.
        init_kwargs: of `from_pretrained`, for names.

    Raises:
        ValueError: a folder holds no such model, or another tokenizer; or `init_kwargs` is given for a loaded model;
            or a teacher is the student.
    """
    if any(teacher is student for teacher in teachers):
        raise ValueError("Teacher and student are the same object.")
    first = teachers[0]
    if student is not None:
        auto = auto_class(student)
    else:
        auto = saved_class(first, init_kwargs) if isinstance(first, str | os.PathLike) else auto_class(first)
    return [_load(teacher, auto, tokenizer, init_kwargs) for teacher in teachers]


def _load(
    teacher: Teacher, auto: AutoClass, tokenizer: object, init_kwargs: Mapping[str, object] | None
) -> PreTrainedModel:
    if isinstance(teacher, str | os.PathLike):
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            check_tokenizer(tokenizer, teacher, "teacher")
        return load_model(teacher, auto, init_kwargs)
    if init_kwargs:
        raise ValueError("teacher_init_kwargs goes with a teacher given by name; this one is already loaded.")
    return peft.merge_adapter(teacher)


def shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """The teachers' shares of the logits, which add up to 1.

    Raises:
        ValueError: the number of weights differs from that of the teachers, or one is negative, or all are 0.
    """
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count or any(not weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(
            f"teacher_weights are a number of at least 0 for each of {count} teachers, not all 0; got {list(weights)}."
        )
    return [weight / sum(weights) for weight in weights]


def pooling_of(args: DistillationTrainingArguments, teacher: PreTrainedModel) -> str:
    """The pooling of models without a head: as in the arguments, else as in the teacher's folder, else the mean.

    Raises:
        ValueError: the folder's pooling is not supported.
    """
    return args.pooling or sentence_transformers_files.pooling_of(teacher) or "mean"


class Teachers:
    """The teachers of one trainer.

    Args:
        models: are frozen and moved to the device of `args`; the layers of the first are matched.
        weights: relative shares of the logits; equal by default.
        args: `teacher_mixed_precision`, `phases`, `pooling` and the device.
        autocast: the student's mixed precision, which the teachers share by default.
        tokenizer: the teachers' own, where they have another vocabulary than the student.

    Attributes:
        models: frozen.
        weights: shares that add up to 1.
        label_alignment: of the student's classes with the first teacher's.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        weights: Sequence[float] | None,
        args: DistillationTrainingArguments,
        autocast: Autocast,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Freeze the models and move them."""
        self.models = [freeze(_on(model, args.device)) for model in models]
        self.weights = shares(weights, len(self.models))
        self.label_alignment = LabelAlignment()
        self.tokenizer = tokenizer
        self._args = args
        self._autocast = autocast
        self._columns: dict[str, Tensor] = {}
        self._for_evaluation: OnlineTeacher | None = None

    @property
    def first(self) -> PreTrainedModel:
        """The teacher whose layers are matched."""
        return self.models[0]

    @property
    def are_plain(self) -> bool:
        """Whether the student is compared with the first teacher's unchanged logits."""
        return self.label_alignment.indices is None and len(self.models) == 1 and self.tokenizer is None

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the teachers run."""
        precision = self._args.teacher_mixed_precision
        if precision is None:
            return self._autocast()
        dtype = _DTYPES[precision]
        return torch.autocast(self._args.device.type, dtype=dtype, enabled=dtype is not None)

    def source(
        self,
        hidden: Iterable[int] = (),
        attention: Iterable[int] = (),
        kinds: Collection[str] = ("queries", "keys", "bias"),
        compile_kwargs: Mapping[str, str] | None = None,
    ) -> OnlineTeacher:
        """A source that runs the teachers (see `OnlineTeacher` for the arguments)."""
        pooled = self._args.phases != "intermediate" and output_type(self.first) == VECTORS
        pooling = pooling_of(self._args, self.first) if pooled else None
        options = (hidden, attention, self.autocast, compile_kwargs, kinds, pooling)
        if len(self.models) == 1:
            return OnlineTeacher(self.first, *options)
        return TeacherEnsemble(self.models, self.weights, *options)

    def check_inputs(self, inputs: Batch) -> Batch:
        """A batch, checked to hold the teacher's token ids where its vocabulary is not the student's.

        Raises:
            ValueError: the batch lacks them.
        """
        if self.tokenizer is not None and columns.IDS not in inputs:
            raise ValueError(
                f"A batch has no {columns.IDS!r}, which a teacher with a tokenizer of its own "
                "(teacher_processing_class) reads: add it with `tokenize_for_teacher`. In evaluation, "
                "report_fidelity=False leaves the teacher out."
            )
        return inputs

    @contextmanager
    def reading(self, inputs: Batch) -> Iterator[None]:
        """Inside, `logits` adds the teacher's columns of this batch, which the student's inputs lack."""
        self._columns = {name: inputs[name] for name in columns.COLUMNS if name in inputs}
        try:
            yield
        finally:
            self._columns = {}

    def logits(self, inputs: Batch) -> Tensor | None:
        """The teachers' logits (or pooled vectors) of an evaluation batch, in the student's order of classes."""
        if self._for_evaluation is None:
            self._for_evaluation = self.source()
        inputs = self.check_inputs({**inputs, **self._columns})
        logits = self._for_evaluation.features(inputs, intermediate=False, prediction=True).logits
        return None if logits is None else self.label_alignment.logits(logits)

    def end_evaluation(self) -> None:
        """Release the source that an evaluation used."""
        if self._for_evaluation is not None:
            self._for_evaluation.close()
            self._for_evaluation = None


def _on(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on a device; one that is spread over several, or quantised, stays where it is."""
    if getattr(model, "hf_device_map", None) is not None or getattr(model, "is_quantized", False):
        return model
    return model.to(device)
