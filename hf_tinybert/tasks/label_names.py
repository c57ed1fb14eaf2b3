"""The classes of a task, as a data set and as a model name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset, LargeList, List
from transformers import PretrainedConfig

from hf_tinybert.models.output_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL


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

    @classmethod
    def from_dataset(cls, dataset: Dataset, column: str) -> Labels:
        """The label names of a data set: a ClassLabel's own, floats as regression, else sorted values.

        A column of lists makes a multi-label task, whose classes are all the values in them.

        Raises:
            ValueError: there are fewer than two classes, or the column holds something else.
        """
        feature = dataset.features[column]
        several = isinstance(feature, List | LargeList)
        feature = feature.feature if several else feature
        if hasattr(feature, "names"):
            return cls(tuple(feature.names), several)
        if not hasattr(feature, "dtype"):
            raise ValueError(f"The column {column!r} holds neither labels nor lists of labels.")
        if "float" in str(feature.dtype) and not several:
            return cls(None)
        values = {value for row in dataset[column] for value in row} if several else set(dataset.unique(column))
        if len(values) < 2:
            shown = repr(next(iter(values))) if values else "none"
            raise ValueError(f"The column {column!r} holds one label only, {shown}: there is nothing to learn.")
        return cls(tuple(str(value) for value in sorted(values, key=lambda v: (str(type(v)), v))), several)

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Labels:
        """The label names that a fine-tuned model carries."""
        if config.problem_type == REGRESSION or config.num_labels == 1:
            return cls(None)
        names = tuple(config.id2label[index] for index in range(config.num_labels))
        return cls(names, config.problem_type == MULTI_LABEL)
