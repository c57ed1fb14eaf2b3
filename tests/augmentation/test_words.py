"""Words: where they are found, which are replaced, and that nothing else changes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tinybert.augmentation.words import in_the_case_of, replaceable, with_replacements, words_of, words_of_tokens


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t ...", []),
        ("It's a well-made film, no?", ["It's", "a", "well", "made", "film", "no"]),
        ("it \u2019s the rock\u2019s 2nd", ["it", "s", "the", "rock\u2019s", "nd"]),
        ("我喜欢film", ["我", "喜", "欢", "film"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("naïve 😀 café 3D", ["naïve", "café", "D"]),
        ("'quoted' words'", ["quoted", "words"]),
    ],
)
def test_words(text, words):
    found = words_of(text)
    assert [word.text for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)


@given(st.text(max_size=40))
def test_words_do_not_overlap_and_stand_where_they_say(text):
    found = words_of(text)
    assert all(text[word.start : word.end] == word.text for word in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


@given(st.lists(st.text(max_size=6), max_size=6))
def test_tokens_are_words_one_for_one(tokens):
    text, words = words_of_tokens(tokens)
    assert [word.text for word in words] == tokens
    assert all(text[word.start : word.end] == word.text for word in words)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("film", True),
        ("Film", True),
        ("The", False),
        ("the", False),
        ("don't", False),
        ("3d", False),
        ("x-y", False),
        ("s", False),
        ("我", True),
    ],
)
def test_which_words_are_replaced(text, answer):
    _, (word,) = words_of_tokens([text])
    assert replaceable(word, {"the"}) is answer


@pytest.mark.parametrize(
    ("word", "replacement", "written"),
    [
        ("film", "movie", "movie"),
        ("Film", "movie", "Movie"),
        ("FILM", "movie", "MOVIE"),
        ("A", "movie", "Movie"),
        ("film", "Paris", "Paris"),
        ("iPhone", "phone", "phone"),
    ],
)
def test_capitals(word, replacement, written):
    assert in_the_case_of(word, replacement) == written


@given(st.text(max_size=40), st.data())
def test_only_what_is_replaced_changes(text, data):
    words = words_of(text)
    numbers = data.draw(st.sets(st.sampled_from(range(len(words)))) if words else st.just(set()))
    changed = with_replacements(text, words, dict.fromkeys(numbers, "<>"))
    position = 0
    for number, word in enumerate(words):
        before = text[words[number - 1].end if number else 0 : word.start]
        assert changed[position : position + len(before)] == before
        position += len(before)
        written = "<>" if number in numbers else word.text
        assert changed[position : position + len(written)] == written
        position += len(written)
    assert changed[position:] == text[words[-1].end if words else 0 :]
