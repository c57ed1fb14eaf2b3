"""Files with a word and its tag in each line, and an empty line between texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from hf_tinybert.data.arguments import FileArguments
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.tables import named_delimiter, opened, text_encoding

WORDS, TAGS = "tokens", "tags"
#: A first line of two such names is a header.
_WORD_NAMES = {"token", "tokens", "word", "words", "form", "text"}
_TAG_NAMES = {
    "tag",
    "tags",
    "label",
    "labels",
    "ner",
    "ner_tag",
    "ner_tags",
    "pos",
    "pos_tag",
    "upos",
    "entity",
    "iob",
}
_COLUMNS_OF_CONLL_U = 10
_NAMES = {"\t": "tabs", " ": "spaces"}


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    columns: list[str]

    @property
    def is_document_start(self) -> bool:
        return bool(self.columns) and self.columns[0] == "-DOCSTART-"


def read_conll(
    path: Path, options: FileArguments, invalid: InvalidRows, columns: tuple[str | None, str | None]
) -> tuple[pa.Table, list[str]]:
    """The texts of a file as lists of words and tags, and how they were read.

    Columns are separated by tabs where the lines of words have any, otherwise by spaces. The first is the word and the
    last the tag. Lines of comments, a header, and CoNLL-U's ranges and empty nodes are left out.

    Args:
        path: of the file.
        options: encoding, delimiter, and whether there can be a header.
        invalid: takes the texts that cannot be read.
        columns: numbers, from 1, of the columns of words and of tags, by which the columns of the table are then
            called; None: the first and the last.

    Raises:
        ValueError: names the line, what was found there, and what to do.
    """
    with opened(path, text_encoding(path, options.encoding)) as file:
        lines = file.read().replace("\r\n", "\n").split("\n")
    if options.delimiter is not None:
        delimiter = named_delimiter(options.delimiter)
    else:
        delimiter = "\t" if any("\t" in line for line in lines if not line.startswith("#")) else " "
    split = [_Line(number, line, _columns(line, delimiter)) for number, line in enumerate(lines, start=1)]
    of_words = [
        line for line in split if line.columns and not line.text.startswith("#") and not line.is_document_start
    ]
    width = len(of_words[0].columns) if of_words else 0
    word, tag = _index(columns[0], 0, width, path), _index(columns[1], width - 1, width, path)
    notes = [f"columns separated by {_NAMES.get(delimiter, repr(delimiter))}"]
    if of_words and not options.no_header and _is_header(of_words[0].columns):
        notes.append(f"the header {of_words[0].text.strip()!r} left out")
        split.remove(of_words.pop(0))
    counted = width > 2 and all(re.fullmatch(r"\d+([-.]\d+)?", line.columns[0]) for line in of_words)
    if counted and None in columns:
        example = ", ".join(f"{number} {name!r}" for number, name in enumerate(of_words[0].columns, start=1))
        raise ValueError(
            f"{path} has {width} columns, of which the first counts the words: {example}. Name the columns of words "
            "and tags by their numbers; in CoNLL-U, --text-column 2 --label-column 4 are words and parts of speech."
        )
    known = {line.columns[tag] for line in of_words if len(line.columns) == width}
    reader = _Texts(invalid, word, tag, width)
    for line in split:
        starts = not reader.words and reader.wrong is None
        if not line.columns or line.is_document_start:
            reader.end()
        elif line.text.startswith("#") and starts and (len(line.columns) != width or line.columns[tag] not in known):
            reader.comments += 1
        elif not (width == _COLUMNS_OF_CONLL_U and counted and re.fullmatch(r"\d+[-.]\d+", line.columns[0])):
            reader.add(line)
    reader.end()
    if reader.comments:
        notes.append(f"{reader.comments} lines of comments left out")
    names = [number or name for number, name in zip(columns, (WORDS, TAGS), strict=True)]
    kind = pa.list_(pa.string())
    return pa.table([pa.array(reader.all_words, kind), pa.array(reader.all_tags, kind)], names=names), notes


def _columns(line: str, delimiter: str) -> list[str]:
    if not line.strip():
        return []
    if delimiter == " ":
        return [column for column in line.split(" ") if column.strip()]
    columns = [column.strip() for column in line.split(delimiter)]
    while not columns[-1]:
        columns.pop()
    return columns


def _index(number: str | None, default: int, width: int, path: Path) -> int:
    if number is None:
        return default
    if not number.isdigit() or not 1 <= int(number) <= width:
        raise ValueError(f"{path} has columns 1 to {width}, without names; got {number!r}.")
    return int(number) - 1


def _is_header(columns: Sequence[str]) -> bool:
    return columns[0].lower() in _WORD_NAMES and columns[-1].lower() in _TAG_NAMES


class _Texts:
    """The texts that were read, and the one that is being read."""

    def __init__(self, invalid: InvalidRows, word: int, tag: int, width: int) -> None:
        self.all_words: list[list[str]] = []
        self.all_tags: list[list[str]] = []
        self.words: list[str] = []
        self.wrong: tuple[int, str] | None = None
        self.comments = 0
        self._tags: list[str] = []
        self._invalid = invalid
        self._word, self._tag, self._width = word, tag, width

    def add(self, line: _Line) -> None:
        """A line with a word."""
        columns = line.columns
        if len(columns) != self._width:
            self.wrong = self.wrong or (line.number, f"{line.text!r} has {len(columns)} columns, others {self._width}")
        elif not columns[self._word]:
            self.wrong = self.wrong or (line.number, f"{line.text!r} has no word")
        else:
            self.words.append(columns[self._word].strip())
            self._tags.append(columns[self._tag].strip())

    def end(self) -> None:
        """The text is complete."""
        if self.wrong is not None:
            number, why = self.wrong
            self._invalid.found(f"line {number}", why)
        elif self.words:
            self.all_words.append(self.words)
            self.all_tags.append(self._tags)
        self.words, self._tags, self.wrong = [], [], None
