"""Columns of lists of labels: names, or 0 and 1 for each class."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.label_values import FALSE, MULTI_LABEL, SINGLE_LABEL, TRUE, Kind, LabelOptions, LabelValues


def as_lists(
    rows: Sequence[str | list[str | None] | None],
) -> list[str | list[str | None] | None] | None:
    """Texts that are all lists, as JSON or as Python writes them; None where one is not."""
    texts = [row for row in rows if isinstance(row, str) and row]
    if not texts or any(not text.strip().startswith("[") for text in texts):
        return None
    lists: list[str | list[str | None] | None] = []
    for row in rows:
        found = parsed_list(row) if isinstance(row, str) and row else []
        if found is None:
            return None
        lists.append([None if one is None else str(one) for one in found] if row else None)
    return lists


def parsed_list(text: str) -> list[object] | None:
    """A text as the list that it writes, in JSON or in Python; None where it writes none."""
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, list) else None


class LabelLists:
    """A column of lists.

    Args:
        rows: the cells.
        where: they stand, for messages.
        options: what the user says.
        invalid: takes the rows without a usable list.
        names: of a ClassLabel.
    """

    def __init__(
        self,
        rows: Sequence[str | list[str | None] | None],
        where: str,
        options: LabelOptions,
        invalid: InvalidRows,
        names: tuple[str, ...],
    ) -> None:
        """Read the cells."""
        self._where, self._options, self._invalid, self._names = where, options, invalid, names
        self._lists: list[list[str]] = []
        self._valid: list[int] = []
        for row, labels in enumerate(rows):
            if not isinstance(labels, list):
                invalid.found(f"row {row + 1}", f"there is no list of labels in {where}")
            elif any(one is None or not one.strip() for one in labels):
                invalid.found(f"row {row + 1}", f"a list in {where} holds a missing label")
            else:
                self._lists.append([str(one).strip() for one in labels])
                self._valid.append(row)
        self._rows = len(rows)
        lengths = {len(labels) for labels in self._lists}
        digits = {one.lower() for labels in self._lists for one in labels}
        #: Length of lists that are all of one length and hold 0 and 1 alone; None for other lists.
        self.width = (
            lengths.pop() if len(lengths) == 1 and lengths != {0} and digits <= TRUE | FALSE and not names else None
        )
        self.repeats = any(len(set(labels)) < len(labels) for labels in self._lists)

    def is_single(self, kind: Kind | None) -> bool:
        """Whether lists of 0 and 1 are asked to mean one of two classes."""
        return kind == SINGLE_LABEL and self.width in (1, 2) and not self.repeats

    def single(self) -> list[str | list[str | None] | None]:
        """One class a row: the only value, or the place of the 1."""
        found: list[str | list[str | None] | None] = [None] * self._rows
        for row, labels in zip(self._valid, self._lists, strict=True):
            found[row] = labels[0] if len(labels) == 1 else str(int(labels[1].lower() in TRUE))
        return found

    def read(self, model_classes: int | None) -> LabelValues:
        """The classes of every row."""
        names, options, notes = self._names, self._options, []
        values = self._lists
        known = model_classes is not None or options.kind is not None
        if self.width is not None and not self.repeats and not known:
            raise ValueError(
                f"{self._invalid.source}: {self._where} holds lists of {self.width} zeros and ones. If they say which "
                "classes a text has, any number of them, use --problem-type multi_label_classification; if every text "
                "has one of two classes, single_label_classification."
            )
        multi_hot = self.width is not None and (self.repeats or self.width == 2)
        if multi_hot and model_classes is not None:
            multi_hot = self.width == model_classes
        if multi_hot:
            assert self.width is not None
            names = options.names or tuple(map(str, range(self.width)))
            if len(names) != self.width:
                raise ValueError(
                    f"--label-names has {len(names)} names, and the lists in {self._where} {self.width} values."
                )
            values = [
                [name for name, one in zip(names, labels, strict=True) if one.lower() in TRUE] for labels in values
            ]
            notes.append(f"lists of 0 and 1 mark which of {self.width} classes a text has (--label-names)")
        return LabelValues(MULTI_LABEL, values, self._valid, names, notes)
