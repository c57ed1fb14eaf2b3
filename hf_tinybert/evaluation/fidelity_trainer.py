"""A Trainer that evaluates a student, its teacher, and how closely the one follows the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from transformers import PreTrainedModel

from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.evaluation.fidelity_evaluation import FidelityEvaluation
from hf_tinybert.hub.trainer import HubTrainer
from hf_tinybert.models.output_types import VECTORS, output_type
from hf_tinybert.teacher import inputs as teacher_inputs
from hf_tinybert.teacher.ensemble import Teachers


class ScoreRecorder(Protocol):
    """Notes what was measured."""

    def note_student(self, metrics: Mapping[str, Any], prefix: str, dataset: Any) -> None:
        """Note metrics of the student on a data set."""

    def note_teacher(self, metrics: Mapping[str, Any], prefix: str, dataset: Any) -> None:
        """Note the teacher's."""


class FidelityTrainer(HubTrainer):
    """The evaluation of `DistillationTrainer`.

    Attributes:
        student: the model that is evaluated.
        teacher: the first of the teachers.
        recorder: notes what was measured, for the model card.
    """

    student: PreTrainedModel
    teacher: PreTrainedModel
    recorder: ScoreRecorder
    model_wrapped: Any
    eval_dataset: Any
    _teachers: Teachers
    _fidelity: FidelityEvaluation
    _objective: DistillationObjective | None

    def _settings_of(self, student: PreTrainedModel) -> ObjectiveConfig:
        """What is matched of a student."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The student's ordinary loss; the teachers' in the student's order of labels, the mean of several."""
        plain = self._teachers.are_plain or self.accelerator.unwrap_model(model) is not self.teacher
        if plain:  # on a copy: the Trainer takes labels that it smooths out
            loss, outputs = super().compute_loss(model, dict(inputs), return_outputs=True)
        else:
            loss, outputs = self._fidelity.teacher_outputs(inputs, self.student)
        self._fidelity.observe(inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The Trainer's loop, with the fidelity of the student to the teacher among the metrics.

        A student without a head has no loss of its own: its evaluation measures how closely its layers and vectors
        follow the teacher's (see `hf_tinybert.evaluation.layer_fidelity`). `compute_metrics` is given its vectors as
        predictions and the teacher's as labels.
        """
        with self._fidelity.measuring(self.student, bool(prediction_loss_only), self._settings_of, self._objective):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            output.metrics.update(self._fidelity.metrics(metric_key_prefix))
        return output

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The Trainer's step, or that of a student without a head; the teacher's columns are kept from the student."""
        inputs = self._prepare_inputs(inputs)
        if self._fidelity.replaces_forward:
            return self._fidelity.step(inputs, prediction_loss_only)
        is_teacher = self.accelerator.unwrap_model(model) is self.teacher
        own = dict(teacher_inputs.of_teacher(inputs)) if is_teacher else teacher_inputs.of_student(inputs)
        with self._teachers.reading(inputs):
            return super().prediction_step(model, own, prediction_loss_only, ignore_keys)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The student's metrics, as of any Trainer."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        dataset = self._evaluated(eval_dataset)
        if not isinstance(dataset, Mapping):  # of several data sets, each was evaluated by itself
            self.recorder.note_student(metrics, metric_key_prefix, dataset)
        return metrics

    def evaluate_teacher(self, eval_dataset: Any = None, metric_key_prefix: str = "teacher") -> dict[str, float]:
        """The teacher's own metrics on a data set, computed as the student's are.

        Args:
            eval_dataset: tokenised examples; the trainer's `eval_dataset` by default. Of several, by name, or of the
                name of one in the trainer's `eval_dataset`, as in `evaluate`.
            metric_key_prefix: prefix of the metrics' names.

        Raises:
            ValueError: there are no data, or the models have no head, and their vectors are not compared.
        """
        self._fidelity.check_teacher()
        dataset = self._evaluated(eval_dataset)
        if dataset is None:
            raise ValueError("evaluate_teacher() needs data: give eval_dataset, here or to the trainer.")
        if isinstance(dataset, Mapping):
            each = [self.evaluate_teacher(data, f"{metric_key_prefix}_{name}") for name, data in dataset.items()]
            return {name: value for found in each for name, value in found.items()}
        with self._evaluating_teacher():
            output = self.evaluation_loop(
                self.get_test_dataloader(dataset), "Evaluation of the teacher", metric_key_prefix=metric_key_prefix
            )
        metrics: dict[str, float] = output.metrics
        self.recorder.note_teacher(metrics, metric_key_prefix, dataset)
        return metrics

    @contextmanager
    def _evaluating_teacher(self) -> Iterator[None]:
        """Meanwhile the teacher is evaluated in the student's place; without a head, its vectors are."""
        model, wrapped = self.model, self.model_wrapped
        self._fidelity.of_teacher = True
        if output_type(self.teacher) != VECTORS:
            self.model = self.model_wrapped = self.teacher
        try:
            yield
        finally:
            self.model, self.model_wrapped, self._fidelity.of_teacher = model, wrapped, False

    def _evaluated(self, eval_dataset: Any) -> Any:
        """The data set, or the mapping of them, that an argument of `evaluate` means."""
        if isinstance(eval_dataset, str):
            return self.eval_dataset[eval_dataset]
        return self.eval_dataset if eval_dataset is None else eval_dataset
