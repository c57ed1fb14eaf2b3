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
    mapping = LayerMapping.from_spec(strategy, student, teacher)
    values = list(mapping.layers.values())
    assert list(mapping) == list(range(student + 1))
    assert values == sorted(set(values))
    assert 1 <= values[0] <= values[-1] <= teacher
    assert strategy != "uniform" or values[-1] == teacher
    assert LayerMapping.parse(mapping.to_string()) == mapping
    assert hash(LayerMapping(dict(mapping))) == hash(mapping)


def test_explicit_in_python_and_on_the_command_line():
    expected = {0: 0, 1: 3, 2: 6, 3: 9, 4: 12}
    assert LayerMapping.from_spec("0:0, 1:3,2:6,3:9,4:12", 4, 12) == expected
    assert LayerMapping.from_spec(expected, 4, 12) == expected
    assert LayerMapping.from_spec(LayerMapping(expected), 4, 12) == expected
    assert LayerMapping.from_spec({1: "3"}, 4, 12) == {1: 3}
    assert LayerMapping.from_spec(" Last ", 1, 3) == {0: 0, 1: 3}


def test_it_is_a_mapping_in_the_order_of_layers():
    mapping = LayerMapping({3: 5, 0: 0, 1: 2})
    assert list(mapping.items()) == [(0, 0), (1, 2), (3, 5)]
    assert (len(mapping), mapping[3], mapping.layers) == (3, 5, {1: 2, 3: 5})
    assert 2 not in mapping
    assert mapping.has_embeddings is True
    assert LayerMapping({1: 12}).has_embeddings is False
    assert LayerMapping({1: 12}).layers == {1: 12}
    assert repr(mapping) == "LayerMapping({0: 0, 1: 2, 3: 5})"
    assert mapping.to_string() == "0:0,1:2,3:5"
    assert mapping != [(0, 0), (1, 2), (3, 5)]
    assert mapping != {0: 0, 1: 2}
    assert hash(mapping) != hash(LayerMapping({0: 0, 1: 2}))


def test_prints_as_a_table():
    assert str(LayerMapping.uniform(1, 2)).splitlines() == [
        "student     teacher",
        "embeddings  embeddings",
        "layer 1     layer 2",
    ]
    assert str(LayerMapping({1: 2, 10: 12})).splitlines() == [
        "student   teacher",
        "layer 1   layer 2",
        "layer 10  layer 12",
    ]


PAIRS = "expected one of uniform, first, last, or pairs student:teacher such as '0:0,1:3,2:6,3:9,4:12'; could not read"
RANGE = "is out of range: the student has layers 0..4 and the teacher 0..12 (0 is the embedding block)."
BLOCK = "Layer mapping: the embedding block (0) can only be matched with the embedding block, got"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0:0,5:3", f"Layer mapping 5:3 {RANGE}"),
        ("0:0,1:13", f"Layer mapping 1:13 {RANGE}"),
        ("sideways", f"Layer mapping 'sideways': {PAIRS} 'sideways'."),
        ("0:0, 1-3", f"Layer mapping '0:0, 1-3': {PAIRS} '1-3'."),
        ("a:3", f"Layer mapping 'a:3': {PAIRS} 'a:3'."),
        ("3:a", f"Layer mapping '3:a': {PAIRS} '3:a'."),
        ("3:", f"Layer mapping '3:': {PAIRS} '3:'."),
        ("3", f"Layer mapping '3': {PAIRS} '3'."),
        ("1:-3", f"Layer mapping '1:-3': {PAIRS} '1:-3'."),
        ("", f"Layer mapping '': {PAIRS} ''."),
        ("1:3,1:4", "Layer mapping '1:3,1:4': student layer 1 is given twice."),
        ("0:3", f"{BLOCK} 0:3."),
        ("3:0", f"{BLOCK} 3:0."),
        ({}, "Layer mapping: no layers given, expected for example {0: 0, 1: 3, 2: 6}."),
        ({1: -1}, "Layer mapping: layers count from 0 (the embeddings), got 1:-1."),
        ({-1: 1}, "Layer mapping: layers count from 0 (the embeddings), got -1:1."),
        ({"one": 1}, "Layer mapping: layers are whole numbers, got 'one': 1."),
        ({1: 2.5}, "Layer mapping: layers are whole numbers, got 1: 2.5."),
        ({True: 1}, "Layer mapping: layers are whole numbers, got True: 1."),
        ({1: True}, "Layer mapping: layers are whole numbers, got 1: True."),
        ([1, 2], "Layer mapping: expected a name, pairs as text or a dict, got [1, 2]."),
    ],
)
def test_bad_mappings_are_refused(spec, message):
    with pytest.raises(ValueError) as caught:
        LayerMapping.from_spec(spec, 4, 12)
    assert str(caught.value) == message


@pytest.mark.parametrize("strategy", ["uniform", "first", "last"])
@pytest.mark.parametrize(("student", "teacher"), [(6, 4), (5, 4), (0, 4)])
def test_a_deeper_student_or_one_without_layers_needs_an_explicit_mapping(strategy, student, teacher):
    with pytest.raises(ValueError) as caught:
        LayerMapping.from_spec(strategy, student, teacher)
    assert str(caught.value) == (
        f"The '{strategy}' mapping needs a student with 1 to {teacher} layers (the teacher has {teacher}), got "
        f"{student}. Give an explicit mapping for a deeper student."
    )


def test_a_student_of_the_teachers_depth_meets_it_layer_by_layer():
    for strategy in ("uniform", "first", "last"):
        assert LayerMapping.from_spec(strategy, 1, 1) == {0: 0, 1: 1}
        assert LayerMapping.from_spec(strategy, 3, 3) == {0: 0, 1: 1, 2: 2, 3: 3}
