"""A model's outputs as decisions: distributions over classes, one for each thing that is decided."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_tinybert.models.output_types import MULTI_LABEL, SPANS
from hf_tinybert.utils.types import Batch


def decisions(kind: str, logits: Tensor, inputs: Batch) -> tuple[Tensor, Tensor | None]:
    """Logits as logits of decisions.

    Args:
        kind: the output type (see `models.output_types`), of classes.
        logits: `[B, C]`, `[B, S, C]`, or of spans `[B, S, 2]`.
        inputs: `attention_mask` and `labels` of the batch, if it has any.

    Returns:
        The logits, in float32: of each row `[B, C]`, or of each position `[B, S, C]`; of multi-label tasks of each row
        and label, `[B, C, 2]`, the label and its absence; of spans the starts and the ends, `[B, 2, S]`, padding at
        the lowest score. And which of the decisions count, or None where all do: labelled positions, or real ones
        without labels.
    """
    logits = logits.float()
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    if kind == MULTI_LABEL:
        return torch.stack((logits, torch.zeros_like(logits)), dim=-1), None
    if kind == SPANS:
        scores = logits.mT
        if mask is not None:
            scores = scores.masked_fill(~mask.bool().unsqueeze(1), torch.finfo(scores.dtype).min)
        return scores, None
    if logits.dim() < 3:
        return logits, None
    return logits, labels != -100 if labels is not None else mask if mask is None else mask.bool()
