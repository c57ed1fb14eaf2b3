"""What is measured on a sample of the training texts before the first step: variances of the teacher, projections."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.objective import ObjectiveConfig
from hf_tinybert.distillation.teacher_variance import TeacherVariance
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features, accepted_inputs
from hf_tinybert.models.peft import unwrapped
from hf_tinybert.student.calibration import sample_calibration_examples
from hf_tinybert.student.linear_fit import least_squares
from hf_tinybert.student.projection_init import offered
from hf_tinybert.student.provenance import is_random
from hf_tinybert.student.start_fidelity import StartFidelity
from hf_tinybert.teacher.ensemble import Teachers
from hf_tinybert.teacher.inputs import of_student
from hf_tinybert.utils.types import AnyDataset, Autocast, Batch, Collator

#: Relative loss of attention scores beyond which the student's heads are none of the teacher's; a constant's is 1.
_OTHER_HEADS = 1.1


def sample_batches(
    dataset: AnyDataset, collator: Collator, size: int, device: torch.device
) -> list[dict[str, Tensor]]:
    """Batches of the training texts to which no student was fitted; random numbers are left as they were.

    Args:
        dataset: the training data, with the columns that batches are made of.
        collator: makes the batches.
        size: examples of a batch.
        device: of the batches.
    """
    with _untouched_random_state():
        _, examples = sample_calibration_examples(dataset)
        batches = [collator(examples[start : start + size]) for start in range(0, len(examples), size)]
    return [
        {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)} for batch in batches
    ]


@dataclass(frozen=True)
class RunStart:
    """What was measured.

    Attributes:
        variances: level name -> the teacher's variance, where losses are relative to it.
        attention: the loss of the student's attention scores relative to that variance, the mean over layers; None
            where it does not decide anything.
        projections: initial values of the projections, by name (see `hf_tinybert.student.projection_init`).
        fidelity: of the student, of a resumed run.
    """

    variances: Mapping[str, float] = field(default_factory=dict)
    attention: float | None = None
    projections: Mapping[str, Tensor] = field(default_factory=dict)
    fidelity: StartFidelity | None = None

    @property
    def has_other_heads(self) -> bool:
        """Whether the student's scores are so far from the teacher's that its heads are none of the teacher's."""
        return self.attention is not None and self.attention > _OTHER_HEADS


@torch.no_grad()
def measure_start(
    student: PreTrainedModel,
    teachers: Teachers,
    settings: ObjectiveConfig,
    batches: Sequence[Batch],
    autocast: Autocast = nullcontext,
) -> RunStart:
    """Run both models on a sample of the training data, unless nothing of what they would show is used.

    Args:
        student: the model to be trained.
        teachers: of the run.
        settings: which levels are matched.
        batches: the sample.
        autocast: makes the context in which the student runs.
    """
    hidden, attention = settings.hidden_layers, settings.attention_layers
    logits = settings.matches_predictions and settings.prediction.has_variance
    wants_variances = settings.relative and (hidden or attention or logits)
    if not wants_variances and (offered(student) or not hidden):
        return RunStart()
    mapping, variance = settings.mapping, TeacherVariance(settings)
    source = teachers.source([mapping[m] for m in hidden], [mapping[m] for m in attention], settings.attention_kinds)
    distance, was_training = _AttentionDistance(settings, student), student.training
    capture = FeatureCapture(Encoder.from_model(student), hidden, distance.layers, settings.attention_kinds)
    base = unwrapped(student).base_model
    student.eval()
    states: dict[int, list[tuple[Tensor, ...]]] = {m: [] for m in hidden}
    try:
        for batch in batches:
            mask = batch.get("attention_mask")
            features = source.features(batch, intermediate=bool(hidden or attention), prediction=logits)
            variance.update(features, mask)
            with autocast(), capture.recording(stop=True) as seen:
                base(**accepted_inputs(base, of_student(batch)), **PLAIN_OUTPUT)
            distance.update(seen, features, batch)
            for m in hidden:
                pair = seen.hidden[m], features.hidden[mapping[m]]
                states[m].append(tuple(x.flatten(0, 1) if mask is None else x[mask.bool()] for x in pair))
    finally:
        capture.remove()
        source.close()
        student.train(was_training)
    projections: dict[str, Tensor] = {}
    for m, pairs in states.items():
        student_x, teacher_x = (torch.cat(side).float() for side in zip(*pairs, strict=True))
        fit = least_squares(student_x, teacher_x)
        projections |= {f"{m}.weight": fit.weight, f"{m}.bias": fit.bias}
    variances = variance.compute() if settings.relative else {}
    return RunStart(variances, distance.compute(variances), projections)


class _AttentionDistance:
    """The losses of the student's attention scores, where they decide whether attention is matched.

    Args:
        settings: which levels are matched.
        student: whose random heads can become any.
    """

    def __init__(self, settings: ObjectiveConfig, student: PreTrainedModel) -> None:
        heads = settings.heads
        judged = heads is not None and settings.judges_attention and heads.kind != "relations"
        judged = judged and not is_random(student)
        self.layers = settings.attention_layers if judged else []
        self._settings, self._sums = settings, dict.fromkeys(self.layers, (0.0, 0.0))

    def update(self, student: Features, teacher: Features, batch: Batch) -> None:
        """Add a batch."""
        heads = self._settings.heads
        if not self.layers or heads is None:
            return
        mixings, device = self._settings.mixing(), batch["input_ids"].device
        counts = BatchCounts.from_batches([batch], device, windows=self._settings.windows)
        for m in self.layers:
            mixing = mixings[m].to(device) if m in mixings else None
            layers = m, self._settings.mapping[m]
            found = heads.loss(*layers, student, teacher, mixing, batch.get("attention_mask"), "sum")
            total, count = self._sums[m]
            self._sums[m] = total + float(found), count + float(heads.count(m, counts))

    def compute(self, variances: Mapping[str, float]) -> float | None:
        """The mean over layers of the losses relative to the variances; None where nothing was added."""
        shares = [
            total / count / variances[Level("attention", m).name] for m, (total, count) in self._sums.items() if count
        ]
        return sum(shares) / len(shares) if shares else None


@contextmanager
def _untouched_random_state() -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards the generators are where they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
