"""Types that several rooms share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import datasets
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

#: Tensors of a batch by column, as a collator makes them.
Batch: TypeAlias = "Mapping[str, Tensor]"
#: One example before it is collated: values by column.
Example: TypeAlias = Mapping[str, object]
#: Columns of several rows, as `datasets.Dataset.map(..., batched=True)` gives them.
Columns: TypeAlias = Mapping[str, Sequence[object]]
#: Data as a `Trainer` takes them.
AnyDataset: TypeAlias = "torch.utils.data.Dataset | datasets.Dataset | datasets.IterableDataset"
#: Makes the context in which a model runs under mixed precision.
Autocast: TypeAlias = Callable[[], AbstractContextManager[object]]


class Collator(Protocol):
    """Makes a batch from examples, as transformers' `DataCollator`s do."""

    def __call__(self, examples: Sequence[Example], /) -> dict[str, Tensor]:
        """Pad and stack the examples."""


class Forward(Protocol):
    """A model in any runtime: takes the tensors of a batch by name."""

    def __call__(self, **inputs: Tensor) -> Mapping[str, Tensor]:
        """Its outputs."""


class AutoClass(Protocol):
    """One of transformers' Auto classes, such as `AutoModelForSequenceClassification`."""

    __name__: str
    _model_mapping: Mapping[type, type[PreTrainedModel]]

    def from_pretrained(self, name: str, **kwargs: object) -> PreTrainedModel:
        """Load a model; with `output_loading_info=True`, a pair with what was missing."""

    def from_config(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model with random weights."""


class Reduces(Protocol):
    """What is used of accelerate's `Accelerator` to add up over processes."""

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        """The tensor, summed over all processes."""
