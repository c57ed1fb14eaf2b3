"""The kinds of output that a model has: by its head, or, without one, the pooled vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.models.loading import auto_class
from hf_tinybert.models.pooling import pool

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
TOKENS, SPANS, VECTORS = "tokens", "spans", "vectors"
#: Kinds in which the answer is of a row, not of its tokens.
OF_ROWS = (SINGLE_LABEL, MULTI_LABEL, REGRESSION, VECTORS)
#: Columns of a batch that hold gold labels, in every task.
LABELS = ("labels", "start_positions", "end_positions")


def output_type(model: PreTrainedModel) -> str:
    """What a model says: by its head, or, without one, by its pooled vector. An unknown class is a classifier."""
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
    known: str | None = config.problem_type
    return known or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def logits_of(output: Mapping[str, Any], mask: Tensor | None = None, pooling: str | None = None) -> Tensor | None:
    """What a model says, among its outputs: its logits, `[B, C]` or `[B, S, C]`.

    Args:
        output: of the model. Start and end of a span come to lie side by side.
        mask: of the batch, `[B, S]`.
        pooling: of a model without a head: how its pooled vector `[B, d]` is made; None: it says nothing.
    """
    if output.get("start_logits") is not None:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    if pooling is not None:
        return pool(output["last_hidden_state"], mask, pooling)
    logits: Tensor | None = output.get("logits")
    return logits
