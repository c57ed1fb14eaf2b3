from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.projections import Projections

WIDTHS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def values(names, size=(5, 3)):
    return {
        f"{name}.{part}": torch.randn(size if part == "weight" else size[:1])
        for name in names
        for part in ("weight", "bias")
    }


@settings(deadline=None)
@given(WIDTHS, st.sets(st.integers(0, 12), min_size=1), st.booleans(), st.integers(0, 99))
def test_maps_every_level_to_the_teachers_width_with_an_affine_map(widths, levels, shared, seed):
    student, teacher = widths
    projections = Projections(student, teacher, levels, shared, seed=seed)
    assert len(projections.linear) == (1 if shared else len(levels))
    hidden = torch.randn(2, 3, student)
    for level in levels:
        linear = projections.linear["shared" if shared else str(level)]
        torch.testing.assert_close(projections(hidden, level), hidden @ linear.weight.T + linear.bias)
        assert not linear.bias.any()
        if student == teacher:
            assert torch.equal(projections(hidden, level), hidden)


def test_the_seed_alone_decides_the_start():
    first = Projections(312, 768, range(5), shared=False, seed=3)
    torch.manual_seed(99)
    again = Projections(312, 768, range(5), shared=False, seed=3)
    other = Projections(312, 768, range(5), shared=False, seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        if name.endswith("weight"):
            assert not torch.equal(value, other.state_dict()[name])
            assert value.std().item() == pytest.approx(0.02, rel=0.02)
    assert not torch.equal(first.linear["0"].weight, first.linear["1"].weight)


def test_offers_by_level_start_their_level_or_the_mean_of_a_shared_one():
    offered = values(["0", "1", "2"])
    projections = Projections(3, 5, [0, 2], shared=False)
    projections.start_from(offered)
    assert {name: value.tolist() for name, value in projections.state_dict().items()} == {
        f"linear.{level}.{part}": offered[f"{level}.{part}"].tolist()
        for level in (0, 2)
        for part in ("weight", "bias")
    }
    shared = Projections(3, 5, [0, 2], shared=True)
    shared.start_from(offered)
    mean = (offered["0.weight"] + offered["1.weight"] + offered["2.weight"]) / 3
    torch.testing.assert_close(shared.linear["shared"].weight, mean)


def test_a_shared_offer_starts_every_level_and_stays_untied():
    offered = values(["shared"])
    projections = Projections(3, 5, [0, 1], shared=False)
    projections.start_from(offered)
    with torch.no_grad():
        projections.linear["0"].weight.zero_()
    assert torch.equal(projections.linear["1"].weight, offered["shared.weight"])
    assert offered["shared.weight"].any()


@pytest.mark.parametrize("offered", [{}, values(["0", "1"], (4, 3)), values(["7"])], ids=["none", "size", "level"])
def test_offers_that_do_not_fit_change_nothing(offered):
    projections = Projections(3, 5, [0, 1], shared=False, seed=1)
    projections.start_from(offered)
    for name, value in Projections(3, 5, [0, 1], shared=False, seed=1).state_dict().items():
        assert torch.equal(projections.state_dict()[name], value)


def test_an_offer_for_another_student_width_is_not_taken_by_half():
    projections = Projections(3, 5, [0], shared=False)
    projections.start_from(values(["0"], (5, 4)))
    assert not projections.linear["0"].bias.any()
