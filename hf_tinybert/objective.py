"""Student and projections as one module whose forward pass in training is the distillation loss.

This is what the Trainer trains, and what DDP or FSDP wraps: the loss is computed inside the wrapped forward
pass, and the projections are parameters like any other. In eval mode it is the student and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from hf_tinybert import losses
from hf_tinybert.attention_precision import fast_attention
from hf_tinybert.families import Encoder
from hf_tinybert.features import PLAIN_OUTPUT, FeatureCapture, Features
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.projections import Projections


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


@dataclass(frozen=True)
class BatchCounts:
    """How many things a global batch holds, over all its micro-batches and processes.

    Means are taken over these counts, so that accumulating micro-batches, or splitting them over processes,
    gives the gradient of the whole batch whatever their lengths.

    Attributes:
        sequences: rows.
        tokens: real positions.
        pairs: real (query, key) pairs, the sum of squared lengths.
        labels: labelled rows, or labelled positions in token-level tasks.
        shares: micro-batches times processes; the Trainer and DDP average over them, so each share's sum is
            multiplied by it first.
    """

    sequences: Tensor
    tokens: Tensor
    pairs: Tensor
    labels: Tensor
    shares: int

    @classmethod
    def of_batches(
        cls,
        batches: Sequence[Mapping[str, Any]],
        device: torch.device,
        longest: int | None = None,
        reduce: Callable[..., Tensor] | None = None,
        processes: int = 1,
        count_rows: bool = False,
    ) -> BatchCounts:
        """Count a step's micro-batches, over all processes, without waiting for the device.

        Args:
            batches: this process's micro-batches, with `input_ids` `[B, S]` and, where they have them,
                `attention_mask` and `labels`.
            device: where the counts live.
            longest: the longest input that the models take.
            reduce: `accelerator.reduce`, where there are several processes.
            processes: how many there are.
            count_rows: every row counts as one label, as in multi-label tasks, whose labels are `[B, C]`.

        Raises:
            ValueError: an input is longer than `longest`.
        """
        rows: list[Tensor] = []
        for batch in batches:
            ids, mask, labels = batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
            sequences, positions = ids.shape
            if longest is not None and positions > longest:
                raise ValueError(
                    f"An input of {positions} tokens is longer than the {longest} positions of the student or the "
                    "teacher: truncate when tokenising (`truncation=True, max_length=...`)."
                )
            full = torch.full((sequences,), positions, device=device)
            lengths = full if mask is None else mask.to(device).sum(-1)
            labelled = torch.full((), sequences, device=device)
            if labels is not None and not labels.is_floating_point() and not count_rows:
                labelled = (labels.to(device) != -100).sum()
            count = torch.full((), sequences, device=device)
            rows.append(torch.stack([count, lengths.sum(), lengths.square().sum(), labelled]).float())
        total = torch.stack(rows).sum(dim=0)
        if reduce is not None:
            total = reduce(total, reduction="sum")
        sequences, tokens, pairs, labelled = total.unbind()
        return cls(sequences, tokens, pairs, labelled, len(batches) * processes)


@dataclass(frozen=True)
class Step:
    """What a training forward pass needs beside the student's inputs.

    Attributes:
        teacher: the teacher's features of the batch; each is let go as soon as its losses are computed.
        levels: which levels are matched.
        counts: what the global batch holds.
    """

    teacher: Features
    levels: frozenset[str]
    counts: BatchCounts


@dataclass(frozen=True)
class Settings:
    """How the losses are computed.

    Attributes:
        mapping: which layers are matched.
        weights: of levels and layers.
        temperature: of the soft cross-entropy.
        reduction: `"mean"` or `"paper"` (see `hf_tinybert.losses`).
        regression: the prediction level is a mean squared error.
        problem_type: of the hard-label loss.
        label_smoothing: of the hard-label loss.
        hard_label_function: replaces the hard-label loss; called as the Trainer's `compute_loss_func`.
    """

    mapping: LayerMapping
    weights: Weights
    temperature: float = 1.0
    reduction: str = "mean"
    regression: bool = False
    problem_type: str = "single_label_classification"
    label_smoothing: float = 0.0
    hard_label_function: Any = None

    @property
    def hidden_layers(self) -> list[int]:
        """Student layers whose output is matched; 0 is the embedding block."""
        layers = [m for m in self.mapping.layers if self.weights.of_layer("hidden", m)]
        return ([0] if self.mapping.has_embeddings and self.weights["embedding"] else []) + layers

    @property
    def attention_layers(self) -> list[int]:
        """Student layers whose attention scores are matched."""
        return [m for m in self.mapping.layers if self.weights.of_layer("attention", m)]


class DistillationObjective(nn.Module):
    """The module that is trained; its parameters are the student's and the projections'.

    Args:
        student: the model to be trained, left as it is but for hooks that `detach` removes.
        encoder: the student's parts.
        projections: from the student's width to the teacher's.
        settings: what to match and how.
    """

    def __init__(
        self, student: PreTrainedModel, encoder: Encoder, projections: Projections, settings: Settings
    ) -> None:
        """Put hooks on the student's matched layers."""
        super().__init__()
        self.student = student
        self.projections = projections
        self.settings = settings
        self._num_heads = encoder.num_heads
        self._capture = FeatureCapture(encoder, settings.hidden_layers, settings.attention_layers)
        self._accepted = set(inspect.signature(student.forward).parameters)

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
            if name in self._accepted and name not in ("labels", *PLAIN_OUTPUT)
        }
        with_head = bool(step.levels & {"prediction", "hard_label"})
        with self._capture.recording() as features, fast_attention(self.student, self.student.device):
            output = (self.student if with_head else self.student.base_model)(**wanted, **PLAIN_OUTPUT)
        if with_head:
            features.logits = output.logits
        weighted: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for name, weight, value in self._losses(features, step, inputs):
            weighted.append(weight * value)
            parts[name] = value.detach()
        if not weighted:
            raise ValueError(f"None of the levels {', '.join(sorted(step.levels))} has a weight above 0.")
        return torch.stack(weighted).sum() * step.counts.shares, parts

    def begin(self, intermediate: bool) -> None:
        """A phase begins; without layers to match, there are no hooks."""
        if not intermediate:
            self._capture.remove()

    def detach(self) -> PreTrainedModel:
        """Take the hooks off and hand the student back."""
        self._capture.remove()
        return self.student

    def _losses(self, student: Features, step: Step, inputs: Mapping[str, Any]) -> Any:
        """Yield (name, weight, this share's part of the global mean) for every loss of the step."""
        settings, teacher, weights = self.settings, step.teacher, self.settings.weights
        mask = inputs.get("attention_mask")
        layers = sorted({*settings.hidden_layers, *settings.attention_layers})
        while layers:
            layer = layers.pop()
            above = settings.mapping[layer]
            if layer in settings.attention_layers and "attention" in step.levels:
                value = self._share(
                    step.counts.pairs,
                    step,
                    losses.attention_loss,
                    student.queries[layer],
                    student.keys[layer],
                    teacher.queries[above],
                    teacher.keys[above],
                    self._num_heads,
                    mask=mask,
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
        labels = inputs.get("labels")
        if "prediction" in step.levels and weights["prediction"]:
            yield "prediction", weights["prediction"], self._prediction(student, step, mask, labels)
        if "hard_label" in step.levels and weights["hard_label"]:
            yield "hard_label", weights["hard_label"], self._hard_label(student, step, labels)

    def _prediction(self, student: Features, step: Step, mask: Tensor | None, labels: Tensor | None) -> Tensor:
        settings = self.settings
        logits, target = student.logits, step.teacher.logits
        assert logits is not None
        assert target is not None
        if settings.regression:
            if settings.reduction == "paper" and labels is not None:
                target = labels.float()
            return self._share(step.counts.sequences, step, losses.regression_loss, logits, target)
        if logits.dim() == 2:
            mask, count = None, step.counts.sequences
        elif labels is not None:
            mask, count = labels != -100, step.counts.labels
        else:
            count = step.counts.tokens
        return self._share(
            count,
            step,
            losses.soft_cross_entropy,
            logits,
            target,
            temperature=settings.temperature,
            mask=mask,
        )

    def _hard_label(self, student: Features, step: Step, labels: Tensor | None) -> Tensor:
        settings, logits = self.settings, student.logits
        assert logits is not None
        if labels is None:
            raise ValueError("hard_label_weight is above 0, but the batch has no labels.")
        if settings.hard_label_function is not None:
            value: Tensor = settings.hard_label_function(
                ModelOutput(logits=logits), labels, num_items_in_batch=step.counts.labels
            )
            return value
        total = losses.hard_label_loss(
            logits, labels, settings.problem_type, settings.label_smoothing, reduction="sum"
        )
        return total / step.counts.labels.clamp(min=1)

    def _share(self, count: Tensor, step: Step, loss: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A loss over this share, divided by the global count (or, as in the paper's code, a plain mean)."""
        if self.settings.reduction == "paper":
            value: Tensor = loss(*args, reduction="paper", **kwargs)
            return value / step.counts.shares
        total: Tensor = loss(*args, reduction="sum", **kwargs)
        return total / count.clamp(min=1)

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
