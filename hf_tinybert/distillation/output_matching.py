"""The prediction level: the losses on the outputs of student and teacher (equation 10).

| kind | logits | soft loss | hard-label loss |
| --- | --- | --- | --- |
| `single_label_classification` | `[B, C]` | soft cross-entropy | cross-entropy |
| `multi_label_classification` | `[B, C]` | binary, of each class | binary cross-entropy |
| `regression` | `[B, C]` | squared error | squared error |
| `tokens` | `[B, S, C]` | soft cross-entropy at labelled positions | cross-entropy |
| `spans` | `[B, S, 2]`, start and end | soft cross-entropy over real positions | cross-entropy |
| `vectors` | `[B, d]`, the pooled vector | squared distance of the vectors at length 1 | none |

`tokens` are token classification and masked language modelling, `spans` extractive question answering, `vectors`
models without a head (sentence encoders).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers.utils import ModelOutput

from hf_tinybert import losses
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.models.output_types import LABELS, MULTI_LABEL, REGRESSION, SINGLE_LABEL, SPANS, TOKENS, VECTORS
from hf_tinybert.utils.types import Batch


class LabelLoss(Protocol):
    """A loss on gold labels, as the Trainer's `compute_loss_func`."""

    def __call__(
        self, outputs: ModelOutput, labels: Tensor | tuple[Tensor, ...], /, *, num_items_in_batch: Tensor
    ) -> Tensor:
        """This share's part of the mean over the global batch, whose labels number `num_items_in_batch`."""


@dataclass(frozen=True)
class OutputLoss:
    """How the prediction level is computed.

    Attributes:
        kind: the output type, a row of the table above.
        temperature: of the soft loss.
        reduction: `"mean"` or `"paper"` (see `hf_tinybert.losses`).
        label_smoothing: of the hard-label loss.
        hard_label_function: replaces the hard-label loss; called as the Trainer's `compute_loss_func`.
        pooling: `"mean"` or `"cls"` for models without a head; None for all others.
    """

    kind: str = SINGLE_LABEL
    temperature: float = 1.0
    reduction: str = "mean"
    label_smoothing: float = 0.0
    hard_label_function: LabelLoss | None = None
    pooling: str | None = None

    @property
    def counts_rows(self) -> bool:
        """Whether every row counts as one label, whatever the shape of its labels."""
        return self.kind in (MULTI_LABEL, SPANS)

    @property
    def has_variance(self) -> bool:
        """Whether the loss is measured in the teacher's own units: of classes it is in nats."""
        return self.kind == REGRESSION

    def soft(self, student: Tensor, teacher: Tensor, inputs: Batch, counts: BatchCounts) -> tuple[Tensor, Tensor]:
        """The loss against the teacher's logits, summed over the micro-batch, and the count to divide it by.

        Args:
            student: logits.
            teacher: logits of the same shape.
            inputs: of the batch: `attention_mask` and labels, if it has any.
            counts: of the global batch.
        """
        mask, labels = inputs.get("attention_mask"), inputs.get("labels")
        reduction: losses.Reduction = "paper" if self.reduction == "paper" else "sum"
        if self.kind == REGRESSION:
            if reduction == "paper" and labels is not None:
                teacher = labels.float()
            return losses.regression_loss(student, teacher, reduction=reduction), counts.sequences
        if self.kind == VECTORS:
            return losses.vector_loss(student, teacher, reduction), counts.sequences
        if self.kind == SPANS:
            value = losses.span_cross_entropy(student, teacher, self.temperature, mask, reduction)
            return value, counts.sequences
        if self.kind == MULTI_LABEL:
            value = losses.soft_binary_cross_entropy(student, teacher, self.temperature, reduction)
            return value, counts.sequences
        if student.dim() == 2:
            mask, count = None, counts.sequences
        elif labels is not None:
            mask, count = labels != -100, counts.labels
        else:
            count = counts.tokens
        return losses.soft_cross_entropy(student, teacher, self.temperature, mask, reduction), count

    def hard(self, logits: Tensor, inputs: Batch, counts: BatchCounts) -> Tensor:
        """This share's part of the mean loss on gold labels.

        Raises:
            ValueError: the batch has no labels.
        """
        wanted = LABELS[1:] if self.kind == SPANS else LABELS[:1]
        gold = [inputs[name] for name in wanted if inputs.get(name) is not None]
        if len(gold) < len(wanted):
            raise ValueError(f"hard_label_weight is above 0, but the batch has no {' and '.join(wanted)}.")
        if self.hard_label_function is not None:
            output = self.output_of(logits)
            labels = gold[0] if len(gold) == 1 else tuple(gold)
            return self.hard_label_function(output, labels, num_items_in_batch=counts.labels)
        if self.kind == SPANS:
            mask = inputs.get("attention_mask")
            total = losses.span_label_loss(logits, gold[0], gold[1], mask, self.label_smoothing, "sum")
        else:
            problem = SINGLE_LABEL if self.kind == TOKENS else self.kind
            total = losses.hard_label_loss(logits, gold[0], problem, self.label_smoothing, reduction="sum")
        return total / counts.labels.clamp(min=1)

    def evaluate(self, logits: Tensor, inputs: Batch) -> tuple[Tensor, ModelOutput]:
        """The loss on a batch's gold labels, 0 without any, and the logits as a model of this kind returns them."""
        counts = BatchCounts.from_batches([inputs], logits.device, count_rows=self.counts_rows)
        labelled = any(inputs.get(name) is not None for name in LABELS)
        loss = self.hard(logits, inputs, counts) if labelled else logits.new_zeros(())
        return loss, self.output_of(logits, loss)

    def output_of(self, logits: Tensor, loss: Tensor | None = None) -> ModelOutput:
        """Logits as a model of this kind returns them."""
        loss_field = {} if loss is None else {"loss": loss}
        if self.kind == SPANS:
            return ModelOutput(**loss_field, start_logits=logits[..., 0], end_logits=logits[..., 1])
        return ModelOutput(**loss_field, logits=logits)
