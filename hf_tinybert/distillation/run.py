"""One call of `train()`: the objective, the teacher's features, the phase, and the losses of every level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from hf_tinybert.distillation.batch_counts import BatchCounts, Reduce
from hf_tinybert.distillation.loss_series import LossSeries
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig, Step
from hf_tinybert.distillation.phases import INTERMEDIATE_LEVELS, LEVELS, Phase, PhasePlan
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.distillation.start_watch import StartWatch
from hf_tinybert.teacher.cache import policy, rows
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.teacher.source import OnlineTeacher, TeacherSource
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils import compat
from hf_tinybert.utils.types import AnyDataset, Batch, Collator

logger = logging.get_logger(__name__)


class Processes(Protocol):
    """What is used of accelerate's `Accelerator`."""

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        """The tensor, summed over all processes."""

    def wait_for_everyone(self) -> None:
        """Wait for the other processes."""


class DistillationRun(TrainerCallback):
    """The state of one `train()` call. It is the run's first callback, so that others see the phase of the step.

    Args:
        objective: the module that is trained.
        source: of the teacher's features.
        teachers: they check their inputs, and align their classes with the student's.
        args: of the run.
        watch: compares the student with the teacher before and after training.
        boundary: number of intermediate steps in the checkpoint of a resumed run; None for a new run.
        max_length: the longest input of both models in tokens, or None.
        accelerator: of the trainer; several processes add up their losses.

    Attributes:
        boundary: as given.
        watch: as given.
        phase: of the current step.
        series: losses since the last log.
    """

    def __init__(
        self,
        objective: DistillationObjective,
        source: TeacherSource,
        teachers: Teachers,
        args: DistillationTrainingArguments,
        watch: StartWatch,
        boundary: int | None,
        max_length: int | None,
        accelerator: Processes,
    ) -> None:
        """Begin before the first phase."""
        self.objective = objective
        self.source = source
        self.phase: Phase = "joint"
        self.series = LossSeries()
        self._teachers = teachers
        self._args = args
        self.watch = watch
        self.boundary = boundary
        self._max_length = max_length
        several = args.world_size > 1
        self._reduce: Reduce | None = accelerator.reduce if several else None
        self._wait: Callable[[], None] | None = accelerator.wait_for_everyone if several else None

    def plan(self, total_steps: int) -> PhasePlan:
        """The phases of a run of `total_steps` optimiser steps."""
        return PhasePlan.from_arguments(self._args, total_steps, self.boundary)

    # Callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Enter the first phase, before any evaluation."""
        self._enter(self.plan(state.max_steps).phase(state.global_step))

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        optimizer: torch.optim.Optimizer,
        **kwargs: object,
    ) -> None:
        """Enter the phase of the step. The prediction phase starts with a fresh Adam, as a run of its own would."""
        plan = self.plan(state.max_steps)
        self._enter(plan.phase(state.global_step))
        if plan.begins_prediction(state.global_step):
            getattr(optimizer, "optimizer", optimizer).state.clear()
        self.series.begin_step(self.phase)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Flush the teacher cache after each pass over the data."""
        self.source.flush(self._wait)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Compare the student with its start."""
        if not self._sharded:
            self.watch.end(self.objective.student, self.objective.projections)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Flush the teacher cache with each checkpoint."""
        self.source.flush(self._wait)

    @property
    def _sharded(self) -> bool:
        """Whether this process holds a part of the weights alone."""
        return bool(self._args.fsdp) or getattr(self._args, "deepspeed_plugin", None) is not None

    def _enter(self, phase: Phase) -> None:
        if phase == self.phase:
            return
        layers = bool(LEVELS[phase] & INTERMEDIATE_LEVELS)
        self.objective.start_phase(layers)
        self.source.start_phase(layers)
        if self._args.torch_compile:
            # Compiled code does not notice that hooks were added or removed.
            torch._dynamo.reset()
        self.phase = phase

    # A step

    def counts(self, batches: Sequence[Batch], device: torch.device) -> BatchCounts:
        """Counts of the micro-batches of a step over all processes."""
        settings = self.objective.settings
        return BatchCounts.from_batches(
            batches,
            device,
            longest=self._max_length,
            reduce=self._reduce,
            processes=max(self._args.world_size, 1),
            count_rows=settings.prediction.counts_rows,
            windows=settings.windows,
        )

    def loss(self, model: nn.Module, inputs: Batch, counts: BatchCounts) -> Tensor:
        """The loss of a micro-batch, computed by the objective as the Trainer has wrapped it."""
        levels = LEVELS[self.phase]
        if rows.ROW not in inputs and not isinstance(self.source, OnlineTeacher):
            logger.warning_once(
                "The training batches have no row numbers, which the default get_train_dataloader adds: the teacher "
                "cache cannot be used, and the teacher runs in every step."
            )
        checked = self._teachers.check_inputs(inputs)
        features = self.source.features(checked, intermediate="hidden" in levels, prediction="prediction" in levels)
        if features.logits is not None:
            features.logits = self._teachers.label_alignment.logits(features.logits)
        loss, parts = model(**inputs, step=Step(features, levels, counts))
        self.series.add(parts, self.phase)
        loss_of_batch: Tensor = loss
        return loss_of_batch

    def drain(self) -> dict[str, float]:
        """The losses of every level since the last log, over all processes."""
        losses = self.series.drain(self._reduce)
        self.watch.note_losses(losses)
        return losses

    def close(self) -> None:
        """Remove the hooks from both models, and close the teacher cache."""
        self.objective.detach()
        if self._args.torch_compile:
            torch._dynamo.reset()
        self.source.close()


def open_source(
    teachers: Teachers,
    settings: ObjectiveConfig,
    args: DistillationTrainingArguments,
    dataset: AnyDataset,
    collator: Collator,
    mixed_precision: str,
) -> TeacherSource:
    """The source of the teacher's features in training: the teacher itself, or its cache.

    Args:
        teachers: of the run.
        settings: which levels are matched.
        args: of the run.
        dataset: the training data, with the columns that batches are made of.
        collator: makes the batches.
        mixed_precision: of the student.

    Raises:
        ValueError: a cache was requested, and these data cannot have one.
        OSError: the disk has no room for it.
    """
    online = teachers.source(
        [settings.mapping[m] for m in settings.hidden_layers],
        [settings.mapping[m] for m in settings.attention_layers],
        settings.attention_kinds,
        compat.compile_arguments(args),
    )
    passes = PhasePlan.passes(args, len(dataset) if hasattr(dataset, "__len__") else 0)
    precision = args.teacher_mixed_precision or mixed_precision
    return policy.open_source(online, policy.Request.from_arguments(args, dataset, collator, passes, precision))


def join_optimizer(optimizer: torch.optim.Optimizer | None, projections: Projections) -> None:
    """Add the projections to an optimiser that the caller made of the student's parameters."""
    if optimizer is None:
        return
    held = _held(optimizer)
    new = [parameter for parameter in projections.parameters() if id(parameter) not in held]
    if new:
        optimizer.add_param_group({"params": new})


def check_optimizer(optimizer: torch.optim.Optimizer | None, student: torch.nn.Module) -> None:
    """Refuse an optimiser that holds none of the student's trainable parameters.

    Raises:
        ValueError: the message says what to do.
    """
    if optimizer is None:
        return
    held = _held(optimizer)
    if not any(id(parameter) in held for parameter in student.parameters() if parameter.requires_grad):
        raise ValueError(
            "The optimizer that was given (optimizers=...) holds none of the student's trainable parameters, so "
            "nothing would be learnt: a script's `model.parameters()` are the teacher's now. Make the student "
            "first (`create_student`) and the optimizer of its parameters, or give "
            "optimizer_cls_and_kwargs=(torch.optim.AdamW, {...})."
        )


def _held(optimizer: torch.optim.Optimizer) -> set[int]:
    """The identities of an optimiser's parameters."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
