"""Strategies: tables of texts and labels, written in every form, and damage to files."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

#: Texts as people have them, and worse: quotes, line breaks, delimiters, emoji, NUL, digits, markers.
SPECIAL = [
    '"',
    '""',
    ",",
    ";",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\0",
    "🙂",
    "é",
    " ",
    "'",
    "#",
    "[",
    "{",
    "\\",
    "\u2028",
    "\x85",
]
characters = st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z"))
texts = st.one_of(
    st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(characters, max_size=5)), max_size=6).map("".join),
    st.sampled_from(["815", "0", "1.5", "NA", "null", "true", "[1]x", "sep=,", "=1+1", "-", "text", "label"]),
)
names = st.sampled_from(["pos", "neg", "Neg", "1 star", "B-PER", "müde", "a b", "none of these"])
LABELS = {
    "names": st.lists(names, min_size=2, max_size=8).filter(lambda values: len(set(values)) > 1),
    "whole numbers": st.lists(st.integers(-1, 5).map(str), min_size=2, max_size=8).filter(lambda v: len(set(v)) > 1),
    "zeros": st.lists(st.sampled_from(["01", "02", "10"]), min_size=2, max_size=8).filter(lambda v: len(set(v)) > 1),
    "numbers": st.lists(st.floats(-9, 9).map(lambda x: f"{x:.2f}"), min_size=2, max_size=8),
}


@st.composite
def tables(draw):
    """Texts and labels of one kind, all of them texts."""
    kind = draw(st.sampled_from(sorted(LABELS)))
    labels = draw(LABELS[kind])
    return kind, draw(st.lists(texts, min_size=len(labels), max_size=len(labels))), labels


dialects = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ";", "\t"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": st.sampled_from(["\n", "\r\n"]),
    }
)
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


def as_csv(rows: list[tuple[str, str]], encoding: str, dialect: dict) -> bytes:
    """A file that follows the rules: fields with a delimiter, a quote or a line end are quoted."""
    file = io.StringIO(newline="")
    ends = {"\n", "\r"}
    quoted = dialect | {"quoting": csv.QUOTE_ALL} if any(ends & set(text) for row in rows for text in row) else dialect
    writer = csv.writer(file, **quoted)
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return file.getvalue().encode(encoding)


def as_json_lines(rows: list[tuple[str, str]]) -> bytes:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()


def as_json(rows: list[tuple[str, str]], form: str) -> bytes:
    objects = [{"text": text, "label": label} for text, label in rows]
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    return json.dumps(
        {"rows": objects, "data": {"data": objects}, "columns": columns, "split": {"train": objects}}[form]
    ).encode()


def as_parquet(rows: list[tuple[str, str]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), file)
    return file.getvalue()


@st.composite
def damage(draw, whole: bytes) -> bytes:
    """A file after something went wrong with it."""
    place = draw(st.integers(0, max(len(whole) - 1, 0)))
    kind = draw(st.sampled_from(["cut", "byte", "doubled", "null", "twice", "quote", "encoding", "line"]))
    if kind == "cut":
        return whole[:place]
    if kind == "byte":
        return whole[:place] + bytes([draw(st.integers(0, 255))]) + whole[place + 1 :]
    if kind == "doubled":
        found = [mark for mark in (b",", b";", b"\t", b":") if mark in whole]
        mark = draw(st.sampled_from(found)) if found else b","
        return whole.replace(mark, mark * 2, draw(st.integers(1, 3)))
    if kind == "null":
        return whole.replace(b'"', b"null", 1) if draw(st.booleans()) else whole.replace(b"1", b"null", 2)
    if kind == "twice":
        return whole + whole[place:]
    if kind == "quote":
        return whole[:place] + b'"' + whole[place:]
    if kind == "encoding":
        return whole.decode("utf-8", errors="ignore").encode("cp1252", errors="replace")
    return whole[:place] + draw(st.sampled_from([b"\n", b"\r", b"\n\n", b"{}\n", b"[]\n", b"\xff"])) + whole[place:]
