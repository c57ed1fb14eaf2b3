"""Initial values of the projections, attached to a student until it is trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

#: Names of the projection that all levels share, and of the pooled vector's.
SHARED, VECTORS = "shared", "vectors"
#: Attribute of a student that holds them.
_OFFER = "_tinybert_projections"


def offer(student: PreTrainedModel, values: Mapping[str, Tensor]) -> None:
    """Attach initial values of the projections to a student; they are never saved with it.

    Args:
        student: the model.
        values: `"{level}.weight"` `[d, d']` and `"{level}.bias"` `[d]` for levels 0..M or `"shared"`.
    """
    setattr(student, _OFFER, {name: value.detach().cpu() for name, value in values.items()})


def offered(student: PreTrainedModel) -> dict[str, Tensor]:
    """The initial values attached to a student, or an empty dict."""
    values: dict[str, Tensor] = getattr(student, _OFFER, {})
    return values
