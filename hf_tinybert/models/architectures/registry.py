"""The specification of each `model_type`."""

from __future__ import annotations

from hf_tinybert.models.architectures.specs import (
    ALBERT,
    BERT,
    DEBERTA_V2,
    DISTILBERT,
    MODERNBERT,
    MPNET,
    ArchitectureSpec,
)

#: model_type -> specification.
ARCHITECTURES: dict[str, ArchitectureSpec] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), BERT),
    "distilbert": DISTILBERT,
    "albert": ALBERT,
    "mpnet": MPNET,
    "deberta-v2": DEBERTA_V2,
    "modernbert": MODERNBERT,
}
#: Tried, in this order, on a model of an unknown type.
CONVENTIONAL = (BERT, DISTILBERT)


def register_architecture(model_type: str, spec: ArchitectureSpec) -> None:
    """Register the part names of a model type, for the rest of the process.

    Args:
        model_type: `config.model_type` of the models.
        spec: of their parts. It replaces that of a type that is registered already.
    """
    ARCHITECTURES[model_type] = spec


def find_spec(model_type: str) -> ArchitectureSpec | None:
    """The specification of a type, or None where it is not registered."""
    return ARCHITECTURES.get(model_type)
