"""What a column of labels means, decided from all of its values.

Values are compared as texts without spaces around them, whatever type they are stored in: a class that is `"1"` in a
CSV file, `1` in JSON and a ClassLabel named `1` in Parquet is one class.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from datasets import ClassLabel, Dataset

from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.label_lists import LabelLists, as_lists
from hf_tinybert.data.label_values import (
    FALSE,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TRUE,
    WHOLE,
    Kind,
    LabelOptions,
    LabelValues,
    is_number,
    name_of,
    text_of,
)

_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
#: What stands for a missing number, in any case.
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none", "?"}
#: From so many rows on, a class for each row is an error.
_ROWS_WITH_CLASSES = 20
#: Whole numbers of more different values than this are a doubt.
_MANY_NUMBERS = 20


def read_labels(
    dataset: Dataset,
    column: str,
    options: LabelOptions,
    invalid: InvalidRows,
    model: tuple[Kind, int] | None = None,
) -> LabelValues | None:
    """The labels of a split.

    Args:
        dataset: the split.
        column: of its labels; one of those in `options.columns`, where these are given.
        options: what the user says.
        invalid: takes the rows without a usable label.
        model: kind and number of classes of a fine-tuned model, which then decides the kind.

    Returns:
        None where no row has a label.

    Raises:
        ValueError: the labels cannot be meant so, or a row has none; the message says what to do.
    """
    kind = model[0] if model is not None else options.kind
    where = f"the column {column!r}"
    who = "--problem-type asks" if model is None else "the model was trained"
    if options.columns:
        _require_kind(kind, True, f"the columns {', '.join(options.columns)} hold", who, invalid)
        return _of_columns(dataset, options, invalid)
    names, rows = _cells(dataset, column)
    if all(row is None or row == "" for row in rows):
        return None
    notes = []
    if options.separator is not None:
        rows = [row if isinstance(row, list | None) else _split(row, options.separator) for row in rows]
    elif (parsed := as_lists(rows)) is not None:
        rows = parsed
    if any(isinstance(row, list) for row in rows):
        several = LabelLists(rows, where, options, invalid, names)
        if several.is_single(kind):
            rows, names, kind = several.single(), (), SINGLE_LABEL
        else:
            _require_kind(kind, True, f"{where} holds", who, invalid)
            return several.read(model[1] if model is not None else None)
    _require_kind(kind, False, f"{where} holds", who, invalid)
    texts = ["" if row is None else str(row).strip() for row in rows]
    if sum(row is not None and text != str(row) for row, text in zip(rows, texts, strict=True)):
        notes.append("spaces around labels are left out")
    found = _single(texts, where, options, invalid, kind)
    found.notes[:0] = notes
    found.names = names
    if model is None and found.kind == SINGLE_LABEL and not names:
        _judge(found, where, options, invalid)
    return found


def _cells(dataset: Dataset, column: str) -> tuple[tuple[str, ...], list[str | list[str | None] | None]]:
    """The names of a ClassLabel, and every cell as a text, a list of texts, or None where it is missing."""
    feature = dataset.features[column]
    inner = getattr(feature, "feature", feature)
    names = tuple(str(name).strip() for name in inner.names) if isinstance(inner, ClassLabel) else ()
    cells = dataset[column]
    return names, [
        [name_of(one, names) for one in row] if isinstance(row, list) else name_of(row, names) for row in cells
    ]


def _split(text: str | None, separator: str) -> list[str | None] | None:
    return None if text is None else [part.strip() for part in text.split(separator) if part.strip()]


def _require_kind(kind: Kind | None, lists: bool, what: str, who: str, invalid: InvalidRows) -> None:
    if kind is None or lists == (kind == MULTI_LABEL):
        return
    meant = {MULTI_LABEL: "any number of labels", SINGLE_LABEL: "one label a text", REGRESSION: "one number a text"}[
        kind
    ]
    raise ValueError(
        f"{invalid.source}: {what} {'lists of labels' if lists else 'one label a text'}, and {who} for {meant}."
    )


def _single(
    texts: list[str], where: str, options: LabelOptions, invalid: InvalidRows, kind: Kind | None
) -> LabelValues:
    """Numbers, or one class for each row."""
    there = {text for text in set(texts) if text.casefold() not in _MISSING}
    as_numbers = {text: text.replace(",", ".") if options.decimal == "," else text for text in there}
    numeric = bool(there) and all(is_number(text) for text in as_numbers.values())
    if not numeric and there and options.decimal == ".":
        commas = sorted(text for text in there if _DECIMAL_COMMA.fullmatch(text))
        if commas and all(is_number(text) or _DECIMAL_COMMA.fullmatch(text) for text in there):
            raise ValueError(
                f"{invalid.source}: {where} looks like numbers with a decimal comma ({commas[0]}): use --decimal , "
                '(or --label-separator "," if these are several labels).'
            )
    if kind is None:
        whole = all(WHOLE.fullmatch(text) for text in as_numbers.values())
        kind = REGRESSION if numeric and not whole else SINGLE_LABEL
    missing = _MISSING if numeric or kind == REGRESSION else {""}
    numbers: list[float] = []
    classes: list[str] = []
    valid: list[int] = []
    for row, text in enumerate(texts):
        if text.casefold() in missing:
            said = f"{text!r} in place of a label" if text else "no label"
            invalid.found(f"row {row + 1}", f"there is {said} in {where}")
        elif kind == REGRESSION:
            number = as_numbers.get(text, text)
            if not is_number(number) or not math.isfinite(float(number)):
                invalid.found(
                    f"row {row + 1}", f"{where} holds a value that is no number, {text!r}, among numbers to predict"
                )
                continue
            numbers.append(float(number))
            valid.append(row)
        else:
            classes.append(text)
            valid.append(row)
    return LabelValues(kind, numbers if kind == REGRESSION else classes, valid)


def _judge(found: LabelValues, where: str, options: LabelOptions, invalid: InvalidRows) -> None:
    """Refuse what can be no labels, and note doubts."""
    classes, rows = found.classes(), len(found.values)
    if len(classes) == rows >= _ROWS_WITH_CLASSES and not options.column_given:
        raise ValueError(
            f"{invalid.source}: {where} has another value in each of its {rows} rows, so it is probably not the "
            "label: name the label column with --label-column, or, if these are numbers to predict, use "
            "--problem-type regression."
        )
    if len(classes) > _MANY_NUMBERS and all(WHOLE.fullmatch(name) for name in classes):
        found.doubts.append(
            f"{where} holds {len(classes)} different whole numbers, which are read as classes; numbers to predict are "
            "--problem-type regression"
        )
    alike = Counter(name.casefold() for name in classes)
    twice = [name for name in classes if alike[name.casefold()] > 1]
    if twice:
        found.doubts.append(f"classes that differ in case only: {', '.join(twice)}")


def _of_columns(dataset: Dataset, options: LabelOptions, invalid: InvalidRows) -> LabelValues:
    """A column with 0 and 1 for each class."""
    names = options.names or options.columns
    if len(names) != len(options.columns):
        raise ValueError(f"--label-names has {len(names)} names, and --label-columns {len(options.columns)} columns.")
    columns = [[text_of(value).lower() for value in dataset[column]] for column in options.columns]
    values: list[list[str]] = []
    valid: list[int] = []
    for row, cells in enumerate(zip(*columns, strict=True)):
        wrong = next((i for i, cell in enumerate(cells) if cell not in TRUE | FALSE), None)
        if wrong is not None:
            invalid.found(
                f"row {row + 1}",
                f"the column {options.columns[wrong]!r} holds {cells[wrong]!r}, and --label-columns are of 0 and 1",
            )
            continue
        values.append([name for name, cell in zip(names, cells, strict=True) if cell in TRUE])
        valid.append(row)
    return LabelValues(MULTI_LABEL, values, valid, tuple(names), [f"labels from {len(names)} columns of 0 and 1"])
