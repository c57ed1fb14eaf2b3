"""A teacher with another vocabulary: its token ids are in columns `teacher_...`, beside the student's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_tinybert.teacher import positions
from hf_tinybert.utils.types import Collator, Columns, Example

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_PREFIX = "teacher_"
_Value = TypeVar("_Value")
#: Columns of the teacher's inputs, and of the map from the student's positions to the teacher's.
COLUMNS = (*(f"{_PREFIX}{name}" for name in ("input_ids", "attention_mask", "token_type_ids")), positions.COLUMN)
IDS = COLUMNS[0]


def tokenize_for_teacher(
    dataset: Dataset | DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    text_column: str,
    text_pair_column: str | None = None,
    **kwargs: object,
) -> Dataset | DatasetDict:
    """A data set with the teacher's inputs beside its other columns (`teacher_input_ids`, ...).

    Call it before the texts are removed.

    Args:
        dataset: a `datasets.Dataset` or `DatasetDict`, streaming or not, with texts.
        tokenizer: the teacher's.
        text_column: of the text.
        text_pair_column: of the second text of a pair.
        **kwargs: further arguments of the tokenizer's call; by default texts are truncated to the tokenizer's
            `model_max_length`.

    Raises:
        ValueError: the data have no such column.
    """
    column_names = dataset.column_names
    for names in column_names.values() if isinstance(column_names, dict) else [column_names]:
        for column in filter(None, (text_column, text_pair_column)):
            if names is not None and column not in names:
                raise ValueError(f"There is no column {column!r} to tokenise: the data has {', '.join(names)}.")

    def tokenize(batch: Columns) -> dict[str, object]:
        pair = None if text_pair_column is None else batch[text_pair_column]
        return renamed(tokenizer(batch[text_column], pair, **({"truncation": True} | kwargs)))

    return dataset.map(tokenize, batched=True)


def renamed(encoded: Mapping[str, _Value]) -> dict[str, _Value]:
    """The output of a teacher's tokenizer under the names of `COLUMNS`."""
    return {_PREFIX + name: value for name, value in encoded.items() if _PREFIX + name in COLUMNS}


def of_teacher(inputs: Mapping[str, _Value]) -> Mapping[str, _Value]:
    """A batch as the teacher reads it: with its own token ids, where the batch has them, and all other columns."""
    if IDS not in inputs:
        return inputs
    shared = {name: value for name, value in inputs.items() if name not in COLUMNS and _PREFIX + name not in COLUMNS}
    return shared | {name.removeprefix(_PREFIX): inputs[name] for name in COLUMNS if name in inputs}


def of_student(inputs: Mapping[str, _Value]) -> dict[str, _Value]:
    """A batch without the teacher's columns."""
    return {name: value for name, value in inputs.items() if name not in COLUMNS}


def check_columns(dataset: object, what: str) -> None:
    """Refuse data without the teacher's inputs, where their column names are known.

    Args:
        dataset: data of any class.
        what: `"training"` or `"evaluation"`, for the message.

    Raises:
        ValueError: the message names the column that is missing.
    """
    names: Collection[str] | None = getattr(dataset, "column_names", None)
    if isinstance(names, list) and IDS not in names:
        raise ValueError(
            f"The {what} data has no column {IDS!r}, which a teacher with a tokenizer of its own "
            "(teacher_processing_class) reads: add it with `tokenize_for_teacher(dataset, tokenizer, text_column)`."
        )


class TeacherInputsCollator:
    """A user's collator that also pads the teacher's inputs.

    Args:
        collator: makes a batch of the student's inputs.
        tokenizer: the teacher's, which pads its inputs.
        student_tokenizer: where layers are matched: batches then say which of the teacher's positions belongs to each
            of the student's (see `hf_tinybert.teacher.positions`).
    """

    def __init__(
        self,
        collator: Collator,
        tokenizer: PreTrainedTokenizerBase,
        student_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Keep the three."""
        self.collator = collator
        self.tokenizer = tokenizer
        self._boundaries = None
        if student_tokenizer is not None:
            self._boundaries = positions.boundary_ids(student_tokenizer), positions.boundary_ids(tokenizer)

    def __call__(self, examples: Sequence[Example], /) -> dict[str, Tensor]:
        """Collate both models' inputs; rows without the teacher's give a batch without them."""
        batch = dict(self.collator([of_student(example) for example in examples]))
        if any(IDS not in example for example in examples):
            return batch
        teacher_rows = [{name: row[name] for name in COLUMNS if name in row} for row in examples]
        rows = [{name.removeprefix(_PREFIX): value for name, value in row.items()} for row in teacher_rows]
        batch |= renamed(self.tokenizer.pad(rows, pad_to_multiple_of=8, return_tensors="pt"))
        if self._boundaries is not None:
            batch[positions.COLUMN] = positions.padded_maps(examples, batch, IDS, self._boundaries)
        return batch
