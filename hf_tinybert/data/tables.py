"""Files of delimited text, every value as the text that stands there; what a column means is decided afterwards.

The csv module of Python parses; here it is decided how: encoding, delimiter, quotes and header.
"""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from hf_tinybert.data import column_names
from hf_tinybert.data.arguments import FileArguments
from hf_tinybert.data.invalid_rows import InvalidRows

#: In the order in which they are looked for.
_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_NAMED_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ROWS_AT_ONCE = 50_000


def read_table(path: Path, options: FileArguments, invalid: InvalidRows) -> tuple[pa.Table, list[str]]:
    """A file of delimited text: all columns hold strings; and how it was read, in words.

    The header decides the delimiter. A row with more fields than the header is read if the surplus ones are empty. A
    file separated by tabs is read as quoted if all of it is well-formed that way, and otherwise without quotes, as
    GLUE distributes its files.

    Args:
        path: of the file.
        options: encoding, delimiter, quoting, and whether there is a header.
        invalid: takes the rows that cannot be read.

    Raises:
        ValueError: names the line, what was found there, and what to do.
    """
    encoding = text_encoding(path, options.encoding)
    skipped, first = _first_line(path, encoding)
    notes = []
    delimiter = skipped or _delimiter(options.delimiter, first, path.suffix.lower() == ".tsv", options.no_header)
    if encoding not in ("utf-8-sig", "utf-8"):
        notes.append(f"encoding {encoding}")
    if delimiter != ("\t" if path.suffix.lower() == ".tsv" else ","):
        notes.append(f"separated by {_DELIMITERS.get(delimiter, repr(delimiter))}")
    file = _File(path, encoding, delimiter, bool(skipped), options.no_header)
    quoted = options.quoting != "none"
    if options.quoting == "auto" and delimiter == "\t" and _has_quotes(path, encoding):
        quoted = file.is_well_quoted()
        notes.append("quotes enclose fields" if quoted else "quotes are part of the texts (--quoting)")
    return file.read(quoted, invalid), notes


def text_encoding(path: Path, given: str | None) -> str:
    """The encoding of a text file: the given one, that of its byte-order mark, or UTF-8.

    Raises:
        ValueError: there is no such encoding.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if given is None:
        return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")
    try:
        name = codecs.lookup(given).name
    except LookupError:
        raise ValueError(f"--encoding {given!r} is no encoding; usual ones are utf-8, latin-1 and cp1252.") from None
    return "utf-8-sig" if name == "utf-8" else given


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """A text file, whose line ends stay what they are.

    Raises:
        ValueError: a byte is not of this encoding; the message names the line.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield file
    except UnicodeError:
        raise ValueError(_undecodable(path, encoding)) from None


def _undecodable(path: Path, encoding: str) -> str:
    whole = path.read_bytes()
    try:
        whole.decode(encoding)
    except UnicodeDecodeError as error:
        line, byte = whole.count(b"\n", 0, error.start) + 1, whole[error.start]
        return (
            f"The data file {path} is not in {encoding.removesuffix('-sig')}: line {line} has the byte 0x{byte:02x}. "
            "Name its encoding, for example --encoding latin-1 or --encoding cp1252."
        )
    except UnicodeError as error:
        return f"The data file {path} is not in {encoding}: {error}. Name its encoding with --encoding."
    return f"The data file {path} changed while it was read."


def _first_line(path: Path, encoding: str) -> tuple[str, str]:
    """The delimiter that Excel names in a line of its own (`sep=;`), or ""; and the first line after that."""
    with opened(path, encoding) as file:
        line = file.readline()
        bare = line.strip().strip('"')
        if len(bare) == 5 and bare.lower().startswith("sep="):
            return bare[-1], file.readline()
        if line.rstrip("\r\n").lower() == "sep=\t":
            return "\t", file.readline()
        return "", line


def _delimiter(given: str | None, first: str, is_tsv: bool, no_header: bool) -> str:
    if given is not None:
        return named_delimiter(given)
    if no_header:
        return next((one for one in _DELIMITERS if one in first), "\t" if is_tsv else ",")
    fields = {one: next(csv.reader([first], delimiter=one), []) for one in _DELIMITERS}
    if max(map(len, fields.values())) < 2:
        return "\t" if is_tsv else ","
    # max takes the first of equals
    return max(_DELIMITERS, key=lambda one: (column_names.count_usual(fields[one]), len(fields[one])))


def named_delimiter(given: str) -> str:
    """The character that `--delimiter` names.

    Raises:
        ValueError: it names none.
    """
    delimiter = _NAMED_DELIMITERS.get(given.lower(), given)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"--delimiter must be one character, or 'tab', got {given!r}.")
    return delimiter


def _has_quotes(path: Path, encoding: str) -> bool:
    with opened(path, encoding) as file:
        return any('"' in line for line in file)


class _Quoted(csv.Dialect):
    delimiter = ","
    quotechar = '"'
    doublequote = True
    lineterminator = "\n"
    quoting = csv.QUOTE_MINIMAL
    strict = True


class _Unquoted(csv.Dialect):
    delimiter = ","
    lineterminator = "\n"
    quoting = csv.QUOTE_NONE


class _File:
    """A file whose encoding and delimiter are known.

    Args:
        path: of the file.
        encoding: of its text.
        delimiter: of its fields.
        skip_line: the first line is no part of the table.
        no_header: columns have numbers instead of names.
    """

    def __init__(self, path: Path, encoding: str, delimiter: str, skip_line: bool, no_header: bool) -> None:
        self._path = path
        self._encoding = encoding
        self._delimiter = delimiter
        self._skip_line = skip_line
        self._no_header = no_header

    def is_well_quoted(self) -> bool:
        """Whether a strict parser takes the whole file as quoted, and every row has the header's number of fields."""
        try:
            width = 0
            for _, row in self._rows(quoted=True):
                width = width or len(row)
                if len(row) != width:
                    return False
        except csv.Error:
            return False
        return True

    def read(self, quoted: bool, invalid: InvalidRows) -> pa.Table:
        """The table."""
        names: list[str] = []
        tables: list[pa.Table] = []
        kept: list[Sequence[str]] = []
        line = 0
        try:
            for line, row in self._rows(quoted):
                if not names:
                    names = self._names(row)
                    if not self._no_header:
                        continue
                if len(row) > len(names) and not any(row[len(names) :]):
                    row = row[: len(names)]
                if len(row) != len(names):
                    invalid.found(f"line {line}", self._wrong_width(len(row), len(names)))
                    continue
                kept.append(row)
                if len(kept) == _ROWS_AT_ONCE:
                    tables.append(_table(names, kept))
                    kept = []
        except csv.Error as error:
            # A quote that is never closed ends the file; nothing behind it can be read.
            what = "a quote is never closed" if "end of data" in str(error) else "text follows a closing quote"
            raise ValueError(
                f"The data file {self._path} cannot be read behind line {line}: {what} ({error}). Double the quotes "
                'inside a quoted field (""), or take quotes as they stand with --quoting none.'
            ) from None
        table = pa.concat_tables([*tables, _table(names, kept)])
        unnamed = [name for name in names if name.startswith(_UNNAMED)]
        return table.drop_columns([name for name in unnamed if not any(table[name].to_pylist())])

    def _rows(self, quoted: bool) -> Iterator[tuple[int, list[str]]]:
        """The rows that hold anything, each with the number of its first line."""
        limit = csv.field_size_limit(sys.maxsize)
        try:
            with opened(self._path, self._encoding) as file:
                if self._skip_line:
                    file.readline()
                style = _Quoted if quoted else _Unquoted
                reader = csv.reader(file, style, delimiter=self._delimiter)
                line = 1
                for row in reader:
                    if row:
                        yield line + self._skip_line, row
                    line = reader.line_num + 1
        finally:
            csv.field_size_limit(limit)

    def _names(self, first: Sequence[str]) -> list[str]:
        if self._no_header:
            return [str(number) for number in range(1, len(first) + 1)]
        names = [name.strip() or f"{_UNNAMED}{number}" for number, name in enumerate(first)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"The data file {self._path} has two columns named {twice!r} in its first line. Rename one, or, if "
                "that line is a row, use --no-header."
            )
        return names

    def _wrong_width(self, fields: int, expected: int) -> str:
        header = "the first line" if self._no_header else "the header"
        advice = "add what is missing"
        if fields > expected:
            delimiter = _DELIMITERS.get(self._delimiter, repr(self._delimiter))
            advice = f"quote texts that contain {delimiter}, name the further column, or set another --delimiter"
        return f"it has {fields} field{'s' * (fields != 1)}, {header} {expected}: {advice}"


#: Columns without a name, as pandas calls them.
_UNNAMED = "Unnamed: "


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([pa.array(list(column), pa.string()) for column in columns], names=list(names))
