"""Says how a student starts, and warns where training undoes the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_tinybert.configuration import PROVENANCE_KEY
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.projection_start import projections_for
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.distillation.run_start import RunStart, measure_start, sample_batches
from hf_tinybert.models.peft import unwrapped
from hf_tinybert.student.start_fidelity import StartFidelity, logits_for, measure_fidelity
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.teacher.inputs import of_student
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils.types import AnyDataset, Autocast, Batch, Collator

logger = logging.get_logger(__name__)

#: A run that ends so much closer to a constant answer than it began has lost its start: a share of the start's
#: distance.
_TOLERANCE = 0.02


class StartWatch:
    """Measures the start of a run on a sample of the training texts, and compares it with what training makes of it.

    Args:
        teachers: of the run.
        settings: which levels are matched.
        args: of the run.
        autocast: makes the context in which the student runs.
        data: the training data, with the columns that batches are made of, and the collator.
        measured: what was measured before the first step of the run that is resumed; None for a new run.
        batch_size: examples of a batch.
        longest: the longest input of both models in tokens, or None.

    Attributes:
        start: the student's fidelity before the first step; None where no predictions are compared.
        settings: which levels are matched: after `begin` without the attention of a student with other heads.
        unmatched: the levels that are left out for that.
    """

    def __init__(
        self,
        teachers: Teachers,
        settings: ObjectiveConfig,
        args: DistillationTrainingArguments,
        autocast: Autocast,
        data: tuple[AnyDataset, Collator],
        measured: RunStart | None,
        batch_size: int,
        longest: int | None,
    ) -> None:
        """Take the sample.

        Raises:
            ValueError: a text is longer than `longest`.
        """
        self._teachers, self.settings, self._args, self._autocast = teachers, settings, args, autocast
        self._batches = sample_batches(*data, batch_size, args.device)
        BatchCounts.from_batches(self._batches, args.device, longest)
        self._measured = measured
        self.unmatched: list[str] = []
        self.start = None if measured is None else measured.fidelity
        self._constant_loss = float("inf")
        self._was_below = self._warned = False

    @property
    def variances(self) -> Mapping[str, float]:
        """Level name -> the teacher's variance, by which its loss is divided."""
        return {} if self._measured is None else self._measured.variances

    @property
    def measured(self) -> RunStart:
        """What a checkpoint keeps: what was measured before the first step, with the student's fidelity."""
        return replace(self._measured or RunStart(), fidelity=self.start)

    @property
    def metrics(self) -> dict[str, float] | None:
        """The fidelity before the first step, by the names of the evaluation's metrics."""
        return None if self.start is None else self.start.metrics(self.settings.prediction.kind)

    def begin(self, student: PreTrainedModel, before: DistillationObjective | None) -> Projections:
        """Measure what is not known, and log the student's fidelity.

        Args:
            student: the model to be trained.
            before: the objective of an earlier run.

        Returns:
            The projections, on the device of the run.
        """
        student.to(self._args.device)
        resumes = self._measured is not None
        if self._measured is None:
            self._measured = measure_start(student, self._teachers, self.settings, self._batches, self._autocast)
        if self.settings.judges_attention and self._measured.has_other_heads:
            self.settings, self.unmatched = self.settings.without_attention(), ["attention"]
            logger.warning(
                f"Attention scores are not matched: before training, the student's are further from the teacher's "
                f"({self._measured.attention:.2f} of its variance) than a constant, so its heads are others than the "
                "teacher's. attention_weight=1 matches them all the same."
            )
        self.settings.say_what_is_matched()
        fitted, teacher = self._measured.projections, self._teachers.first
        projections = projections_for(student, teacher, self.settings, self._args, before, fitted, self.variances)
        projections = projections.to(self._args.device)
        if not resumes:
            self.start = self._measure(student, projections)
        if self.start is not None:
            self._say_start(student, self.start)
        return projections

    def _say_start(self, student: PreTrainedModel, start: StartFidelity) -> None:
        prediction = self.settings.prediction
        if prediction.reduction != "paper":
            self._constant_loss = start.constant_loss / self.variances.get("prediction", 1.0)
        said = f"Before training, the student follows its teacher with {start.describe(prediction.kind)}."
        if start.is_chance:
            logger.warning(f"{said} That is no better than chance: {_why(student)}.")
        else:
            logger.info(said)

    def note_losses(self, losses: Mapping[str, float]) -> None:
        """Warn if the prediction loss, which was below that of a constant answer, is above it."""
        loss = losses.get(Level("prediction").loss_name)
        if loss is None or self._warned:
            return
        if loss <= self._constant_loss:
            self._was_below = True
        elif self._was_below or (self.start is not None and not self.start.is_chance):
            self._warned = True
            logger.warning(
                f"The prediction loss {loss:.4g} is above that of a constant answer ({self._constant_loss:.4g}): the "
                "student has lost what it knew. Lower learning_rate, warm up longer (warmup_steps), or raise "
                "prediction_weight."
            )

    def end(self, student: PreTrainedModel, projections: Projections) -> None:
        """Warn if the trained student follows its teacher less closely than it did before training."""
        if self.start is None:
            return
        end = self._measure(student, projections)
        if end is None:
            return
        kind = self.settings.prediction.kind
        logger.info(f"After training, the student follows its teacher with {end.describe(kind)}.")
        if end.divergence > self.start.divergence + _TOLERANCE * self.start.constant_divergence:
            began = self.start.describe(kind)
            logger.warning(
                f"Training has made the student worse: it began with {began}, and ended with {end.describe(kind)}. "
                "Lower learning_rate, train for more steps, or change the weights of the levels."
            )

    def _measure(self, student: PreTrainedModel, projections: Projections) -> StartFidelity | None:
        prediction, model = self.settings.prediction, unwrapped(student)
        if not self._batches or not self.settings.matches_predictions:
            return None

        def of_the_student(batch: Batch) -> torch.Tensor:
            with self._autocast():
                logits = logits_for(model, of_student(batch), prediction.pooling)
            return logits if prediction.pooling is None else projections.vectors(logits)

        def of_the_teacher(batch: Batch) -> torch.Tensor:
            logits = self._teachers.logits(batch)
            assert logits is not None
            return logits

        was_training = student.training
        student.eval()
        try:
            return measure_fidelity(
                prediction.kind, of_the_student, of_the_teacher, self._batches, prediction.temperature
            )
        finally:
            student.train(was_training)
            self._teachers.end_evaluation()


def _why(student: PreTrainedModel) -> str:
    """Why a start may be no better than chance."""
    init = (getattr(student.config, PROVENANCE_KEY, None) or {}).get("init")
    if init == "random":
        return "its weights are random; student_init='teacher' starts from the teacher's"
    if init == "teacher":
        return "too little of the teacher is left at this size; more layers, or more width, keep more"
    return "its head is new, or was trained for something else"
