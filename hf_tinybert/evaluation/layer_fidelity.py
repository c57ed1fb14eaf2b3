"""How closely a student without a head follows its teacher on held-out text: layer by layer, and in its vectors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert import losses
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.objective import ObjectiveConfig
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.evaluation.attention_maps import attention_probabilities
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture
from hf_tinybert.models.output_types import logits_of
from hf_tinybert.teacher.source import OnlineTeacher


class LayerFidelity:
    """Adds up, over the batches of an evaluation, what the intermediate losses measure and what they mean.

    For every matched layer m there are `loss_embedding`, `loss_hidden_m` and `loss_attention_m` (equations 7 to 9),
    `cosine_embedding` and `cosine_hidden_m`, the mean cosine of the projected hidden state and the teacher's, and
    `attention_overlap_m`, the mean over heads and queries of the probability that the two attention distributions
    share (the sum of the smaller of both at every key: 1 where they are equal). These are means over real positions.
    Where the pooled vectors are matched, `loss_vectors` and `cosine_vectors` are means over texts. `loss` is the
    weighted sum of the losses.

    Args:
        student: in eval mode.
        teacher: frozen.
        projections: of the student's hidden states.
        settings: what is matched, with which weights.
        autocast: makes the context in which the student runs, for mixed precision.
        teacher_autocast: the same for the teacher.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        projections: Projections,
        settings: ObjectiveConfig,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        teacher_autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Put hooks on both models."""
        self._student, self._projections, self._settings, self._autocast = student, projections, settings, autocast
        mapping, kinds = settings.mapping, settings.attention_kinds
        self._capture = FeatureCapture(
            Encoder.from_model(student), settings.hidden_layers, settings.attention_layers, kinds
        )
        self._signal = OnlineTeacher(
            teacher,
            [mapping[m] for m in settings.hidden_layers],
            [mapping[m] for m in settings.attention_layers],
            kinds=kinds,
            autocast=teacher_autocast,
            pooling=settings.prediction.pooling,
        )
        self._accepted = set(inspect.signature(student.base_model.forward).parameters)
        weights = settings.weights
        self._weights = {
            f"loss_{_level(m)}": weights.of_layer("hidden", m) if m else weights["embedding"]
            for m in settings.hidden_layers
        }
        self._weights |= {f"loss_attention_{m}": weights.of_layer("attention", m) for m in settings.attention_layers}
        if settings.prediction.pooling is not None:
            self._weights["loss_vectors"] = weights["prediction"]
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Add a batch and return its loss, and where they are matched the vectors `[B, d]` of student and teacher."""
        pooling = self._settings.prediction.pooling
        layers = bool(self._settings.hidden_layers or self._settings.attention_layers)
        teacher = self._signal.features(inputs, intermediate=layers, prediction=pooling is not None)
        wanted = {name: value for name, value in inputs.items() if name in self._accepted}
        with self._autocast(), self._capture.recording() as student:
            output = self._student.base_model(**wanted, **PLAIN_OUTPUT)
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(inputs["input_ids"])
        real, mapping = mask.bool(), self._settings.mapping
        heads = self._settings.heads
        counts = BatchCounts.from_batches([inputs], mask.device, windows=self._settings.windows)
        sums = {"tokens": counts.tokens, "sequences": counts.sequences}
        vectors = None
        if pooling is not None:
            said = logits_of(output, mask, pooling)
            assert said is not None
            assert teacher.logits is not None
            vectors = self._projections.vectors(said)
            sums["loss_vectors"] = losses.vector_loss(vectors, teacher.logits, "sum")
            sums["cosine_vectors"] = F.cosine_similarity(vectors, teacher.logits, dim=-1).sum()
        for m in self._settings.hidden_layers:
            projected = self._projections(student.hidden[m].float(), m)
            theirs = teacher.hidden[mapping[m]].float()
            sums[f"loss_{_level(m)}"] = losses.hidden_loss(projected, theirs, mask, "sum")
            sums[f"cosine_{_level(m)}"] = F.cosine_similarity(projected, theirs, dim=-1)[real].sum()
        for m in self._settings.attention_layers:
            assert heads is not None
            above = mapping[m]
            mixing = self._projections.mixing_of(m)
            sums[f"count_attention_{m}"] = heads.count(m, counts)
            sums[f"loss_attention_{m}"] = heads.loss(m, above, student, teacher, mixing, mask, "sum")
            if heads.kind == "heads":
                maps = [
                    attention_probabilities(features, layer, heads.teacher_heads, real, heads.windows.get(m))
                    for features, layer in ((student, m), (teacher, above))
                ]
                overlap = torch.minimum(*maps).sum(-1).mean(1)
                sums[f"attention_overlap_{m}"] = overlap[real].sum()
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        return self._loss(sums), vectors, teacher.logits

    def compute(self, prefix: str, accelerator: Any) -> dict[str, float]:
        """The means over all processes, named with a prefix; empty if nothing was added."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        total = accelerator.reduce(torch.stack([self._sums[name].float() for name in names]), reduction="sum")
        sums = dict(zip(names, total.unbind(), strict=True))
        means = {name: _mean(name, sums) for name in names if not name.startswith(("tokens", "sequences", "count"))}
        return {f"{prefix}_{name}": float(value) for name, value in ({"loss": self._loss(sums)} | means).items()}

    def close(self) -> None:
        """Take the hooks off both models."""
        self._capture.remove()
        self._signal.close()

    def _loss(self, sums: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([weight * _mean(name, sums) for name, weight in self._weights.items()]).sum()


def _level(layer: int) -> str:
    return f"hidden_{layer}" if layer else "embedding"


def _mean(name: str, sums: Mapping[str, Tensor]) -> Tensor:
    if name.endswith("_vectors"):
        count = "sequences"
    else:
        count = name.replace("loss", "count") if name.startswith("loss_attention") else "tokens"
    return sums[name] / sums[count].clamp(min=1)
