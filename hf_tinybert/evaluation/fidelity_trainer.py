"""A Trainer that evaluates a student, its teacher, and the fidelity of the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import ModelOutput

from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.validation import EvaluationData
from hf_tinybert.evaluation.fidelity_evaluation import FidelityEvaluation
from hf_tinybert.hub.trainer import HubTrainer
from hf_tinybert.models.output_types import VECTORS, output_type
from hf_tinybert.teacher import inputs as teacher_inputs
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.utils.types import AnyDataset


class ScoreRecorder(Protocol):
    """Records metrics."""

    def note_student(self, metrics: Mapping[str, float], prefix: str, dataset: AnyDataset | None) -> None:
        """Record metrics of the student on a data set."""

    def note_teacher(self, metrics: Mapping[str, float], prefix: str, dataset: AnyDataset | None) -> None:
        """Record metrics of the teacher on a data set."""


class FidelityTrainer(HubTrainer):
    """The evaluation of `DistillationTrainer`.

    Attributes:
        student: the model that is evaluated.
        teacher: the first of the teachers.
        recorder: records metrics for the model card.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel
    recorder: ScoreRecorder
    model_wrapped: nn.Module
    eval_dataset: EvaluationData | None
    _teachers: Teachers
    _fidelity: FidelityEvaluation
    _objective: DistillationObjective | None

    def _settings_of(self, student: PreTrainedModel) -> ObjectiveConfig:
        """The levels that are matched for a student."""
        raise NotImplementedError

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The student's task loss; for teachers, the loss of their mean, with labels in the student's order."""
        plain = self._teachers.are_plain or self.accelerator.unwrap_model(model) is not self.teacher
        if plain:  # on a copy: with label smoothing, the Trainer removes the labels
            loss, outputs = super().compute_loss(model, dict(inputs), return_outputs=True)
        else:
            loss, outputs = self._fidelity.teacher_outputs(inputs, self.student)
        self._fidelity.observe(inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The Trainer's loop, with the fidelity of the student to the teacher among the metrics.

        A student without a head has no task loss: its evaluation measures the fidelity of its layers and vectors (see
        `hf_tinybert.evaluation.layer_fidelity`). `compute_metrics` gets its vectors as predictions and the teacher's
        as labels.
        """
        with self._fidelity.measuring(self.student, bool(prediction_loss_only), self._settings_of, self._objective):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            output.metrics.update(self._fidelity.metrics(metric_key_prefix))
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, object, object]:
        """The Trainer's step, or that of a student without a head; the student does not get the teacher's columns."""
        inputs = self._prepare_inputs(inputs)
        if self._fidelity.replaces_forward:
            return self._fidelity.step(inputs, prediction_loss_only)
        is_teacher = self.accelerator.unwrap_model(model) is self.teacher
        model_inputs = dict(teacher_inputs.of_teacher(inputs)) if is_teacher else teacher_inputs.of_student(inputs)
        with self._teachers.reading(inputs):
            result: tuple[Tensor | None, object, object] = super().prediction_step(
                model, model_inputs, prediction_loss_only, ignore_keys
            )
        return result

    def evaluate(
        self,
        eval_dataset: EvaluationData | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The student's metrics, as of any Trainer."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        dataset = self._evaluated(eval_dataset)
        if not isinstance(dataset, Mapping):  # several data sets were evaluated by one call each
            self.recorder.note_student(metrics, metric_key_prefix, dataset)
        return metrics

    def evaluate_teacher(
        self, eval_dataset: EvaluationData | str | None = None, metric_key_prefix: str = "teacher"
    ) -> dict[str, float]:
        """The teacher's metrics on a data set, computed like the student's.

        Args:
            eval_dataset: tokenised examples; the trainer's `eval_dataset` by default. Several data sets by name, or
                the name of one in the trainer's `eval_dataset`, are taken as in `evaluate`.
            metric_key_prefix: prefix of the metrics' names.

        Raises:
            ValueError: there are no data, or the models have no head and their vectors are not compared.
        """
        self._fidelity.check_teacher()
        dataset = self._evaluated(eval_dataset)
        if dataset is None:
            raise ValueError("evaluate_teacher() needs data: give eval_dataset, here or to the trainer.")
        if isinstance(dataset, Mapping):
            by_name = [self.evaluate_teacher(data, f"{metric_key_prefix}_{name}") for name, data in dataset.items()]
            return {name: value for values in by_name for name, value in values.items()}
        with self._evaluating_teacher():
            output = self.evaluation_loop(
                self.get_test_dataloader(dataset), "Evaluation of the teacher", metric_key_prefix=metric_key_prefix
            )
        metrics: dict[str, float] = output.metrics
        self.recorder.note_teacher(metrics, metric_key_prefix, dataset)
        return metrics

    @contextmanager
    def _evaluating_teacher(self) -> Iterator[None]:
        """Evaluate the teacher, or without a head its vectors, in place of the student inside this context."""
        model, wrapped = self.model, self.model_wrapped
        self._fidelity.of_teacher = True
        if output_type(self.teacher) != VECTORS:
            self.model = self.model_wrapped = self.teacher
        try:
            yield
        finally:
            self.model, self.model_wrapped, self._fidelity.of_teacher = model, wrapped, False

    def _evaluated(self, eval_dataset: EvaluationData | str | None) -> EvaluationData | None:
        """Resolve an argument of `evaluate` to a data set, or to several by name."""
        if isinstance(eval_dataset, str):
            if not isinstance(self.eval_dataset, Mapping):
                raise ValueError(f"eval_dataset={eval_dataset!r} is a name, and the trainer has no data sets by name.")
            return self.eval_dataset[eval_dataset]
        return self.eval_dataset if eval_dataset is None else eval_dataset
