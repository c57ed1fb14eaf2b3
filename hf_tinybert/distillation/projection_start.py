"""The projections of a run: those of an earlier one, or new ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.student.projection_init import offered
from hf_tinybert.training_args import DistillationTrainingArguments


def projections_for(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: ObjectiveConfig,
    args: DistillationTrainingArguments,
    before: DistillationObjective | None,
    fitted: Mapping[str, Tensor] | None = None,
    variances: Mapping[str, float] | None = None,
) -> Projections:
    """The projections that a student was last trained with, or new ones.

    Args:
        student: the model to be trained.
        teacher: the projections lead to its width.
        settings: which levels are matched.
        args: `projection` and `seed`.
        before: the objective of an earlier run.
        fitted: initial values for a student that offers none.
        variances: level name -> the teacher's variance, where losses are relative to it.
    """
    if (
        before is not None
        and before.student is student
        and before.settings.hidden_layers == settings.hidden_layers
        and before.settings.prediction.pooling == settings.prediction.pooling
        and before.settings.mixing().keys() == settings.mixing().keys()
    ):
        return before.projections
    scales = {}
    if variances:
        scales = {m: math.sqrt(variances.get(Level.of_states(m).name, 1.0)) for m in settings.hidden_layers}
    projections = Projections(
        Encoder.from_model(student).hidden_size,
        Encoder.from_model(teacher).hidden_size,
        set(settings.hidden_layers),
        shared=args.projection == "shared",
        seed=args.seed,
        mixing=settings.mixing(),
        vectors=settings.prediction.pooling is not None,
        scales=scales,
    )
    projections.start_from(offered(student) or fitted or {})
    return projections
