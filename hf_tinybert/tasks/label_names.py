"""The classes of a task, as a data set and as a model name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_tinybert.data.label_values import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Kind, LabelValues

if TYPE_CHECKING:  # data are read without models
    from transformers import PretrainedConfig


def named(names: Sequence[str]) -> dict[str, object]:
    """The entries of a model's configuration that name its classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


@dataclass(frozen=True)
class Labels:
    """The classes of a task, or none for a regression.

    Attributes:
        names: of the classes, in their order.
        several: a text has any number of them.
    """

    names: tuple[str, ...] | None
    several: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers to be predicted."""
        return self.names is None

    def config_kwargs(self) -> dict[str, object]:
        """The entries of a model's configuration that describe the labels."""
        if self.names is None:
            return {"num_labels": 1, "problem_type": REGRESSION}
        return named(self.names) | {"problem_type": MULTI_LABEL if self.several else SINGLE_LABEL}

    @property
    def kind(self) -> Kind:
        """The kind of the labels, as `problem_type` names it."""
        return REGRESSION if self.names is None else MULTI_LABEL if self.several else SINGLE_LABEL

    @classmethod
    def from_values(cls, found: LabelValues, where: str, names: Sequence[str] = ()) -> Labels:
        """The classes of training data.

        Args:
            found: its labels.
            where: they stand, for messages.
            names: the user's, of the classes 0, 1, ...

        Raises:
            ValueError: there are fewer than two classes.
        """
        if found.kind == REGRESSION:
            return cls(None)
        classes = tuple(names) or found.classes()
        if len(classes) < 2:
            shown = repr(classes[0]) if classes else "none"
            raise ValueError(f"{where} holds one label only, {shown}: there is nothing to learn.")
        return cls(classes, found.kind == MULTI_LABEL)

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Labels:
        """The label names that a fine-tuned model carries."""
        if config.problem_type == REGRESSION or config.num_labels == 1:
            return cls(None)
        names = tuple(config.id2label[index] for index in range(config.num_labels))
        return cls(names, config.problem_type == MULTI_LABEL)
