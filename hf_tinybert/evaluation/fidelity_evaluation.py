"""The fidelity of the student to its teacher, measured in a trainer's evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.projection_start import projections_for
from hf_tinybert.evaluation.layer_fidelity import LayerFidelity
from hf_tinybert.evaluation.prediction_fidelity import PredictionFidelity
from hf_tinybert.models import peft
from hf_tinybert.models.output_types import VECTORS, logits_of, output_type
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils.types import Batch, Reduces


class EvaluationAccelerator(Reduces, Protocol):
    """The part of accelerate's `Accelerator` that an evaluation uses."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the student runs under mixed precision."""


class FidelityEvaluation:
    """Measures fidelity while an evaluation runs: of a student with a head, the agreement of its predictions with the
    teacher's (`PredictionFidelity`); of one without, the similarity of layers and vectors (`LayerFidelity`).

    Args:
        teachers: the models that the student is compared with.
        args: `report_fidelity` and `phases`.
        accelerator: of the trainer.

    Attributes:
        of_teacher: the running evaluation is of the teacher.
    """

    def __init__(
        self, teachers: Teachers, args: DistillationTrainingArguments, accelerator: EvaluationAccelerator
    ) -> None:
        """No evaluation is running."""
        self.of_teacher = False
        self._teachers = teachers
        self._args = args
        self._accelerator = accelerator
        self._measure: LayerFidelity | PredictionFidelity | None = None

    @property
    def replaces_forward(self) -> bool:
        """Whether `step` replaces the Trainer's prediction step, which needs a head."""
        return isinstance(self._measure, LayerFidelity)

    @contextmanager
    def measuring(
        self,
        student: PreTrainedModel,
        loss_only: bool,
        settings: Callable[[PreTrainedModel], ObjectiveConfig],
        trained: DistillationObjective | None,
    ) -> Iterator[None]:
        """Measure the batches inside this context.

        Args:
            student: the model that is evaluated.
            loss_only: the vectors are not needed.
            settings: gives the levels that are matched for a student.
            trained: the objective with which the student was trained, if any.
        """
        args = self._args
        headless = peft.unwrapped(student).base_model is peft.unwrapped(student)
        wanted = args.report_fidelity and not self.of_teacher
        try:
            if headless and (args.phases != "intermediate" or (wanted and loss_only)):
                matched = settings(student)
                variances = None
                if trained is not None and trained.student is student:
                    variances = trained.variances
                    if trained.settings.heads is None:
                        matched = matched.without_attention()
                projections = projections_for(student, self._teachers.first, matched, args, trained).to(args.device)
                contexts = (self._accelerator.autocast, self._teachers.autocast)
                self._measure = LayerFidelity(
                    student, self._teachers.first, projections, matched, *contexts, variances=variances
                )
            elif wanted and not headless:
                self._measure = PredictionFidelity(output_type(student))
            yield
        finally:
            if self._measure is not None:
                self._measure.close()
            self._measure = None
            self._teachers.end_evaluation()

    def observe(self, inputs: Batch, outputs: object) -> None:
        """Compare the student's outputs on a batch with the teacher's, if predictions are compared."""
        if not isinstance(self._measure, PredictionFidelity) or not isinstance(outputs, Mapping):
            return
        student, teacher = logits_of(outputs), self._teachers.logits(inputs)
        if student is not None and teacher is not None:
            self._measure.update(student, teacher, inputs)

    def step(self, inputs: Batch, loss_only: bool) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, predictions and labels of a student without a head: its vectors, and the teacher's as labels."""
        if not isinstance(self._measure, LayerFidelity):
            raise RuntimeError("This evaluation compares no layers: call `step` only where `replaces_forward`.")
        loss, vectors, teacher = self._measure.update(self._teachers.check_inputs(inputs))
        if loss_only or vectors is None:
            return loss, None, None
        return (torch.zeros_like(loss), teacher, teacher) if self.of_teacher else (loss, vectors, teacher)

    def teacher_outputs(self, inputs: Batch, student: PreTrainedModel) -> tuple[Tensor, ModelOutput]:
        """Loss and outputs of the teachers' mean, in the student's order of classes."""
        logits = self._teachers.logits(inputs)
        if logits is None:
            raise ValueError(f"{type(self._teachers.first).__name__} has no logits to evaluate.")
        return OutputLoss(output_type(student)).evaluate(logits, inputs)

    def metrics(self, prefix: str) -> dict[str, float]:
        """The fidelity over all processes; empty in an evaluation of the teacher."""
        if self._measure is None or self.of_teacher:
            return {}
        return self._measure.compute(prefix, self._accelerator)

    def check_teacher(self) -> None:
        """Refuse to evaluate a teacher without metrics.

        Raises:
            ValueError: the teacher has no head, and vectors are not compared.
        """
        if output_type(self._teachers.first) == VECTORS and self._args.phases == "intermediate":
            raise ValueError(
                "A teacher without a head has no metrics of its own where only layers are matched: use phases='joint' "
                "or 'prediction', which compare vectors."
            )
