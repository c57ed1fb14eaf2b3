from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tinybert import LayerMapping

DEPTHS = st.integers(1, 24).flatmap(lambda m: st.tuples(st.just(m), st.integers(m, 48)))


def test_the_papers_mapping():
    assert LayerMapping.uniform(4, 12) == {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}


def test_six_to_four_rounds_down():
    assert LayerMapping.uniform(4, 6) == {0: 0, 1: 1, 2: 3, 3: 4, 4: 6}


def test_first_and_last():
    assert LayerMapping.first(3, 6) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert LayerMapping.last(3, 6) == {0: 0, 1: 4, 2: 5, 3: 6}


@given(DEPTHS, st.sampled_from(["uniform", "first", "last"]))
def test_every_strategy_is_valid_increasing_and_round_trips(depths, strategy):
    student, teacher = depths
    mapping = LayerMapping.build(strategy, student, teacher)
    values = list(mapping.layers.values())
    assert list(mapping) == list(range(student + 1))
    assert values == sorted(set(values))
    assert 1 <= values[0] <= values[-1] <= teacher
    assert strategy != "uniform" or values[-1] == teacher
    assert LayerMapping.parse(mapping.to_string()) == mapping
    assert hash(LayerMapping(dict(mapping))) == hash(mapping)


def test_explicit_in_python_and_on_the_command_line():
    expected = {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}
    assert LayerMapping.build("0:0, 1:3,2:6,3:9,4:12", 4, 12) == expected
    assert LayerMapping.build(expected, 4, 12) == expected
    assert LayerMapping.build({1: 12}, 4, 12).has_embeddings is False


def test_prints_as_a_table():
    assert str(LayerMapping.uniform(1, 2)).splitlines() == [
        "student     teacher",
        "embeddings  embeddings",
        "layer 1     layer 2",
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0:0,5:3", r"0\.\.4 and the teacher 0\.\.12"),
        ("0:0,1:13", r"0\.\.4 and the teacher 0\.\.12"),
        ("sideways", "uniform, first, last"),
        ("1-3", "uniform, first, last"),
        ("1:3,1:4", "student layer 1 is given twice"),
        ("0:3", "embedding block"),
        ({}, "no layers given"),
        ({1: -1}, "count from 0"),
        ({"one": 1}, "whole numbers"),
        ({1: 2.5}, "whole numbers"),
        ({True: 1}, "whole numbers"),
    ],
)
def test_bad_mappings_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        LayerMapping.build(spec, 4, 12)


def test_a_deeper_student_needs_an_explicit_mapping():
    with pytest.raises(ValueError, match="1 to 4 layers"):
        LayerMapping.build("uniform", 6, 4)
