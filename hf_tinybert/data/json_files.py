"""JSON lines and JSON documents as columns, each of one type over all rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Required, TypeAlias, TypedDict, cast

import pyarrow as pa

from hf_tinybert.data.arguments import FileArguments
from hf_tinybert.data.column_names import SPLITS
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.tables import opened, text_encoding

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Row: TypeAlias = Mapping[str, Value]


class _Answer(TypedDict):
    text: str
    answer_start: int


class _Question(TypedDict, total=False):
    id: str | int
    question: Required[str]
    answers: list[_Answer]


class _Paragraph(TypedDict):
    context: str
    qas: list[_Question]


class _Article(TypedDict):
    paragraphs: list[_Paragraph]


def read_json(path: Path, options: FileArguments, invalid: InvalidRows) -> dict[str, pa.Table]:
    """The rows of a file: by split where its top level names splits, otherwise under `""`.

    A document is a list of rows, an object one of whose entries is such a list (`{"data": [...]}`), an object of
    splits, an object of columns of one length, or SQuAD's. Rows are objects, or lists, whose columns are numbered from
    1. Everything else is read as one row in each line.

    Raises:
        ValueError: names the line or row that is no JSON or no row.
    """
    with opened(path, text_encoding(path, options.encoding)) as file:
        text = file.read()
    if path.suffix.lower() == ".json":
        try:
            whole = _parsed(text)
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise ValueError(f"{path} is no JSON: {error}.") from None
        else:
            return {split: _table(rows, invalid) for split, rows in _documents(path, whole).items()}
    rows: list[tuple[str, Value]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append((f"line {number}", _parsed(line)))
            except json.JSONDecodeError as error:
                invalid.found(f"line {number}", f"it is no JSON ({error.msg} at character {error.colno})")
    return {"": _table(rows, invalid)}


def with_lists(table: pa.Table) -> pa.Table:
    """A table of strings, in which columns that hold JSON lists alone have become lists."""
    for index, name in enumerate(table.column_names):
        first: str = next((text for one in table[name] if (text := one.as_py())), "")
        if not first.lstrip().startswith("["):  # so it is with nearly every column, and the others are read whole
            continue
        texts: list[str] = table[name].to_pylist()
        try:
            values = [json.loads(text) if text else None for text in texts]
            if all(isinstance(value, list | None) for value in values):
                table = table.set_column(index, name, pa.array(_of_one_type(values)))
        except (ValueError, pa.ArrowTypeError):
            continue
    return table


def _parsed(text: str) -> Value:
    value: Value = json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))
    return value


def _documents(path: Path, whole: Value) -> dict[str, list[tuple[str, Value]]]:
    """Lists of rows by split, each row with its place."""
    if isinstance(whole, list):
        return {"": _numbered(whole)}
    if isinstance(whole, dict):
        lists = {name: value for name, value in whole.items() if isinstance(value, list)}
        if any(name in SPLITS for name in lists):
            return {name: _numbered(rows) for name, rows in lists.items() if name in SPLITS}
        of_rows = {name: value for name, value in lists.items() if value and all(isinstance(x, dict) for x in value)}
        if len(of_rows) == 1:
            (rows,) = of_rows.values()
            if all(isinstance(row, dict) and "paragraphs" in row for row in rows):
                return {"": _numbered(_squad(path, rows))}
            return {"": _numbered(rows)}
        if len(lists) == len(whole) and lists and len({len(values) for values in lists.values()}) == 1:
            return {"": _numbered([dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)])}
    raise ValueError(
        f"{path} holds {json.dumps(whole)[:40]}, and no rows: expected a list of rows such as "
        '[{"text": "...", "label": "..."}], {"data": [rows]}, {"train": [rows], ...}, columns of one length, or one '
        "row in each line."
    )


def _numbered(rows: Sequence[Value]) -> list[tuple[str, Value]]:
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _squad(path: Path, articles: Sequence[Value]) -> list[Value]:
    """A row for each question of SQuAD's own nested file."""
    rows: list[Value] = []
    try:
        for article in cast("Sequence[_Article]", articles):
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = asked.get("answers") or []
                    found: Value = {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    }
                    texts: dict[str, Value] = {"question": asked["question"], "context": paragraph["context"]}
                    rows.append({"id": str(asked.get("id", len(rows)))} | texts | {"answers": found})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not as SQuAD's own file: question {len(rows) + 1} has no {error}.") from None
    return rows


def _table(rows: Sequence[tuple[str, Value]], invalid: InvalidRows) -> pa.Table:
    kept: list[Row] = []
    places: list[str] = []
    for place, row in rows:
        if isinstance(row, list):
            row = {str(number): value for number, value in enumerate(row, start=1)}
        if isinstance(row, dict):
            kept.append(row)
            places.append(place)
        else:
            invalid.found(
                place, f'it is {json.dumps(row)[:40]}, and not a row such as {{"text": "...", "label": "..."}}'
            )
    names = list(dict.fromkeys(name for row in kept for name in row))
    columns = {name: _column([row.get(name) for row in kept], name, places, invalid) for name in names}
    return pa.table(columns)


def _column(values: list[Value], name: str, places: Sequence[str], invalid: InvalidRows) -> pa.Array:
    for place, value in zip(places, values, strict=True):
        if (why := _unwritable(value)) is not None:
            raise ValueError(f"{invalid.source}, {place}, column {name!r}: {why}.")
    kinds = {_kind(value) for value in values if value is not None}
    if len(kinds) > 1:
        usual = _kind(next(value for value in values if value is not None))
        place, other = next((p, v) for p, v in zip(places, values, strict=True) if v is not None and _kind(v) != usual)
        raise ValueError(
            f"{invalid.source}, {place}: the column {name!r} holds {_kind(other)}, {json.dumps(other)[:40]}, and "
            f"{usual} in rows before: write all of them in one form."
        )
    try:
        return pa.array(_of_one_type(values))
    except (ValueError, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"{invalid.source}: the column {name!r} holds values of different forms: {error}.") from None


def _unwritable(value: Value) -> str | None:
    """Why a value is no text: half of a surrogate pair cannot be written in UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return (
                "the text has a broken character (half of a surrogate pair, \\ud800 to \\udfff): remove or replace it"
            )
    elif isinstance(value, list | dict):
        inner = value if isinstance(value, list) else value.values()
        return next((why for one in inner if (why := _unwritable(one)) is not None), None)
    return None


def _kind(value: Value) -> str:
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a single value"


def _of_one_type(values: list[Value]) -> list[Value]:
    """The values, as texts where their types differ (numbers as they are written), also inside lists and objects."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, dict) for value in there):
        names = list(dict.fromkeys(name for value in there if isinstance(value, dict) for name in value))
        inner = {
            name: iter(_of_one_type([value.get(name) if isinstance(value, dict) else None for value in values]))
            for name in names
        }
        rows: list[Value] = []
        for value in values:
            row: dict[str, Value] = {name: next(of_name) for name, of_name in inner.items()}
            rows.append(None if value is None else row)
        return rows
    if any(isinstance(value, list) for value in there):
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        flat = iter(_of_one_type([one for value in lists if value is not None for one in value]))
        return [None if value is None else [next(flat) for _ in value] for value in lists]
    types = {type(value) for value in there}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]  # type: ignore[arg-type]
    too_large = types == {int} and any(abs(value) >= 2**63 for value in there)  # type: ignore[arg-type]
    if dict in types and len(types) > 1:
        raise ValueError("objects stand beside single values")
    if len(types) > 1 or too_large:
        return [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    return values
