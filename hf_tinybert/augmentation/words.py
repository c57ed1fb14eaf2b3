"""Words of a text: where they stand, which of them may be replaced, and how a replacement is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import regex

#: A Chinese character by itself, as BERT's tokenizers cut them; or a run of letters with their marks, in which an
#: apostrophe may stand.
_WORD = regex.compile(r"\p{Han}|(?:(?!\p{Han})\p{L}\p{M}*)+(?:['\u2019](?:(?!\p{Han})\p{L}\p{M}*)+)*")
_REPLACEABLE = regex.compile(r"\p{Han}|(?:\p{L}\p{M}*){2,}")


@dataclass(frozen=True)
class Word:
    """A word and where it stands.

    Attributes:
        text: as it is written.
        start: its first character's place in the text.
        end: the place after its last.
    """

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a text, in order; digits, punctuation and symbols belong to none."""
    return [Word(found.group(), found.start(), found.end()) for found in _WORD.finditer(text)]


def words_of_tokens(tokens: Sequence[str]) -> tuple[str, list[Word]]:
    """The text of a sentence that was cut into words before, and its words, one for each token."""
    words, start = [], 0
    for token in tokens:
        words.append(Word(token, start, start + len(token)))
        start += len(token) + 1
    return " ".join(tokens), words


def replaceable(word: Word, stop_words: Collection[str]) -> bool:
    """Whether a word may be replaced: two letters or more and nothing else, and no stop word (without case).

    A single letter is what a tokenised text leaves of "it's" or "don't"; a Chinese character is a word.
    """
    return _REPLACEABLE.fullmatch(word.text) is not None and word.text.casefold() not in stop_words


def in_the_case_of(word: str, replacement: str) -> str:
    """A replacement with the capitals of the word that it replaces: all, the first, or its own."""
    if len(word) > 1 and word.isupper():
        return replacement.upper()
    if word[:1].isupper():
        return replacement[:1].upper() + replacement[1:]
    return replacement


def with_replacements(text: str, words: Sequence[Word], chosen: Mapping[int, str]) -> str:
    """The text with some words replaced, every other character as it was.

    Args:
        text: the original.
        words: its words.
        chosen: number of a word -> what stands there instead.
    """
    pieces, position = [], 0
    for number in sorted(chosen):
        word = words[number]
        pieces += [text[position : word.start], chosen[number]]
        position = word.end
    return "".join([*pieces, text[position:]])
