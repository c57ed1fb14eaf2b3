"""A level and its name are one thing in two forms, and nothing else is a level."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tinybert.distillation.levels import LAYER_KINDS, SINGLE_KINDS, Level

LEVELS = st.one_of(
    st.builds(Level, st.sampled_from(SINGLE_KINDS)),
    st.builds(Level, st.sampled_from(LAYER_KINDS), st.integers(1, 10**6)),
)


@given(LEVELS)
def test_a_name_is_read_back_as_its_level(level):
    assert Level.parse(level.name) == level


@given(LEVELS, LEVELS)
def test_different_levels_have_different_names(level, other):
    assert (level.name == other.name) == (level == other)
    assert (level.loss_name == other.loss_name) == (level == other)


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (Level("embedding"), "embedding"),
        (Level("hidden", 3), "hidden_3"),
        (Level("attention", 12), "attention_12"),
        (Level("prediction"), "prediction"),
        (Level("hard_label"), "hard_label"),
        (Level("vectors"), "vectors"),
    ],
)
def test_names_in_logs(level, name):
    assert level.name == name
    assert level.loss_name == f"loss_{name}"


def test_the_output_of_layer_0_is_the_embedding_level():
    assert Level.of_states(0) == Level("embedding")
    assert Level.of_states(2) == Level("hidden", 2)


@pytest.mark.parametrize(
    "name",
    [
        *("", "hidden", "hidden_", "hidden_0", "hidden_03", "hidden_-1", "hidden_3\n", "hidden_٣", "hidden_1_2"),
        *("loss_hidden_3", "embedding_1", "attention_overlap_1", "Hidden_3", "loss"),
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is not a level: expected one of embedding, prediction"):
        Level.parse(name)


@given(st.text(max_size=12))
def test_no_text_is_read_as_a_level_of_another_name(text):
    try:
        level = Level.parse(text)
    except ValueError:
        return
    assert level.name == text


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("hidden", None, "Level 'hidden' needs a student layer, counted from 1; got None"),
        ("attention", 0, "Level 'attention' needs a student layer, counted from 1; got 0"),
        ("embedding", 0, "Level 'embedding' has no layer; got 0"),
        ("pooler", None, "Unknown level 'pooler', expected one of embedding, .*, attention"),
    ],
)
def test_a_kind_has_a_layer_or_none(kind, layer, message):
    with pytest.raises(ValueError, match=message):
        Level(kind, layer)


def test_a_level_is_a_key():
    assert {Level("hidden", 1): 1}[Level("hidden", 1)] == 1
    with pytest.raises(FrozenInstanceError):
        Level("hidden", 1).layer = 2
