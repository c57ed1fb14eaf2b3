"""Variants: what changes, what does not, and that choices hang on nothing but text, column and seed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.augmentation.candidates import Candidates, parse
from hf_tinybert.augmentation.variants import VariantWriter
from hf_tinybert.augmentation.words import words_of

TEXT = "The film is a good, funny film!"


def candidates(text=TEXT, words=("movie", "bad", "dull")):
    parsed = parse(text)[1]
    return Candidates({n: words for n, word in enumerate(parsed) if len(word.text) > 2}, {1})


texts = st.one_of(st.text(max_size=40), st.lists(st.text(max_size=8), max_size=8))
numbers = {"n": st.integers(1, 12), "p": st.floats(0.05, 1.0), "seed": st.integers(0, 99)}


@settings(deadline=None)
@given(texts, st.data())
def test_only_words_with_candidates_change_and_every_variant_is_new(text, data):
    writer = VariantWriter(**{name: data.draw(values) for name, values in numbers.items()})
    written, words = parse(text)
    chosen = data.draw(st.sets(st.sampled_from(range(len(words)))) if words else st.just(set()))
    variants = writer.write(text, Candidates(dict.fromkeys(sorted(chosen), ("XX", "YY"))))
    forms = [variant.text if isinstance(text, str) else " ".join(variant.text) for variant in variants]
    assert len(set(forms)) == len(forms) <= writer.n
    assert written not in forms
    for variant in variants:
        assert isinstance(variant.text, str) == isinstance(text, str)
        if isinstance(text, str):
            kept = written
            for number in sorted(range(len(words)), reverse=True):
                word = words[number]
                kept = kept[: word.start] + "\0" + kept[word.end :] if number in chosen else kept
            position = 0
            for piece in kept.split("\0"):
                position = variant.text.index(piece, position) + len(piece)
        else:
            assert len(variant.text) == len(text)
            different = {n for n, (a, b) in enumerate(zip(text, variant.text, strict=True)) if a != b}
            assert different <= chosen
            assert variant.replaced == len(different)


@settings(deadline=None)
@given(st.data())
def test_the_same_numbers_give_the_same_variants(data):
    writer = VariantWriter(**{name: data.draw(values) for name, values in numbers.items()})
    again = VariantWriter(writer.n, writer.p, writer.seed)
    assert writer.write(TEXT, candidates(), "a") == again.write(TEXT, candidates(), "a")


def test_column_and_seed_change_the_choices():
    writer = VariantWriter(20, 0.5, 0)
    usual = writer.write(TEXT, candidates(), "a")
    assert usual != writer.write(TEXT, candidates(), "b")
    assert usual != VariantWriter(20, 0.5, 1).write(TEXT, candidates(), "a")


def test_a_share_p_of_the_words_is_replaced():
    text = " ".join(f"word{chr(97 + n % 26)}" for n in range(400))
    variants = VariantWriter(30, 0.4, 0).write(text, candidates(text, ("other",)))
    share = sum(variant.replaced for variant in variants) / 400 / len(variants)
    assert share == pytest.approx(0.4, abs=0.03)


def test_nothing_comes_of_nothing():
    assert VariantWriter(20, 0.4, 0).write("the of and", Candidates()) == []
    assert VariantWriter(20, 1.0, 0).write("film", Candidates({0: ("film",)})) == []


def test_candidates_survive_being_kept():
    kept = Candidates({0: ("a", "b"), 7: ("naïve",)}, {7})
    assert Candidates.from_json(kept.to_json()) == kept


def test_a_word_is_where_it_was():
    variants = VariantWriter(50, 1.0, 0).write(TEXT, candidates())
    assert all(variant.text.endswith("!") and ", " in variant.text for variant in variants)
    assert all(len(words_of(variant.text)) == len(words_of(TEXT)) for variant in variants)


def test_the_variants_of_a_text_are_these():
    """Written out: caches and published data sets hang on them."""
    written = VariantWriter(n=4, p=0.5, seed=3).write(TEXT, candidates(), "text")
    assert [variant.text for variant in written] == [
        "The film is a good, dull dull!",
        "movie film is a dull, bad dull!",
        "bad bad is a dull, funny movie!",
        "movie dull is a movie, funny film!",
    ]


def test_a_variant_that_was_there_is_left_out_and_the_next_is_made():
    only = Candidates({1: ("movie", "picture")}, set())
    written = VariantWriter(n=40, p=0.9, seed=0).write("The film", only)
    assert sorted(variant.text for variant in written) == ["The movie", "The picture"]


def test_a_variant_stays_as_it_is():
    with pytest.raises(FrozenInstanceError):
        VariantWriter(n=1, p=0.5, seed=0).n = 2
    (variant,) = VariantWriter(n=1, p=1.0, seed=0).write("The film", Candidates({1: ("movie",)}, set()))
    with pytest.raises(FrozenInstanceError):
        variant.text = "The picture"
