"""How closely a student without a head follows its teacher, layer by layer, on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert import losses
from hf_tinybert.families import locate
from hf_tinybert.features import PLAIN_OUTPUT, FeatureCapture
from hf_tinybert.objective import Settings
from hf_tinybert.projections import Projections
from hf_tinybert.teacher_signal import LiveTeacher


class Fidelity:
    """Adds up, over the batches of an evaluation, what the intermediate losses measure and what they mean.

    For every matched layer m there are `loss_embedding`, `loss_hidden_m` and `loss_attention_m` (equations 7 to 9),
    `cosine_embedding` and `cosine_hidden_m`, the mean cosine of the projected hidden state and the teacher's, and
    `attention_overlap_m`, the mean over heads and queries of the probability that the two attention distributions
    share (the sum of the smaller of both at every key: 1 where they are equal). `loss` is the weighted sum of the
    losses. All are means over real positions.

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
        settings: Settings,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        teacher_autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Put hooks on both models."""
        self._student, self._projections, self._settings, self._autocast = student, projections, settings, autocast
        encoder, mapping = locate(student), settings.mapping
        self._num_heads = encoder.num_heads
        self._capture = FeatureCapture(encoder, settings.hidden_layers, settings.attention_layers)
        self._signal = LiveTeacher(
            teacher,
            [mapping[m] for m in settings.hidden_layers],
            [mapping[m] for m in settings.attention_layers],
            autocast=teacher_autocast,
        )
        weights = settings.weights
        self._weights = {
            f"loss_{_level(m)}": weights.of_layer("hidden", m) if m else weights["embedding"]
            for m in settings.hidden_layers
        }
        self._weights |= {f"loss_attention_{m}": weights.of_layer("attention", m) for m in settings.attention_layers}
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, inputs: Mapping[str, Any]) -> Tensor:
        """Add a batch and return its loss."""
        teacher = self._signal.features(inputs, intermediate=True, prediction=False)
        wanted = {name: value for name, value in inputs.items() if name in self._signal.inputs}
        with self._autocast(), self._capture.recording() as student:
            self._student.base_model(**wanted, **PLAIN_OUTPUT)
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(inputs["input_ids"])
        real, mapping = mask.bool(), self._settings.mapping
        lengths = real.sum(-1).float()
        sums = {"tokens": lengths.sum(), "pairs": lengths.square().sum()}
        for m in self._settings.hidden_layers:
            projected = self._projections(student.hidden[m].float(), m)
            theirs = teacher.hidden[mapping[m]].float()
            sums[f"loss_{_level(m)}"] = losses.hidden_loss(projected, theirs, mask, "sum")
            sums[f"cosine_{_level(m)}"] = F.cosine_similarity(projected, theirs, dim=-1)[real].sum()
        for m in self._settings.attention_layers:
            ours = student.queries[m], student.keys[m]
            theirs_too = teacher.queries[mapping[m]], teacher.keys[mapping[m]]
            sums[f"loss_attention_{m}"] = losses.attention_loss(*ours, *theirs_too, self._num_heads, mask, "sum")
            maps = [_attention(query, key, self._num_heads, real) for query, key in (ours, theirs_too)]
            overlap = torch.minimum(*maps).sum(-1).mean(1)
            sums[f"attention_overlap_{m}"] = overlap[real].sum()
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        return self._loss(sums)

    def compute(self, prefix: str, accelerator: Any) -> dict[str, float]:
        """The means over all processes, named with a prefix; empty if nothing was added."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        total = accelerator.reduce(torch.stack([self._sums[name].float() for name in names]), reduction="sum")
        sums = dict(zip(names, total.unbind(), strict=True))
        means = {name: _mean(name, sums) for name in names if name not in ("tokens", "pairs")}
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
    return sums[name] / sums["pairs" if name.startswith("loss_attention") else "tokens"].clamp(min=1)


def _attention(query: Tensor, key: Tensor, num_heads: int, real: Tensor) -> Tensor:
    """Attention distributions `[B, h, S, S]` from queries and keys `[B, S, h * d]`."""
    q, k = (x.float().unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~real[:, None, None, :], float("-inf")).softmax(-1)
