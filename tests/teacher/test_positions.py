"""Layers of two tokenizers that cut texts alike: which positions belong together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_tinybert.models.features import Features
from hf_tinybert.teacher.positions import at_student_positions, padded_maps, position_map

BERT, MPNET = frozenset({101, 102}), frozenset({0, 2})


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([101, 7, 8, 102], [0, 17, 18, 2], [0, 1, 2, 3]),
        ([101, 7, 102, 8, 9, 102], [0, 17, 2, 2, 18, 19, 2], [0, 1, 2, 4, 5, 6]),
        ([0, 17, 2, 2, 18, 2], [101, 7, 102, 8, 102], [0, 1, 2, 2, 3, 4]),
    ],
)
def test_tokens_belong_to_tokens_and_separators_to_separators(student, teacher, expected):
    boundaries = (BERT, MPNET) if student[0] == 101 else (MPNET, BERT)
    assert position_map(student, teacher, boundaries) == expected


@given(st.lists(st.lists(st.integers(5, 99), min_size=1, max_size=5), min_size=1, max_size=3), st.integers(1, 3))
def test_every_token_has_the_position_of_the_same_piece(parts, separators):
    student, teacher = [101], [0]
    for part in parts:
        student += [*part, 102]
        teacher += [*(1000 + token for token in part), *[2] * separators]
    found = position_map(student, teacher, (BERT, MPNET))
    for token, place in zip(student, found, strict=True):
        assert teacher[place] == (1000 + token if token < 100 else 0 if token == 101 else 2)


@pytest.mark.parametrize("teacher", [[0, 17, 18, 19, 2], [0, 17, 2], [0, 17, 18, 2, 19, 2]])
def test_other_pieces_are_refused(teacher):
    with pytest.raises(ValueError, match="cut a text into other tokens"):
        position_map([101, 7, 8, 102], teacher, (BERT, MPNET))


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side(left):
    rows = [([101, 7, 102], [0, 17, 2]), ([101, 7, 102, 8, 102], [0, 17, 2, 2, 18, 2])]
    examples = [{"input_ids": own, "teacher_input_ids": other} for own, other in rows]
    batch = {}
    for name, at, width in (("", 0, 6), ("teacher_", 1, 8)):
        ids, mask = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
        for row, pair in enumerate(rows):
            place = slice(width - len(pair[at]), width) if left else slice(len(pair[at]))
            ids[row, place], mask[row, place] = torch.tensor(pair[at]), 1
        batch |= {f"{name}input_ids": ids, f"{name}attention_mask": mask}
    found = padded_maps(examples, batch, "teacher_input_ids", (BERT, MPNET))
    mapped = batch["teacher_input_ids"].gather(1, found)
    real = batch["attention_mask"].bool()
    expected = {101: 0, 102: 2, 7: 17, 8: 18}
    assert mapped[real].tolist() == [expected[token] for token in batch["input_ids"][real].tolist()]


def test_features_are_taken_from_the_mapped_positions():
    states, bias, logits = torch.randn(2, 5, 3), torch.randn(2, 4, 5, 5), torch.randn(2, 5, 7)
    places = torch.tensor([[0, 1, 3], [4, 0, 2]])
    given = Features(logits, {1: states}, {1: states}, {1: states}, {1: states}, {1: bias})
    found = at_student_positions(given, places)
    for row in range(2):
        for at, place in enumerate(places[row]):
            for store in (found.hidden, found.queries, found.keys, found.values):
                assert torch.equal(store[1][row, at], states[row, place])
            assert torch.equal(found.logits[row, at], logits[row, place])
            for other, second in enumerate(places[row]):
                assert torch.equal(found.bias[1][row, :, at, other], bias[row, :, place, second])
    assert at_student_positions(given, None) is given
    assert torch.equal(at_student_positions(Features(logits[:, 0]), places).logits, logits[:, 0])
