"""A sample of the training data from which a student is initialised (see `hf_tinybert.student.teacher_init`)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_tinybert.utils.types import AnyDataset, Example

#: Examples and tokens at most.
_EXAMPLES, _TOKENS = 2048, 32_768
#: Positions of one forward pass.
_CHUNK = 4096
#: Share of the examples on which a start is judged, and which nothing is fitted to.
HELD_OUT = 0.2
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def sample_calibration_examples(dataset: AnyDataset) -> tuple[list[Example], list[Example]]:
    """A random sample of the training data, of at most so many examples and tokens, in two parts.

    The sample is random because augmented data hold the variants of a text one after another. A stream cannot be
    sampled: its first examples are taken. The same data give the same sample.

    Args:
        dataset: the training data.

    Returns:
        The examples that a student is fitted to, and those on which it is judged.
    """
    examples: list[Example] = []
    tokens = 0
    for example in itertools.islice(_shuffled(dataset), _EXAMPLES):
        tokens += _length(example)
        if examples and tokens > _TOKENS:
            break
        examples.append(example)
    fitted = len(examples) - held_out(len(examples))
    return examples[:fitted], examples[fitted:]


def held_out(rows: int) -> int:
    """How many of the rows of a sample are kept for judging: one at least, where another one is left."""
    return max(round(rows * HELD_OUT), min(rows - 1, 1))


def sample_calibration_batch(dataset: AnyDataset | None, tokenizer: object) -> dict[str, Tensor] | None:
    """The part of such a sample that a student is fitted to, as a batch of a model's inputs.

    Args:
        dataset: the training data, or `None`.
        tokenizer: that pads; anything but a tokenizer counts as none.

    Returns:
        `None` if the data are not tokenised or there is no tokenizer.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or dataset is None:
        return None
    first = next(_shuffled(dataset), None)
    if not isinstance(first, Mapping) or "input_ids" not in first:
        return None
    fitted, _ = sample_calibration_examples(dataset)
    rows = [{name: example[name] for name in _INPUTS if name in example} for example in fitted]
    padded = tokenizer.pad(rows, pad_to_multiple_of=8, return_tensors="pt")
    return {name: torch.as_tensor(value) for name, value in padded.items()}


def _length(example: Example) -> int:
    """The tokens of an example; 1 where it is not tokenised."""
    ids = example.get("input_ids") if isinstance(example, Mapping) else None
    return len(ids) if isinstance(ids, Sized) else 1


@dataclass(frozen=True)
class CalibrationTexts:
    """Texts in chunks of similar length, for forward passes without much padding.

    Values of positions are kept *packed*: those of all real positions one after another, `[n, ...]`.

    Attributes:
        chunks: inputs by name, `[B, S]`, with `attention_mask`.
    """

    chunks: tuple[dict[str, Tensor], ...]

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor], length: int) -> CalibrationTexts:
        """Cut a batch into chunks.

        Args:
            batch: `input_ids` `[B, S]`, and `attention_mask` and `token_type_ids` where it has them.
            length: inputs are truncated to it.
        """
        inputs = {name: batch[name][:, :length] for name in _INPUTS if name in batch}
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        mask = inputs["attention_mask"].bool()
        # The end of the last real position: padding may be on the left.
        ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1).clamp(min=1)
        order = ends.argsort(stable=True)
        chunks = []
        while len(order):
            # The longest of the rows that are left is at the end.
            longest = int(ends[order[-1]])
            rows = order[-max(_CHUNK // longest, 1) :]
            order = order[: len(order) - len(rows)]
            chunks.append({name: value[rows][:, :longest] for name, value in inputs.items()})
        return cls(tuple(chunks))

    @property
    def masks(self) -> list[Tensor]:
        """Which positions of each chunk are real, `[B, S]`."""
        return [chunk["attention_mask"].bool() for chunk in self.chunks]

    def pack(self, padded: Sequence[Tensor]) -> Tensor:
        """The values of real positions, `[n, ...]`, from those of each chunk, `[B, S, ...]`."""
        return torch.cat([value[mask] for value, mask in zip(padded, self.masks, strict=True)])

    def to(self, device: torch.device) -> CalibrationTexts:
        """The same texts on a device."""
        return CalibrationTexts(
            tuple({name: value.to(device) for name, value in chunk.items()} for chunk in self.chunks)
        )


def _shuffled(dataset: AnyDataset) -> Iterator[Example]:
    """Examples in the order of a draw with a fixed seed; of a stream in their own order."""
    streams = isinstance(dataset, torch.utils.data.IterableDataset)  # which may have a length
    if streams or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        return iter(dataset)
    count = len(dataset)
    return (dataset[i] for i in random.Random(0).sample(range(count), min(count, _EXAMPLES)))
