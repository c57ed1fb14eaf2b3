"""Labels of a split as they were read, and what a user says about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, cast

Kind: TypeAlias = Literal["regression", "single_label_classification", "multi_label_classification"]
Values: TypeAlias = list[float] | list[str] | list[list[str]]
REGRESSION: Kind = "regression"
SINGLE_LABEL: Kind = "single_label_classification"
MULTI_LABEL: Kind = "multi_label_classification"


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
#: A whole number.
WHOLE = re.compile(r"[+-]?\d+")
#: In lower case.
TRUE, FALSE = {"1", "1.0", "true"}, {"0", "0.0", "false"}


@dataclass(frozen=True)
class LabelOptions:
    """What a user says about labels.

    Attributes:
        kind: of the task; None: it is decided from the values.
        names: of the classes, in their order.
        decimal: the mark before the decimals of numbers.
        separator: between the labels of a text, in one column.
        columns: one for each class, with 0 and 1.
        column_given: the label column was named.
    """

    kind: Kind | None = None
    names: tuple[str, ...] = ()
    decimal: str = "."
    separator: str | None = None
    columns: tuple[str, ...] = ()
    column_given: bool = False


@dataclass
class LabelValues:
    """The labels of a split.

    Attributes:
        kind: of the task.
        values: of each row: a number, the name of a class, or a list of names.
        names: of all classes, in their order, where the column itself says them.
        notes: what was done to read them, where that was a choice.
        doubts: what may not be meant.
        valid: numbers of the rows that have a label, in order.
    """

    kind: Kind
    values: Values
    valid: list[int]
    names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def of_rows(self, rows: Collection[int]) -> LabelValues:
        """The labels of the rows among some that have one."""
        rows = set(rows)
        kept = [place for place, row in enumerate(self.valid) if row in rows]
        if len(kept) == len(self.valid):
            return self
        values = cast("Values", [self.values[place] for place in kept])
        return replace(self, values=values, valid=[self.valid[place] for place in kept])

    def classes(self) -> tuple[str, ...]:
        """The names of all classes: those that the column says, or the values, whole numbers by their size."""
        if self.names:
            return self.names
        return tuple(sorted(set(flat(self.values)), key=order_of))

    def counts(self) -> Counter[str]:
        """How often each class occurs."""
        return Counter(flat(self.values))


def flat(values: Iterable[object]) -> list[str]:
    """The names in a list of names, or of lists of names."""
    return [str(one) for value in values for one in (value if isinstance(value, list) else [value])]


def order_of(name: str) -> tuple[int, float, str]:
    """What class names are sorted by: whole numbers by their size, and before words."""
    return (0, int(name), name) if WHOLE.fullmatch(name) else (1, 0.0, name)


def kind_of(name: str | None) -> Kind | None:
    """A kind by the name that `problem_type` gives it.

    Raises:
        ValueError: there is no such kind.
    """
    for kind in (REGRESSION, SINGLE_LABEL, MULTI_LABEL):
        if name == kind:
            return kind
    if name is not None:
        raise ValueError(f"The problem type must be {REGRESSION}, {SINGLE_LABEL} or {MULTI_LABEL}, got {name!r}.")
    return None


def name_of(value: object, names: Sequence[str] | None) -> str | None:
    """A value as a text: of a ClassLabel, its name; None where it is missing (-1 in a ClassLabel).

    Args:
        value: a cell, or one of the values of a list.
        names: of the ClassLabel, if it is one.
    """
    if value is None or value != value or (names and value == -1):
        return None
    return names[value] if names and isinstance(value, int) else str(value)


def text_of(value: object) -> str:
    """A label as the text by which it is compared; "" for a missing one."""
    if value is None or value != value:
        return ""
    return str(value).strip()


def is_number(text: str) -> bool:
    """Whether a text is a decimal number."""
    return _NUMBER.fullmatch(text) is not None
