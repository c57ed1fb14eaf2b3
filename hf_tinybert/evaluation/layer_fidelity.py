"""Fidelity of a student without a head to its teacher on held-out text, by layer and in its pooled vectors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert import losses
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.objective import ObjectiveConfig
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.evaluation.attention_maps import attention_probabilities
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features
from hf_tinybert.models.pooling import pool
from hf_tinybert.teacher.source import OnlineTeacher
from hf_tinybert.utils.types import Autocast, Batch, Reduces

#: Counts of a batch, by the names under which they are summed.
_TOKENS, _SEQUENCES = "tokens", "sequences"
#: The level of pooled vectors.
_VECTORS = Level("vectors")


class LayerFidelity:
    """Sums the intermediate losses, and similarities that are easier to read, over the batches of an evaluation.

    For every matched layer m there are `loss_embedding`, `loss_hidden_m` and `loss_attention_m` (equations 7 to 9),
    `cosine_embedding` and `cosine_hidden_m`, the mean cosine of the projected hidden state and the teacher's, and
    `attention_overlap_m`, the mean over heads and queries of the probability that the two attention distributions
    share (the sum over keys of the smaller of both: 1 if they are equal). These are means over real positions. If the
    pooled vectors are matched, `loss_vectors` and `cosine_vectors` are means over texts. `loss` is the weighted sum of
    the losses. Losses are relative to the teacher's variance where those of the training were.

    Args:
        student: in eval mode.
        teacher: frozen.
        projections: of the student's hidden states.
        settings: which levels are matched, and their weights.
        autocast: makes the context in which the student runs, for mixed precision.
        teacher_autocast: the same for the teacher.
        variances: level name -> the teacher's variance, relative to which the student was trained.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        projections: Projections,
        settings: ObjectiveConfig,
        autocast: Autocast = nullcontext,
        teacher_autocast: Autocast = nullcontext,
        variances: Mapping[str, float] | None = None,
    ) -> None:
        """Put hooks on both models."""
        self._student, self._projections, self._settings, self._autocast = student, projections, settings, autocast
        mapping, kinds = settings.mapping, settings.attention_kinds
        self._capture = FeatureCapture(
            Encoder.from_model(student), settings.hidden_layers, settings.attention_layers, kinds
        )
        self._source = OnlineTeacher(
            teacher,
            [mapping[m] for m in settings.hidden_layers],
            [mapping[m] for m in settings.attention_layers],
            kinds=kinds,
            autocast=teacher_autocast,
            pooling=settings.prediction.pooling,
        )
        self._accepted = set(inspect.signature(student.base_model.forward).parameters)
        attentions = [Level("attention", m) for m in settings.attention_layers]
        levels = [Level.of_states(m) for m in settings.hidden_layers] + attentions
        self._weights = {level.loss_name: settings.weights.of(level) for level in levels}
        self._variances = {Level.parse(name).loss_name: value for name, value in (variances or {}).items()}
        # Metric -> the count that it is a mean over; tokens if it is not listed.
        self._count_of = {level.loss_name: f"count_{level.name}" for level in attentions}
        if settings.prediction.pooling is not None:
            self._weights[_VECTORS.loss_name] = settings.weights["prediction"]
            self._count_of |= {_VECTORS.loss_name: _SEQUENCES, f"cosine_{_VECTORS.name}": _SEQUENCES}
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, inputs: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Add a batch; return its loss and, if vectors are matched, those of student and teacher, `[B, d]`."""
        pooling = self._settings.prediction.pooling
        layers = bool(self._settings.hidden_layers or self._settings.attention_layers)
        teacher = self._source.features(inputs, intermediate=layers, prediction=pooling is not None)
        wanted = {name: value for name, value in inputs.items() if name in self._accepted}
        with self._autocast(), self._capture.recording() as student:
            output = self._student.base_model(**wanted, **PLAIN_OUTPUT)
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(inputs["input_ids"])
        counts = BatchCounts.from_batches([inputs], mask.device, windows=self._settings.windows)
        sums = {_TOKENS: counts.tokens, _SEQUENCES: counts.sequences}
        vectors = None
        if pooling is not None and teacher.logits is not None:
            vectors = self._projections.vectors(pool(output["last_hidden_state"], mask, pooling))
            sums[_VECTORS.loss_name] = losses.vector_loss(vectors, teacher.logits, "sum")
            sums[f"cosine_{_VECTORS.name}"] = F.cosine_similarity(vectors, teacher.logits, dim=-1).sum()
        sums |= self._of_states(student, teacher, mask)
        if self._settings.heads is not None:
            sums |= self._of_attention(self._settings.heads, student, teacher, mask, counts)
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        return self._loss(sums), vectors, teacher.logits

    def compute(self, prefix: str, accelerator: Reduces) -> dict[str, float]:
        """The means over all processes, named with a prefix; empty if nothing was added."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        total = accelerator.reduce(torch.stack([self._sums[name].float() for name in names]), reduction="sum")
        sums = dict(zip(names, total.unbind(), strict=True))
        counts = {_TOKENS, _SEQUENCES, *self._count_of.values()}
        means = {name: self._mean(name, sums) for name in names if name not in counts}
        return {f"{prefix}_{name}": float(value) for name, value in ({"loss": self._loss(sums)} | means).items()}

    def close(self) -> None:
        """Remove the hooks from both models."""
        self._capture.remove()
        self._source.close()

    def _of_states(self, student: Features, teacher: Features, mask: Tensor) -> dict[str, Tensor]:
        """Sums of the embedding and hidden levels."""
        real = mask.bool()
        sums: dict[str, Tensor] = {}
        for m in self._settings.hidden_layers:
            level = Level.of_states(m)
            student_states = self._projections(student.hidden[m].float(), m)
            teacher_states = teacher.hidden[self._settings.mapping[m]].float()
            sums[level.loss_name] = losses.hidden_loss(student_states, teacher_states, mask, "sum")
            sums[f"cosine_{level.name}"] = F.cosine_similarity(student_states, teacher_states, dim=-1)[real].sum()
        return sums

    def _of_attention(
        self, heads: HeadMatching, student: Features, teacher: Features, mask: Tensor, counts: BatchCounts
    ) -> dict[str, Tensor]:
        """Sums of the attention levels, and the counts that they are means over."""
        real = mask.bool()
        sums: dict[str, Tensor] = {}
        for m in self._settings.attention_layers:
            level, teacher_layer = Level("attention", m), self._settings.mapping[m]
            mixing = self._projections.mixing_of(m)
            sums[self._count_of[level.loss_name]] = heads.count(m, counts)
            sums[level.loss_name] = heads.loss(m, teacher_layer, student, teacher, mixing, mask, "sum")
            if heads.kind == "heads":
                maps = [
                    attention_probabilities(features, layer, heads.teacher_heads, real, heads.windows.get(m))
                    for features, layer in ((student, m), (teacher, teacher_layer))
                ]
                overlap = torch.minimum(*maps).sum(-1).mean(1)
                sums[_overlap_name(level)] = overlap[real].sum()
        return sums

    def _loss(self, sums: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([weight * self._mean(name, sums) for name, weight in self._weights.items()]).sum()

    def _mean(self, name: str, sums: Mapping[str, Tensor]) -> Tensor:
        mean = sums[name] / sums[self._count_of.get(name, _TOKENS)].clamp(min=1)
        return mean / self._variances.get(name, 1.0)


def fidelity_table(metrics: Mapping[str, float], sequences: int, prefix: str = "eval") -> str:
    """The metrics of `LayerFidelity` as a text table, a row for each level.

    Args:
        metrics: of an evaluation.
        sequences: number of sequences that were evaluated.
        prefix: of the metrics' names.
    """
    start = f"{prefix}_loss_"
    levels = [Level.parse(name.removeprefix(start)) for name in metrics if name.startswith(start)]
    lines = [f"\nOn {sequences} held-out sequences (loss {metrics[f'{prefix}_loss']:.4f})", ""]
    lines.append(f"{'level':<14}{'loss':>10}{'cosine':>10}{'overlap':>10}")
    for level in levels:
        names = [level.loss_name, f"cosine_{level.name}"]
        if level.kind == "attention":
            names.append(_overlap_name(level))
        values = [metrics.get(f"{prefix}_{name}") for name in names]
        cells = [" " * 10 if value is None else f"{value:>10.4f}" for value in values]
        lines.append(f"{level.name:<14}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def _overlap_name(level: Level) -> str:
    return f"attention_overlap_{level.layer}"
