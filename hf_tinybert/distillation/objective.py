"""Student and projections as one module whose forward pass in training is the distillation loss.

The Trainer trains this module, and DDP or FSDP wraps it: the loss is computed inside the wrapped forward pass, and
the projections are parameters like any other. Without a `Step`, its forward pass is the student's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from hf_tinybert import losses
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.attention_precision import fast_attention
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.output_types import LABELS, logits_of
from hf_tinybert.models.peft import unwrapped
from hf_tinybert.utils.types import Batch

logger = logging.get_logger(__name__)

#: Name and weight of a level, and this share's part of the global mean of its loss.
_Term: TypeAlias = tuple[str, float, Tensor]


@dataclass(frozen=True)
class Weights:
    """The weight of every level and layer: lambda_m of equation 5.

    Attributes:
        levels: kind of level -> weight, for `embedding`, `hidden`, `attention`, `prediction` and `hard_label`; a
            level with weight 0 is not computed.
        layers: student layer -> factor on that layer's hidden and attention loss; 1 where missing.
    """

    levels: Mapping[str, float]
    layers: Mapping[int, float] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> float:
        """The weight of a kind of level."""
        return float(self.levels.get(kind, 0.0))

    def of(self, level: Level) -> float:
        """The weight of a level, times the factor on its layer."""
        return self[level.kind] * (1.0 if level.layer is None else float(self.layers.get(level.layer, 1.0)))


class Step:
    """The inputs of one training forward pass other than the student's.

    Args:
        teacher: the teacher's features of the batch, which the forward pass takes.
        levels: the kinds of level that are matched.
        counts: of the global batch.
    """

    def __init__(self, teacher: Features, levels: frozenset[str], counts: BatchCounts) -> None:
        """Keep them for the forward pass."""
        self.levels = levels
        self.counts = counts
        self._teacher: Features | None = teacher

    def take_teacher(self) -> Features:
        """The teacher's features, which the caller may consume.

        Raises:
            RuntimeError: they have been taken before; a step is for one forward pass.
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
        label_alignment: the indices of the student's classes among the teacher's.
        relative: losses are measured relative to the teacher's variance (see `teacher_variance`).
        judges_attention: attention is matched only where the student's heads are the teacher's (see `run_start`).
        matches_predictions: a phase of the run compares outputs.
    """

    mapping: LayerMapping
    weights: Weights
    heads: HeadMatching | None = None
    prediction: OutputLoss = field(default_factory=OutputLoss)
    label_alignment: LabelAlignment = field(default_factory=LabelAlignment)
    relative: bool = False
    judges_attention: bool = False
    matches_predictions: bool = True

    @property
    def hidden_layers(self) -> list[int]:
        """Student layers whose output is matched; 0 is the embedding block."""
        return [m for m in self.mapping if self.weights.of(Level.of_states(m))]

    @property
    def attention_layers(self) -> list[int]:
        """Student layers whose attention is matched."""
        if self.heads is None:
            return []
        return [m for m in self.mapping.layers if self.weights.of(Level("attention", m))]

    def without_attention(self) -> ObjectiveConfig:
        """The same without the attention level."""
        weights = Weights(dict(self.weights.levels) | {"attention": 0.0}, self.weights.layers)
        return replace(self, weights=weights, heads=None, judges_attention=False)

    @property
    def attention_kinds(self) -> tuple[str, ...]:
        """The features captured in the layers whose attention is matched (see `FeatureCapture`)."""
        return () if self.heads is None else self.heads.kinds

    @property
    def windows(self) -> set[int]:
        """The windows within which pairs are counted."""
        return set() if self.heads is None else self.heads.distinct_windows

    def mixing(self) -> dict[int, Tensor]:
        """Student layer -> initial weights of its mixture of heads; empty if heads are not mixed."""
        if self.heads is None or self.heads.kind != "mixing":
            return {}
        return {layer: self.heads.start_of_mixing() for layer in self.attention_layers}

    def say_what_is_matched(self) -> None:
        """Log which layers are, and how attention is compared, unless it is head by head."""
        logger.info(f"Layer mapping:\n{self.mapping}")
        if self.heads is not None and self.heads.kind != "heads":
            logger.warning_once(f"Attention is compared by head_matching={self.heads.kind!r}: {self.heads.why}.")


class DistillationObjective(nn.Module):
    """The module that is trained; its parameters are the student's and the projections'.

    Args:
        student: the model to be trained; only hooks are added, which `detach` removes.
        encoder: the student's parts.
        projections: from the student's width to the teacher's.
        settings: which levels are matched, and how.
        variances: level name -> the teacher's variance, by which the level's loss is divided; 1 where missing.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        encoder: Encoder,
        projections: Projections,
        settings: ObjectiveConfig,
        variances: Mapping[str, float] | None = None,
    ) -> None:
        """Put hooks on the student's matched layers."""
        super().__init__()
        self.student = student
        self.projections = projections
        self.settings = settings
        self.variances = dict(variances or {})
        self._capture = FeatureCapture(
            encoder, settings.hidden_layers, settings.attention_layers, settings.attention_kinds
        )
        # Student layer -> name and weight of its losses; computed here, outside of what torch.compile traces.
        states = {m: Level.of_states(m) for m in settings.hidden_layers}
        attentions = {m: Level("attention", m) for m in settings.attention_layers}
        self._states = {m: (level.name, settings.weights.of(level)) for m, level in states.items()}
        self._attentions = {m: (level.name, settings.weights.of(level)) for m, level in attentions.items()}
        # The layers' losses are sums over this share, which `_part` divides by the global counts.
        self._reduction: losses.Reduction = "paper" if settings.prediction.reduction == "paper" else "sum"
        self._accepted = set(inspect.signature(unwrapped(student).forward).parameters)

    def forward(self, step: Step | None = None, **inputs: Tensor) -> ModelOutput | tuple[Tensor, dict[str, Tensor]]:
        """The student's output, or with a `step` the pair (loss, parts).

        The loss is this share's part of the mean over the global batch, times the number of shares (see
        `BatchCounts`). The parts are detached, unweighted and relative to `variances`, by level name: `embedding`,
        `hidden_1`, `attention_1`, `prediction`, `hard_label`; summed over all shares they are the global batch's
        means.

        Raises:
            ValueError: no level of the step has a weight above 0, or a model has no logits for the prediction level.
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
        teacher = step.take_teacher()
        terms = self._layer_terms(features, teacher, step, inputs.get("attention_mask"))
        for name, weight, value in terms + self._output_terms(features, teacher, step, inputs):
            value = value / self.variances.get(name, 1.0)
            weighted.append(weight * value)
            parts[name] = value.detach()
        if not weighted:
            raise ValueError(f"None of the levels {', '.join(sorted(step.levels))} has a weight above 0.")
        return torch.stack(weighted).sum() * step.counts.shares, parts

    def start_phase(self, layers: bool) -> None:
        """Begin a phase; the hooks are on the student only in phases that match layers."""
        if layers:
            self._capture.attach()
        else:
            self._capture.remove()

    def detach(self) -> PreTrainedModel:
        """Remove the hooks and return the student."""
        self._capture.remove()
        return self.student

    def _layer_terms(self, student: Features, teacher: Features, step: Step, mask: Tensor | None) -> list[_Term]:
        """The losses of the embedding, hidden and attention levels.

        The teacher's features of a layer are dropped as soon as its losses are computed.
        """
        settings, reduction = self.settings, self._reduction
        terms: list[_Term] = []
        layers = sorted({*self._states, *self._attentions})
        while layers:
            layer = layers.pop()
            teacher_layer = settings.mapping[layer]
            if settings.heads is not None and layer in self._attentions and "attention" in step.levels:
                mixing = self.projections.mixing_of(layer)
                value = settings.heads.loss(layer, teacher_layer, student, teacher, mixing, mask, reduction)
                count = settings.heads.count(layer, step.counts)
                terms.append((*self._attentions[layer], self._part(value, count, step)))
            if layer in self._states and ("hidden" if layer else "embedding") in step.levels:
                projected = self.projections(student.hidden[layer], layer)
                value = losses.hidden_loss(projected, teacher.hidden[teacher_layer], mask, reduction)
                del projected
                terms.append((*self._states[layer], self._part(value, step.counts.tokens, step)))
            if all(settings.mapping[other] != teacher_layer for other in layers):
                teacher.forget(teacher_layer)
        return terms

    def _output_terms(self, student: Features, teacher: Features, step: Step, inputs: Batch) -> list[_Term]:
        """The losses of the prediction and hard-label levels."""
        prediction, weights = self.settings.prediction, self.settings.weights
        terms: list[_Term] = []
        if "prediction" in step.levels and weights["prediction"]:
            logits = _logits(student, "student")
            if prediction.pooling is not None:
                logits = self.projections.vectors(logits)
            total, count = prediction.soft(logits, _logits(teacher, "teacher"), inputs, step.counts)
            terms.append(("prediction", weights["prediction"], self._part(total, count, step)))
        if "hard_label" in step.levels and weights["hard_label"]:
            value = prediction.hard(_logits(student, "student"), inputs, step.counts)
            terms.append(("hard_label", weights["hard_label"], value))
        return terms

    def _part(self, value: Tensor, count: Tensor, step: Step) -> Tensor:
        """A sum over this share, divided by the global count (or, as in the paper's code, a plain mean)."""
        if self._reduction == "paper":
            return value / step.counts.shares
        return value / count.clamp(min=1)

    # Methods of a model that the Trainer and its callbacks call.

    @property
    def config(self) -> PretrainedConfig:
        """The student's configuration."""
        return self.student.config

    def floating_point_ops(self, inputs: Batch, exclude_embeddings: bool = True) -> int:
        """The student's floating-point operations for a batch, forward and backward."""
        operations: int = self.student.floating_point_ops(inputs, exclude_embeddings=exclude_embeddings)
        return operations

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The student's number of parameters."""
        number: int = self.student.num_parameters(only_trainable, exclude_embeddings)
        return number

    def gradient_checkpointing_enable(self, *args: object, **kwargs: object) -> None:
        """Pass on to the student."""
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def activation_checkpointing_enable(self, *args: object, **kwargs: object) -> None:
        """Pass on to the student (the newer name of gradient checkpointing)."""
        self.student.activation_checkpointing_enable(*args, **kwargs)


def _logits(features: Features, model: str) -> Tensor:
    if features.logits is None:
        raise ValueError(f"The {model} has no logits for the prediction level to compare: use phases='intermediate'.")
    return features.logits
