"""A teacher with a vocabulary of its own: its token ids stand beside the student's, in columns named `teacher_...`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

_PREFIX = "teacher_"
#: What a teacher may have of its own.
COLUMNS = tuple(f"{_PREFIX}{name}" for name in ("input_ids", "attention_mask", "token_type_ids"))
IDS = COLUMNS[0]


def tokenize_for_teacher(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    text_column: str,
    text_pair_column: str | None = None,
    **kwargs: Any,
) -> Any:
    """A data set with the teacher's inputs beside its other columns (`teacher_input_ids`, ...).

    Call it before the texts are dropped.

    Args:
        dataset: a `datasets.Dataset` or `DatasetDict`, streaming or not, with texts.
        tokenizer: the teacher's.
        text_column: of the text.
        text_pair_column: of the second text of a pair.
        **kwargs: further arguments of the tokenizer's call; by default texts are cut at the tokenizer's
            `model_max_length`.

    Raises:
        ValueError: the data have no such column.
    """
    known = dataset.column_names
    for names in known.values() if isinstance(known, dict) else [known]:
        for column in filter(None, (text_column, text_pair_column)):
            if names is not None and column not in names:
                raise ValueError(f"There is no column {column!r} to tokenise: the data has {', '.join(names)}.")

    def tokenize(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        pair = None if text_pair_column is None else batch[text_pair_column]
        return renamed(tokenizer(batch[text_column], pair, **({"truncation": True} | kwargs)))

    return dataset.map(tokenize, batched=True)


def renamed(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """What a teacher's tokenizer gave, under the names of `COLUMNS`."""
    return {_PREFIX + name: value for name, value in encoded.items() if _PREFIX + name in COLUMNS}


def of_teacher(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch as the teacher reads it: its own token ids, where the batch carries them, with everything else."""
    if IDS not in inputs:
        return inputs
    shared = {name: value for name, value in inputs.items() if name not in COLUMNS and _PREFIX + name not in COLUMNS}
    return shared | {name.removeprefix(_PREFIX): inputs[name] for name in COLUMNS if name in inputs}


def of_student(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without what is the teacher's."""
    return {name: value for name, value in inputs.items() if name not in COLUMNS}


def check_columns(dataset: Any, what: str) -> None:
    """Refuse data without the teacher's inputs, as far as they say what they hold.

    Raises:
        ValueError: names the column that is missing.
    """
    names: Collection[str] | None = getattr(dataset, "column_names", None)
    if isinstance(names, list) and IDS not in names:
        raise ValueError(
            f"The {what} data has no column {IDS!r}, and teacher_processing_class says that the teacher reads other "
            "tokens than the student: make it with `tokenize_for_teacher(dataset, tokenizer, text_column)`."
        )


class TeacherInputsCollator:
    """A user's collator, and the teacher's inputs padded beside what it makes.

    Args:
        collator: makes a batch of the student's inputs.
        tokenizer: the teacher's, which knows how its inputs are padded.
    """

    def __init__(self, collator: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """Keep both."""
        self.collator = collator
        self.tokenizer = tokenizer

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate both halves; rows without the teacher's inputs give a batch without them."""
        batch: dict[str, Any] = dict(self.collator([of_student(example) for example in examples]))
        if any(IDS not in example for example in examples):
            return batch
        named = [{name: row[name] for name in COLUMNS if name in row} for row in examples]
        rows = [{name.removeprefix(_PREFIX): value for name, value in row.items()} for row in named]
        return batch | renamed(self.tokenizer.pad(rows, pad_to_multiple_of=8, return_tensors="pt"))
