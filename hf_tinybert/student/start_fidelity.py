"""How closely a student follows its teacher before training, and what a constant answer would reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.losses import agreement_and_kl, vector_loss
from hf_tinybert.models.decisions import decisions
from hf_tinybert.models.features import PLAIN_OUTPUT, accepted_inputs
from hf_tinybert.models.output_types import REGRESSION, SPANS, VECTORS, logits_of
from hf_tinybert.utils.types import Batch

#: The logits of a batch.
Logits = Callable[[Batch], Tensor]


def logits_for(model: PreTrainedModel, batch: Batch, pooling: str | None = None) -> Tensor:
    """A model's logits of a batch, or its pooled vectors.

    Args:
        model: has a head, or `pooling` is given.
        batch: on the model's device.
        pooling: of a model without a head (see `models.output_types.logits_of`).
    """
    logits = logits_of(model(**accepted_inputs(model, batch), **PLAIN_OUTPUT), batch.get("attention_mask"), pooling)
    assert logits is not None
    return logits


@dataclass(frozen=True)
class StartFidelity:
    """Fidelity on a sample of the training texts.

    Attributes:
        agreement: share of equal predictions; None where there are no classes.
        divergence: mean KL divergence of the teacher's distribution from the student's, in nats; without classes, the
            mean squared difference.
        constant_divergence: that of the best constant answer.
        constant_loss: the prediction loss of this answer, before it is divided by the teacher's variance.
    """

    agreement: float | None
    divergence: float
    constant_divergence: float
    constant_loss: float

    @classmethod
    def from_saved(cls, saved: Mapping[str, float | None]) -> StartFidelity:
        """From what a checkpoint keeps, its fields by name."""
        agreement = saved["agreement"]
        numbers = {name: float(value) for name, value in saved.items() if value is not None and name != "agreement"}
        return cls(agreement=agreement, **numbers)

    @property
    def is_chance(self) -> bool:
        """Whether a constant answer is as close to the teacher's."""
        return self.divergence >= self.constant_divergence

    def metrics(self, kind: str) -> dict[str, float]:
        """By the names of the evaluation's metrics."""
        if self.agreement is not None:
            return {"agreement": self.agreement, "kl": self.divergence}
        return {"cosine_vectors": 1.0 - self.divergence / 2} if kind == VECTORS else {"teacher_mse": self.divergence}

    def describe(self, kind: str) -> str:
        """In words."""
        if self.agreement is not None:
            end = f"(of a constant answer {self.constant_divergence:.3f})"
            return f"agreement {self.agreement:.1%} and KL {self.divergence:.3f} {end}"
        name, value = next(iter(self.metrics(kind).items()))
        constant = StartFidelity(None, self.constant_divergence, 0.0, 0.0).metrics(kind)[name]
        return f"{name} {value:.4g} (of a constant answer {constant:.4g})"


@torch.no_grad()
def measure_fidelity(
    kind: str, student: Logits, teacher: Logits, batches: Sequence[Batch], temperature: float = 1.0
) -> StartFidelity:
    """Compare two models.

    Args:
        kind: the output type (see `models.output_types`).
        student: gives the student's logits of a batch; without a head, its vectors in the teacher's width.
        teacher: gives the teacher's, classes in the student's order.
        batches: the sample.
        temperature: of the prediction loss.
    """
    if kind in (REGRESSION, VECTORS):
        pairs = [(student(batch).float(), teacher(batch).float()) for batch in batches]
        return _of_values(kind, *(torch.cat(side) for side in zip(*pairs, strict=True)))
    sums = _ClassSums(kind, temperature)
    for batch in batches:
        sums.add(student(batch), teacher(batch), batch)
    return sums.compute()


def _of_values(kind: str, student: Tensor, teacher: Tensor) -> StartFidelity:
    if kind == VECTORS:
        mean = torch.nn.functional.normalize(teacher, dim=-1).mean(dim=0)
        constant = 2.0 - 2.0 * float(mean.norm())
        return StartFidelity(None, float(vector_loss(student, teacher)), constant, constant)
    variance = float(teacher.var(dim=0, correction=0).mean())
    return StartFidelity(None, float((student - teacher).square().mean()), variance, variance)


class _ClassSums:
    """Sums over decisions between classes."""

    def __init__(self, kind: str, temperature: float) -> None:
        self._kind, self._temperature = kind, temperature
        self._count = self._agreement = self._divergence = self._entropy = self._uniform = 0.0
        self._mean: Tensor | None = None
        self._softened: Tensor | None = None

    def add(self, student_logits: Tensor, teacher_logits: Tensor, inputs: Batch) -> None:
        """Add a batch."""
        student, kept = decisions(self._kind, student_logits, inputs)
        teacher, _ = decisions(self._kind, teacher_logits, inputs)
        if kept is not None:
            student, teacher = student[kept], teacher[kept]
        agreement, divergence = agreement_and_kl(student, teacher)
        self._count += agreement.numel()
        self._agreement += float(agreement.sum())
        self._divergence += float(divergence.sum())
        log_p = teacher.log_softmax(dim=-1)
        self._entropy -= float((log_p.exp() * log_p).sum())
        if self._kind == SPANS:  # positions have no constant probability
            self._uniform += float((teacher > torch.finfo(teacher.dtype).min).sum(dim=-1).float().log().sum())
            return
        probabilities, softened = log_p.exp().double(), (teacher / self._temperature).softmax(dim=-1).double()
        self._mean = _added(self._mean, probabilities.sum(dim=0))
        self._softened = _added(self._softened, softened.sum(dim=0))

    def compute(self) -> StartFidelity:
        """Means."""
        count, scale = max(self._count, 1.0), self._temperature**2
        if self._mean is None or self._softened is None:
            cross = soft = self._uniform / count
        else:
            cross, soft = _entropy(self._mean), _entropy(self._softened)
        return StartFidelity(
            self._agreement / count, self._divergence / count, max(cross - self._entropy / count, 0.0), soft * scale
        )


def _added(total: Tensor | None, new: Tensor) -> Tensor:
    return new if total is None else total + new


def _entropy(sums: Tensor) -> float:
    """The mean entropy of distributions `[..., C]`, given up to their scale."""
    p = sums / sums.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return float(torch.special.entr(p).sum(dim=-1).mean())
