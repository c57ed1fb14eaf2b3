"""Starting values for the projections, which a student carries until it is trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

#: Names of the projection that every level shares, and of that of the pooled vector.
SHARED, VECTORS = "shared", "vectors"
#: Attribute of a student that carries them.
_OFFER = "_tinybert_projections"


def offer(student: PreTrainedModel, values: Mapping[str, Tensor]) -> None:
    """Leave starting values for the projections with a student; they are never saved with it.

    Args:
        student: the model.
        values: `"{level}.weight"` `[d, d']` and `"{level}.bias"` `[d]` for levels 0..M or `"shared"`.
    """
    setattr(student, _OFFER, {name: value.detach().cpu() for name, value in values.items()})


def offered(student: PreTrainedModel) -> dict[str, Tensor]:
    """The starting values left with a student, or an empty dict."""
    values: dict[str, Tensor] = getattr(student, _OFFER, {})
    return values
