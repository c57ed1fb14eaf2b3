"""The levels at which two models are compared, and their names in logs and metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Kinds with one level for each matched layer, and kinds with one level in all.
LAYER_KINDS = ("hidden", "attention")
SINGLE_KINDS = ("embedding", "prediction", "hard_label", "vectors")
_OF_LAYER = re.compile(rf"({'|'.join(LAYER_KINDS)})_([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True)
class Level:
    """A level: what is compared, and in which student layer.

    Attributes:
        kind: `embedding`, `hidden`, `attention`, `prediction`, `hard_label` or `vectors` (pooled vectors of texts).
        layer: the student layer, from 1, for `hidden` and `attention`; None for the others.

    Raises:
        ValueError: the kind is unknown, or has a layer where it should have none, or the reverse.
    """

    kind: str
    layer: int | None = None

    def __post_init__(self) -> None:
        """Check kind and layer."""
        if self.kind in LAYER_KINDS:
            if self.layer is None or self.layer < 1:
                raise ValueError(f"Level {self.kind!r} needs a student layer, counted from 1; got {self.layer}.")
        elif self.kind not in SINGLE_KINDS:
            raise ValueError(f"Unknown level {self.kind!r}, expected one of {', '.join(SINGLE_KINDS + LAYER_KINDS)}.")
        elif self.layer is not None:
            raise ValueError(f"Level {self.kind!r} has no layer; got {self.layer}.")

    @classmethod
    def of_states(cls, layer: int) -> Level:
        """The level of a layer's output: the embedding block's for layer 0, hidden states for all others."""
        return cls("hidden", layer) if layer else cls("embedding")

    @classmethod
    def parse(cls, name: str) -> Level:
        """Read a name such as `hidden_3` or `embedding`; the inverse of `name`.

        Raises:
            ValueError: it is not the name of a level.
        """
        if name in SINGLE_KINDS:
            return cls(name)
        match = _OF_LAYER.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{name!r} is not a level: expected one of {', '.join(SINGLE_KINDS)}, or "
                f"{' or '.join(f'{kind}_N' for kind in LAYER_KINDS)} with N a student layer from 1."
            )
        return cls(match[1], int(match[2]))

    @property
    def name(self) -> str:
        """The name in logs and metrics: `hidden_3`, `attention_1`, `embedding`, ..."""
        return self.kind if self.layer is None else f"{self.kind}_{self.layer}"

    @property
    def loss_name(self) -> str:
        """The name of the level's loss in logs and metrics: `loss_hidden_3`, ..."""
        return f"loss_{self.name}"
