"""The type of a model's output: of its head, or, without a head, the pooled vector."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.data.label_values import MULTI_LABEL as MULTI_LABEL
from hf_tinybert.data.label_values import REGRESSION as REGRESSION
from hf_tinybert.data.label_values import SINGLE_LABEL as SINGLE_LABEL
from hf_tinybert.models.loading import auto_class
from hf_tinybert.models.pooling import pool
from hf_tinybert.utils.types import Batch

TOKENS, SPANS, VECTORS = "tokens", "spans", "vectors"
#: Types of sequence-level outputs: one for each row, not for each token.
OF_ROWS = (SINGLE_LABEL, MULTI_LABEL, REGRESSION, VECTORS)
#: Columns of a batch that hold gold labels, in every task.
LABELS = ("labels", "start_positions", "end_positions")


def output_type(model: PreTrainedModel) -> str:
    """The type of a model's output, by its class: vectors without a head; an unknown class is a classifier."""
    try:
        name = auto_class(model).__name__
    except ValueError:
        name = ""
    if name == "AutoModelForQuestionAnswering":
        return SPANS
    if name in ("AutoModelForTokenClassification", "AutoModelForMaskedLM"):
        return TOKENS
    if name == "AutoModel":
        return VECTORS
    config = model.config
    problem_type: str | None = config.problem_type
    return problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def logits_of(output: Batch, mask: Tensor | None = None, pooling: str | None = None) -> Tensor | None:
    """The logits among a model's outputs, `[B, C]` or `[B, S, C]`, or its pooled vector.

    Args:
        output: of the model. The logits of starts and ends of spans are stacked: `[B, S, 2]`.
        mask: of the batch, `[B, S]`.
        pooling: of a model without a head: how its pooled vector `[B, d]` is made; with None it has no logits.
    """
    if output.get("start_logits") is not None:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    if pooling is not None:
        return pool(output["last_hidden_state"], mask, pooling)
    return output.get("logits")
