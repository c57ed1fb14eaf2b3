"""The distillation losses of TinyBERT (Jiao et al. 2020, arXiv 1909.10351), as pure functions of tensors.

Every function works in float32 whatever the input's type and whether or not autocast is on, and takes a
`reduction`:

- `"mean"` (default): the mean over real positions. A position with mask 0 changes neither the loss nor any
  gradient, so padding a batch further changes nothing.
- `"sum"`: the same without the division, so that several micro-batches and processes can be added up and
  divided by their common count (see `hf_tinybert.distillation.objective`).
- `"paper"`: the computation of the authors' code, padding included; it differs from the paper's equations and is
  meant for numerical comparison. Each function's docstring gives the difference.

Shapes: B sequences, S positions, d features, h heads, C classes. A mask is `[B, S]`, 1 (or True) for a real
position and 0 for padding; without a mask every position is real.
"""

from hf_tinybert.losses.attention import attention_loss, real_pairs, relation_loss
from hf_tinybert.losses.fidelity import agreement_and_kl
from hf_tinybert.losses.hidden import embedding_loss, hidden_loss
from hf_tinybert.losses.kernels import band
from hf_tinybert.losses.outputs import (
    hard_label_loss,
    regression_loss,
    soft_binary_cross_entropy,
    soft_cross_entropy,
    span_cross_entropy,
    span_label_loss,
    vector_loss,
)
from hf_tinybert.losses.reductions import Reduction

__all__ = [
    "Reduction",
    "agreement_and_kl",
    "attention_loss",
    "band",
    "embedding_loss",
    "hard_label_loss",
    "hidden_loss",
    "real_pairs",
    "regression_loss",
    "relation_loss",
    "soft_binary_cross_entropy",
    "soft_cross_entropy",
    "span_cross_entropy",
    "span_label_loss",
    "vector_loss",
]
