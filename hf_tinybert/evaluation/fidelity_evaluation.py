"""What a trainer's evaluations measure beside the Trainer's metrics: the fidelity of the student to its teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.run import projections_for
from hf_tinybert.evaluation.layer_fidelity import LayerFidelity
from hf_tinybert.evaluation.prediction_fidelity import PredictionFidelity
from hf_tinybert.models import peft
from hf_tinybert.models.output_types import VECTORS, logits_of, output_type
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.training_args import DistillationTrainingArguments


class FidelityEvaluation:
    """Measures, while an evaluation runs: of a student with a head how its predictions agree with the teacher's
    (`PredictionFidelity`), of one without how closely its layers and vectors follow (`LayerFidelity`).

    Args:
        teachers: what the student is compared with.
        args: `report_fidelity` and `phases`.
        accelerator: of the trainer.

    Attributes:
        of_teacher: the evaluation under way is the teacher's own.
    """

    def __init__(self, teachers: Teachers, args: DistillationTrainingArguments, accelerator: Any) -> None:
        """No evaluation is under way."""
        self.of_teacher = False
        self._teachers = teachers
        self._args = args
        self._accelerator = accelerator
        self._measure: LayerFidelity | PredictionFidelity | None = None

    @property
    def replaces_forward(self) -> bool:
        """Whether `step` takes the place of the Trainer's own prediction step, which needs a head."""
        return isinstance(self._measure, LayerFidelity)

    @contextmanager
    def measuring(
        self,
        student: PreTrainedModel,
        loss_only: bool,
        settings: Callable[[PreTrainedModel], ObjectiveConfig],
        trained: DistillationObjective | None,
    ) -> Iterator[None]:
        """Meanwhile batches are measured.

        Args:
            student: in training or not.
            loss_only: nobody asks for the vectors.
            settings: what is matched of a student.
            trained: the objective that the student was trained in, if it was.
        """
        args = self._args
        headless = peft.unwrapped(student).base_model is peft.unwrapped(student)
        wanted = args.report_fidelity and not self.of_teacher
        try:
            if headless and (args.phases != "intermediate" or (wanted and loss_only)):
                matched = settings(student)
                projections = projections_for(student, self._teachers.first, matched, args, trained).to(args.device)
                contexts = (self._accelerator.autocast, self._teachers.autocast)
                self._measure = LayerFidelity(student, self._teachers.first, projections, matched, *contexts)
            elif wanted and not headless:
                self._measure = PredictionFidelity(output_type(student))
            yield
        finally:
            if self._measure is not None:
                self._measure.close()
            self._measure = None
            self._teachers.end_evaluation()

    def observe(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Compare the student's outputs on a batch with the teacher's, if predictions are compared."""
        if not isinstance(self._measure, PredictionFidelity) or not isinstance(outputs, Mapping):
            return
        student, teacher = logits_of(outputs), self._teachers.logits(inputs)
        if student is not None and teacher is not None:
            self._measure.update(student, teacher, inputs)

    def step(self, inputs: Mapping[str, Any], loss_only: bool) -> tuple[Tensor | None, Any, Any]:
        """Loss, predictions and labels of a student without a head: its vectors, and the teacher's as labels."""
        if not isinstance(self._measure, LayerFidelity):
            raise RuntimeError("This evaluation compares no layers.")
        loss, vectors, teacher = self._measure.update(self._teachers.check_inputs(inputs))
        if loss_only or vectors is None:
            return loss, None, None
        return (torch.zeros_like(loss), teacher, teacher) if self.of_teacher else (loss, vectors, teacher)

    def teacher_outputs(self, inputs: Mapping[str, Any], student: PreTrainedModel) -> tuple[Tensor, Any]:
        """Loss and outputs of the teachers' mean, in the student's order of classes."""
        logits = self._teachers.logits(inputs)
        if logits is None:
            raise ValueError(f"{type(self._teachers.first).__name__} gives no logits.")
        return OutputLoss(output_type(student)).evaluate(logits, inputs)

    def metrics(self, prefix: str) -> dict[str, float]:
        """What was measured, over all processes; empty in an evaluation of the teacher."""
        if self._measure is None or self.of_teacher:
            return {}
        return self._measure.compute(prefix, self._accelerator)

    def check_teacher(self) -> None:
        """Refuse to evaluate a teacher that has no metrics.

        Raises:
            ValueError: it has no head, and vectors are not compared.
        """
        if output_type(self._teachers.first) == VECTORS and self._args.phases == "intermediate":
            raise ValueError("A teacher without a head has no metrics of its own where only layers are matched.")
