"""Words of a text: their positions, which of them may be replaced, and the case of a replacement."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hf_tinybert.utils import extras

regex = extras.required("regex", "Data augmentation")

#: A single Chinese character, as BERT's tokenizers split them; or a run of letters with their marks, which may contain
#: apostrophes.
_WORD = regex.compile(r"\p{Han}|(?:(?!\p{Han})\p{L}\p{M}*)+(?:['\u2019](?:(?!\p{Han})\p{L}\p{M}*)+)*")
_REPLACEABLE = regex.compile(r"\p{Han}|(?:\p{L}\p{M}*){2,}")


@dataclass(frozen=True)
class Word:
    """A word and its position in the text.

    Attributes:
        text: with its case.
        start: index of the first character.
        end: index after the last character.
    """

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a text, in order, without digits, punctuation and symbols."""
    return [Word(match.group(), match.start(), match.end()) for match in _WORD.finditer(text)]


def words_of_tokens(tokens: Sequence[str]) -> tuple[str, list[Word]]:
    """The text of a sentence that is already split into words, and its words, one for each token."""
    words, start = [], 0
    for token in tokens:
        words.append(Word(token, start, start + len(token)))
        start += len(token) + 1
    return " ".join(tokens), words


def replaceable(word: Word, stop_words: Collection[str]) -> bool:
    """Whether a word may be replaced: only letters, at least two, and not a stop word (case-insensitive).

    Single letters are left over from "it's" or "don't" in tokenised text. A single Chinese character is a word.
    """
    return _REPLACEABLE.fullmatch(word.text) is not None and word.text.casefold() not in stop_words


def in_the_case_of(word: str, replacement: str) -> str:
    """A replacement in the case of the word that it replaces: upper case, capitalised, or unchanged."""
    if len(word) > 1 and word.isupper():
        return replacement.upper()
    if word[:1].isupper():
        return replacement[:1].upper() + replacement[1:]
    return replacement


def with_replacements(text: str, words: Sequence[Word], chosen: Mapping[int, str]) -> str:
    """The text with some words replaced; all other characters are unchanged.

    Args:
        text: the original.
        words: of the original.
        chosen: index of a word -> its replacement.
    """
    pieces, position = [], 0
    for number in sorted(chosen):
        word = words[number]
        pieces += [text[position : word.start], chosen[number]]
        position = word.end
    return "".join([*pieces, text[position:]])
