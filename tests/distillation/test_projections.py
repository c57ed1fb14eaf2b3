from __future__ import annotations

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.distillation.projections import Projections
from hf_tinybert.student import projection_init

WIDTHS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def values(names, size=(5, 3)):
    return {
        f"{name}.{part}": torch.randn(size if part == "weight" else size[:1])
        for name in names
        for part in ("weight", "bias")
    }


@settings(deadline=None, max_examples=40)
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


@pytest.mark.parametrize("shared", [False, True])
def test_pooled_vectors_are_projected_where_asked_for_and_of_another_width(shared):
    pooled = torch.randn(2, 3)
    for width, vectors in ((5, False), (3, True), (3, False)):
        without = Projections(3, width, [0, 2], shared, vectors=vectors)
        assert without.of_vectors is None
        assert without.vectors(pooled) is pooled
        assert set(without.linear) == ({"shared"} if shared else {"0", "2"})
    assert Projections(3, 5, [0], shared).of_vectors is None
    projections = Projections(3, 5, [2, 0], shared, vectors=True)
    assert list(projections.linear) == [*(["shared"] if shared else ["0", "2"]), "vectors"]
    assert projections.of_vectors is projections.linear["vectors"]
    torch.testing.assert_close(projections.vectors(pooled), pooled @ projections.linear["vectors"].weight.T)
    assert projections.of_vectors.weight.shape == (5, 3)


def test_pooled_vectors_start_from_their_own_offer_or_that_of_the_last_layer():
    offered = values(["0", "2", "10"])
    projections = Projections(3, 5, [0, 2, 10], shared=False, vectors=True)
    projections.start_from(offered)
    assert torch.equal(projections.of_vectors.weight, offered["10.weight"])
    assert torch.equal(projections.of_vectors.bias, offered["10.bias"])
    own = offered | values(["vectors"])
    projections.start_from(own)
    assert torch.equal(projections.of_vectors.weight, own["vectors.weight"])
    shared = Projections(3, 5, [0, 2], shared=True, vectors=True)
    shared.start_from(own)
    assert torch.equal(shared.of_vectors.weight, own["vectors.weight"])
    mean = (own["0.weight"] + own["2.weight"] + own["10.weight"]) / 3
    torch.testing.assert_close(shared.linear["shared"].weight, mean)
    torch.testing.assert_close(shared.linear["shared"].bias, (own["0.bias"] + own["2.bias"] + own["10.bias"]) / 3)
    of_shared = values(["shared"])
    shared.start_from(of_shared)
    assert torch.equal(shared.of_vectors.weight, of_shared["shared.weight"])
    embeddings = values(["0"])
    shared.start_from(embeddings)
    assert torch.equal(shared.of_vectors.weight, embeddings["0.weight"])


def test_a_mixture_of_heads_belongs_to_its_layer_and_is_learnt():
    assert not list(Projections(3, 5, [0], shared=False).mixing)
    starts = {1: torch.eye(2), 3: torch.ones(4, 2)}
    projections = Projections(3, 5, [0], shared=False, mixing=starts)
    assert torch.equal(projections.mixing_of(1), starts[1])
    assert torch.equal(projections.mixing_of(3), starts[3])
    assert projections.mixing_of(2) is None
    assert {name for name, value in projections.named_parameters() if value.requires_grad} == {
        "linear.0.weight",
        "linear.0.bias",
        "mixing.1",
        "mixing.3",
    }


def test_the_seed_is_0_unless_another_is_given():
    plain, zero = Projections(3, 5, [0], False), Projections(3, 5, [0], False, seed=0)
    assert torch.equal(plain.linear["0"].weight, zero.linear["0"].weight)


def test_an_offer_stays_with_the_student_apart_from_what_trains():
    student = tiny_models.model()
    assert projection_init.offered(student) == {}
    weight = torch.ones(5, 3, requires_grad=True)
    projection_init.offer(student, {"0.weight": weight})
    found = projection_init.offered(student)
    assert list(found) == ["0.weight"]
    assert torch.equal(found["0.weight"], weight)
    assert not found["0.weight"].requires_grad
    assert not [name for name in student.state_dict() if "tinybert" in name]


HALF = {name: value for name, value in values(["0", "1"]).items() if name.endswith("weight")}


@pytest.mark.parametrize(
    "offered",
    [{}, values(["0", "1"], (4, 3)), values(["7"]), HALF, values(["vectors"])],
    ids=["none", "size", "level", "no bias", "of vectors"],
)
def test_offers_that_do_not_fit_change_nothing(offered):
    projections = Projections(3, 5, [0, 1], shared=False, seed=1)
    projections.start_from(offered)
    for name, value in Projections(3, 5, [0, 1], shared=False, seed=1).state_dict().items():
        assert torch.equal(projections.state_dict()[name], value)


def test_an_offer_for_another_student_width_is_not_taken_by_half():
    projections = Projections(3, 5, [0], shared=False)
    projections.start_from(values(["0"], (5, 4)))
    assert not projections.linear["0"].bias.any()
