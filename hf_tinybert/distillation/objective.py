"""Student and projections as one module whose forward pass in training is the distillation loss.

This is what the Trainer trains, and what DDP or FSDP wraps: the loss is computed inside the wrapped forward
pass, and the projections are parameters like any other. In eval mode it is the student and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_tinybert import losses
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.attention_precision import fast_attention
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.output_types import LABELS, logits_of
from hf_tinybert.models.peft import unwrapped

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Weights:
    """The weight of every level and layer: lambda_m of equation 5.

    Attributes:
        levels: level -> weight, for `embedding`, `hidden`, `attention`, `prediction` and `hard_label`; a
            level with weight 0 is not computed.
        layers: student layer -> factor on that layer's hidden and attention loss; 1 where missing.
    """

    levels: Mapping[str, float]
    layers: Mapping[int, float] = field(default_factory=dict)

    def __getitem__(self, level: str) -> float:
        """The weight of a level."""
        return float(self.levels.get(level, 0.0))

    def of_layer(self, level: str, layer: int) -> float:
        """The weight of a level at a student layer."""
        return self[level] * float(self.layers.get(layer, 1.0))


class Step:
    """What one training forward pass needs beside the student's inputs.

    Args:
        teacher: the teacher's features of the batch, which the forward pass takes.
        levels: which levels are matched.
        counts: what the global batch holds.
    """

    def __init__(self, teacher: Features, levels: frozenset[str], counts: BatchCounts) -> None:
        """Keep them for the forward pass."""
        self.levels = levels
        self.counts = counts
        self._teacher: Features | None = teacher

    def take_teacher(self) -> Features:
        """The teacher's features, which are the caller's to consume from then on.

        Raises:
            RuntimeError: they have been taken; a step is for one forward pass.
        """
        if self._teacher is None:
            raise RuntimeError(
                "The teacher's features of this step have been taken: make a Step for each forward pass."
            )
        teacher, self._teacher = self._teacher, None
        return teacher


@dataclass(frozen=True)
class ObjectiveConfig:
    """How the losses are computed.

    Attributes:
        mapping: which layers are matched.
        weights: of levels and layers.
        heads: how attention is compared; None where it is not.
        prediction: how the prediction level is computed.
        label_order: where the student's classes are among the teacher's.
    """

    mapping: LayerMapping
    weights: Weights
    heads: HeadMatching | None = None
    prediction: OutputLoss = field(default_factory=OutputLoss)
    label_alignment: LabelAlignment = field(default_factory=LabelAlignment)

    @property
    def hidden_layers(self) -> list[int]:
        """Student layers whose output is matched; 0 is the embedding block."""
        layers = [m for m in self.mapping.layers if self.weights.of_layer("hidden", m)]
        return ([0] if self.mapping.has_embeddings and self.weights["embedding"] else []) + layers

    @property
    def attention_layers(self) -> list[int]:
        """Student layers whose attention is matched."""
        if self.heads is None:
            return []
        return [m for m in self.mapping.layers if self.weights.of_layer("attention", m)]

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """What is wanted of the layers whose attention is matched (see `FeatureCapture`)."""
        return () if self.heads is None else self.heads.kinds

    @property
    def windows(self) -> set[int]:
        """The windows that pairs must be counted for."""
        return set() if self.heads is None else self.heads.distinct_windows

    def mixing(self) -> dict[int, Tensor]:
        """Student layer -> starting weights of its mixture of heads, where heads are mixed."""
        if self.heads is None or self.heads.kind != "mixing":
            return {}
        return {layer: self.heads.start_of_mixing() for layer in self.attention_layers}

    def say_heads(self) -> None:
        """Say how attention is compared where heads do not simply meet their like."""
        if self.heads is not None and self.heads.kind != "heads":
            logger.warning_once(f"Attention is compared by head_matching={self.heads.kind!r}: {self.heads.why}.")


class DistillationObjective(nn.Module):
    """The module that is trained; its parameters are the student's and the projections'.

    Args:
        student: the model to be trained, left as it is but for hooks that `detach` removes.
        encoder: the student's parts.
        projections: from the student's width to the teacher's.
        settings: what to match and how.
    """

    def __init__(
        self, student: PreTrainedModel, encoder: Encoder, projections: Projections, settings: ObjectiveConfig
    ) -> None:
        """Put hooks on the student's matched layers."""
        super().__init__()
        self.student = student
        self.projections = projections
        self.settings = settings
        self._capture = FeatureCapture(
            encoder, settings.hidden_layers, settings.attention_layers, settings.attention_kinds
        )
        self._accepted = set(inspect.signature(unwrapped(student).forward).parameters)

    def forward(self, step: Step | None = None, **inputs: Any) -> Any:
        """The student's output, or with a `step` the pair (loss, parts).

        The loss is this share's part of the mean over the global batch, times the number of shares (see
        `BatchCounts`). The parts are detached and unweighted, by name: `embedding`, `hidden_1`,
        `attention_1`, `prediction`, `hard_label`; summed over all shares they are the global batch's means.
        """
        if step is None:
            return self.student(**inputs)
        wanted = {
            name: value
            for name, value in inputs.items()
            if name in self._accepted and name not in (*LABELS, *PLAIN_OUTPUT)
        }
        with_head = bool(step.levels & {"prediction", "hard_label"})
        student = unwrapped(self.student)
        with self._capture.recording() as features, fast_attention(student, student.device):
            output = (student if with_head else student.base_model)(**wanted, **PLAIN_OUTPUT)
        if with_head:
            features.logits = logits_of(output, inputs.get("attention_mask"), self.settings.prediction.pooling)
        weighted: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for name, weight, value in self._losses(features, step.take_teacher(), step, inputs):
            weighted.append(weight * value)
            parts[name] = value.detach()
        if not weighted:
            raise ValueError(f"None of the levels {', '.join(sorted(step.levels))} has a weight above 0.")
        return torch.stack(weighted).sum() * step.counts.shares, parts

    def start_phase(self, layers: bool) -> None:
        """A phase begins; without layers to match, there are no hooks."""
        if layers:
            self._capture.attach()
        else:
            self._capture.remove()

    def detach(self) -> PreTrainedModel:
        """Take the hooks off and hand the student back."""
        self._capture.remove()
        return self.student

    def _losses(self, student: Features, teacher: Features, step: Step, inputs: Mapping[str, Any]) -> Any:
        """Yield (name, weight, this share's part of the global mean) for every loss of the step.

        The teacher's features of a layer are let go as soon as its losses are computed.
        """
        settings, weights = self.settings, self.settings.weights
        mask = inputs.get("attention_mask")
        layers = sorted({*settings.hidden_layers, *settings.attention_layers})
        while layers:
            layer = layers.pop()
            above = settings.mapping[layer]
            if layer in settings.attention_layers and "attention" in step.levels:
                assert settings.heads is not None
                mixing = self.projections.mixing_of(layer)
                count = settings.heads.count(layer, step.counts)
                value = self._share(
                    count, step, settings.heads.loss, layer, above, student, teacher, mixing=mixing, mask=mask
                )
                yield f"attention_{layer}", weights.of_layer("attention", layer), value
            if layer in settings.hidden_layers and ("hidden" if layer else "embedding") in step.levels:
                projected = self.projections(student.hidden[layer], layer)
                value = self._share(
                    step.counts.tokens, step, losses.hidden_loss, projected, teacher.hidden[above], mask=mask
                )
                del projected
                if layer == 0:
                    yield "embedding", weights["embedding"], value
                else:
                    yield f"hidden_{layer}", weights.of_layer("hidden", layer), value
            if all(settings.mapping[other] != above for other in layers):
                teacher.forget(above)
        if "prediction" in step.levels and weights["prediction"]:
            assert student.logits is not None
            assert teacher.logits is not None
            said = student.logits
            if settings.prediction.pooling is not None:
                said = self.projections.vectors(said)
            total, count = settings.prediction.soft(said, teacher.logits, inputs, step.counts)
            yield "prediction", weights["prediction"], self._part(total, count, step)
        if "hard_label" in step.levels and weights["hard_label"]:
            assert student.logits is not None
            yield "hard_label", weights["hard_label"], settings.prediction.hard(student.logits, inputs, step.counts)

    def _share(self, count: Tensor, step: Step, loss: Any, *args: Any, **kwargs: Any) -> Tensor:
        """An intermediate loss over this share as its part of the mean over the global batch."""
        reduction = "paper" if self.settings.prediction.reduction == "paper" else "sum"
        return self._part(loss(*args, reduction=reduction, **kwargs), count, step)

    def _part(self, value: Tensor, count: Tensor, step: Step) -> Tensor:
        """A sum over this share, divided by the global count (or, as in the paper's code, a plain mean)."""
        if self.settings.prediction.reduction == "paper":
            return value / step.counts.shares
        return value / count.clamp(min=1)

    # What the Trainer and its callbacks ask a model for.

    @property
    def config(self) -> Any:
        """The student's configuration."""
        return self.student.config

    def floating_point_ops(self, inputs: dict[str, Any], exclude_embeddings: bool = True) -> int:
        """The student's floating-point operations for a batch, forward and backward."""
        operations: int = self.student.floating_point_ops(inputs, exclude_embeddings=exclude_embeddings)
        return operations

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The student's number of parameters."""
        number: int = self.student.num_parameters(only_trainable, exclude_embeddings)
        return number

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Pass on to the student."""
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Pass on to the student (the newer name of gradient checkpointing)."""
        self.student.activation_checkpointing_enable(*args, **kwargs)
