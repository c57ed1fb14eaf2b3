"""One call of `train()`: the objective, the teacher's features, the phase, and the losses of every level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState
from transformers.utils import logging

from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.loss_series import LossSeries
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig, Step
from hf_tinybert.distillation.phases import INTERMEDIATE_LEVELS, LEVELS, Phase, PhasePlan
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.student.projection_init import offered
from hf_tinybert.teacher.cache import policy, rows
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.teacher.source import OnlineTeacher, TeacherSource
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils import compat

logger = logging.get_logger(__name__)

Reduce = Callable[..., Tensor]


class DistillationRun(TrainerCallback):
    """Alive while `train()` runs. It is the first callback of the run, so that others see the phase of the step.

    Args:
        objective: what is trained.
        source: of the teacher's features.
        teachers: whose inputs are checked, and whose classes are put into the student's order.
        args: of the run.
        boundary: of a resumed run: its checkpoint's number of intermediate steps.
        max_length: the longest input of both models in tokens, or None.
        reduce: sums a tensor over all processes, where there are several.
        wait: waits for the other processes, where there are several.

    Attributes:
        boundary: as given.
        phase: of the current step.
        series: losses since the last log.
    """

    def __init__(
        self,
        objective: DistillationObjective,
        source: TeacherSource,
        teachers: Teachers,
        args: DistillationTrainingArguments,
        boundary: int | None,
        max_length: int | None,
        reduce: Reduce | None = None,
        wait: Callable[[], None] | None = None,
    ) -> None:
        """Begin before the first phase."""
        self.objective = objective
        self.source = source
        self.phase: Phase = "joint"
        self.series = LossSeries()
        self._teachers = teachers
        self._args = args
        self.boundary = boundary
        self._max_length = max_length
        self._reduce = reduce
        self._wait = wait

    def plan(self, total_steps: int) -> PhasePlan:
        """The phases of a run of so many optimiser steps."""
        return PhasePlan.from_arguments(self._args, total_steps, self.boundary)

    # Callback

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Enter the first phase, before any evaluation."""
        self._enter(self.plan(state.max_steps).phase(state.global_step))

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Enter the phase of the step; the prediction phase of the paper is a run of its own, with a fresh Adam."""
        plan = self.plan(state.max_steps)
        self._enter(plan.phase(state.global_step))
        if plan.begins_prediction(state.global_step):
            getattr(optimizer, "optimizer", optimizer).state.clear()
        self.series.begin_step(self.phase)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Flush the teacher cache after each pass over the data."""
        self.source.flush(self._wait)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Flush the teacher cache with each checkpoint."""
        self.source.flush(self._wait)

    def _enter(self, phase: Phase) -> None:
        if phase == self.phase:
            return
        layers = bool(LEVELS[phase] & INTERMEDIATE_LEVELS)
        self.objective.start_phase(layers)
        self.source.start_phase(layers)
        if self._args.torch_compile:
            # Compiled code does not notice that hooks have come or gone.
            torch._dynamo.reset()
        self.phase = phase

    # A step

    def counts(self, batches: Sequence[Mapping[str, Any]], device: torch.device) -> BatchCounts:
        """What the micro-batches of a step hold over all processes."""
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

    def loss(self, model: Any, inputs: Mapping[str, Any], counts: BatchCounts) -> Tensor:
        """The loss of a micro-batch, through the objective as the Trainer has wrapped it."""
        levels = LEVELS[self.phase]
        if rows.ROW not in inputs and not isinstance(self.source, OnlineTeacher):
            logger.warning_once(
                "The training batches carry no row numbers, which the default get_train_dataloader gives them: the "
                "teacher cache is of no use, and the teacher runs in every step."
            )
        read = self._teachers.check_inputs(inputs)
        features = self.source.features(read, intermediate="hidden" in levels, prediction="prediction" in levels)
        if features.logits is not None:
            features.logits = self._teachers.label_alignment.logits(features.logits)
        loss, parts = model(**inputs, step=Step(features, levels, counts))
        self.series.add(parts, self.phase)
        loss_of_batch: Tensor = loss
        return loss_of_batch

    def drain(self) -> dict[str, float]:
        """The losses of every level since the last log, over all processes."""
        return self.series.drain(self._reduce)

    def close(self) -> None:
        """Take the hooks off both models, and let go of the teacher cache."""
        self.objective.detach()
        if self._args.torch_compile:
            torch._dynamo.reset()
        self.source.close()


def open_source(
    teachers: Teachers,
    settings: ObjectiveConfig,
    args: DistillationTrainingArguments,
    dataset: Any,
    collator: Any,
    mixed_precision: str,
) -> TeacherSource:
    """Where the teacher's features come from in training: the teacher itself, or its cache.

    Args:
        teachers: of the run.
        settings: what is matched.
        args: of the run.
        dataset: the training data, with the columns that batches are made of.
        collator: makes batches of them.
        mixed_precision: of the student.

    Raises:
        ValueError: a cache was asked for that these data cannot have.
        OSError: there is no room for it.
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


def projections_for(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: ObjectiveConfig,
    args: DistillationTrainingArguments,
    before: DistillationObjective | None,
) -> Projections:
    """The projections that a student was last trained with, or new ones.

    Args:
        student: the model to be trained.
        teacher: whose width they lead to.
        settings: what is matched.
        args: `projection` and `seed`.
        before: the objective of an earlier run.
    """
    if (
        before is not None
        and before.student is student
        and before.settings.hidden_layers == settings.hidden_layers
        and before.settings.prediction.pooling == settings.prediction.pooling
        and before.settings.mixing().keys() == settings.mixing().keys()
    ):
        return before.projections
    projections = Projections(
        Encoder.from_model(student).hidden_size,
        Encoder.from_model(teacher).hidden_size,
        set(settings.hidden_layers),
        shared=args.projection == "shared",
        seed=args.seed,
        mixing=settings.mixing(),
        vectors=settings.prediction.pooling is not None,
    )
    projections.start_from(offered(student))
    return projections


def join_optimizer(optimizer: torch.optim.Optimizer | None, projections: Projections) -> None:
    """Give an optimiser that was passed in, and knows the student's parameters only, the projections too."""
    if optimizer is None:
        return
    held = _held(optimizer)
    new = [parameter for parameter in projections.parameters() if id(parameter) not in held]
    if new:
        optimizer.add_param_group({"params": new})


def check_optimizer(optimizer: torch.optim.Optimizer | None, student: torch.nn.Module) -> None:
    """Refuse an optimiser that holds none of the student's trainable parameters.

    Raises:
        ValueError: says what to do.
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
