"""Every way to compare attention against its float64 reference, which of them `auto` takes, and what is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import references as ref
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses import batch, check, tensor
from transformers import AutoModel, EsmConfig

from hf_tinybert import losses
from hf_tinybert.distillation import attention_matching
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import Features

HEADS = st.tuples(st.integers(1, 4), st.integers(1, 4))
SHAPE = st.tuples(st.integers(1, 2), st.integers(1, 5))
MAPPING = LayerMapping.from_spec("uniform", 3, 3)


def features(queries, keys, values=None, bias=None):
    given = {"queries": queries, "keys": keys, "values": values, "bias": bias}
    return Features(**{kind: {1: value} for kind, value in given.items() if value is not None})


def compare(matching, student, teacher, mask, **more):
    return matching.loss(1, 1, features(*student), features(*teacher), mask=tensor(mask), **more)


@settings(max_examples=25, deadline=None)
@given(SHAPE, HEADS, st.integers(0, 10_000))
def test_mean_maps_and_their_gradient(shape, heads, seed):
    ours, theirs = heads
    arrays, mask = batch(seed, *shape, [ours * 2, ours * 2, theirs * 3, theirs * 3])
    matching = HeadMatching("mean", ours, theirs)
    check(
        lambda *x: compare(matching, x[:2], x[2:], mask),
        lambda *x: ref.mean_attention(*x, ours, theirs, mask),
        arrays,
    )


@settings(max_examples=25, deadline=None)
@given(SHAPE, HEADS, st.integers(0, 10_000))
def test_mixed_heads_and_the_gradients_of_queries_and_of_the_mixture(shape, heads, seed):
    ours, theirs = heads
    arrays, mask = batch(seed, *shape, [ours * 2, ours * 2, theirs * 3, theirs * 3])
    weights = np.random.default_rng(seed).normal(size=(theirs, ours))
    matching = HeadMatching("mixing", ours, theirs)
    check(
        lambda q, w, *x: compare(matching, (q, x[0]), x[1:], mask, mixing=w),
        lambda q, w, *x: ref.mixed_attention(q, *x, w, mask),
        [arrays[0], weights, *arrays[1:]],
    )
    check(
        lambda w, *x: compare(matching, x[:2], x[2:], mask, mixing=w),
        lambda w, *x: ref.mixed_attention(*x, w, mask),
        [weights, *arrays],
    )


@settings(max_examples=15, deadline=None)
@given(SHAPE, st.integers(1, 3), st.integers(0, 10_000))
def test_relations_are_summed_over_queries_keys_and_values(shape, heads, seed):
    arrays, mask = batch(seed, *shape, [heads * 2] * 3 + [heads * 4] * 3)
    matching = HeadMatching("relations", 1, 1, relation_heads=heads)
    check(
        lambda *x: compare(matching, x[:3], x[3:], mask),
        lambda *x: sum(ref.relation(ours, theirs, heads, mask) for ours, theirs in zip(x[:3], x[3:], strict=True)),
        arrays,
    )


@pytest.mark.parametrize("kind", ["mean", "mixing"])
def test_biases_are_averaged_and_mixed_like_the_maps_they_belong_to(kind):
    arrays, mask = batch(3, 2, 5, [4, 4, 9, 9])
    random = np.random.default_rng(0)
    bias_s, bias_t = random.normal(size=(2, 2, 5, 5)), random.normal(size=(2, 3, 5, 5))
    weights = random.normal(size=(3, 2))
    student = (tensor(arrays[0]), tensor(arrays[1]), None, tensor(bias_s))
    teacher = (tensor(arrays[2]), tensor(arrays[3]), None, tensor(bias_t))
    found = compare(HeadMatching(kind, 2, 3), student, teacher, mask, mixing=tensor(weights))

    def maps(queries, keys, heads, bias):
        q, k = (x.reshape(2, 5, heads, -1).transpose(0, 2, 1, 3) for x in (queries, keys))
        return q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]) + bias

    ours, theirs = maps(*arrays[:2], 2, bias_s), maps(*arrays[2:], 3, bias_t)
    if kind == "mean":
        ours, theirs = ours.mean(1, keepdims=True), theirs.mean(1, keepdims=True)
    else:
        ours = np.einsum("ij,bjst->bist", weights, ours)
    pairs = mask[:, None, :, None] * mask[:, None, None, :]
    expected = (((ours - theirs) ** 2).mean(1, keepdims=True) * pairs).sum() / pairs.sum()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_mixing_by_the_identity_is_head_by_head():
    arrays, mask = batch(1, 3, 6, [8, 8, 12, 12])
    student, teacher = [tensor(x) for x in arrays[:2]], [tensor(x) for x in arrays[2:]]
    matching = HeadMatching("mixing", 4, 4)
    assert torch.equal(matching.start_of_mixing(), torch.eye(4))
    mixed = compare(matching, student, teacher, mask, mixing=torch.eye(4))
    torch.testing.assert_close(mixed, losses.attention_loss(*student, *teacher, 4, tensor(mask)))


def test_mixing_needs_the_mixture():
    arrays, mask = batch(1, 2, 3, [4, 4, 6, 6])
    student, teacher = [tensor(x) for x in arrays[:2]], [tensor(x) for x in arrays[2:]]
    with pytest.raises(ValueError, match="head_matching='mixing' needs the mixture of heads"):
        compare(HeadMatching("mixing", 2, 2), student, teacher, mask)


def test_sixteen_heads_start_from_twelve_evenly():
    def start(ours, theirs):
        weights = HeadMatching("mixing", ours, theirs).start_of_mixing()
        assert weights.shape == (theirs, ours)
        assert weights.sum(1).tolist() == weights.max(1).values.tolist() == [1.0] * theirs
        return weights.argmax(1).tolist()

    assert start(12, 16) == [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11]
    assert start(12, 4) == [0, 3, 6, 9]
    assert start(1, 3) == [0, 0, 0]
    assert start(2, 1) == [0]


@pytest.mark.parametrize("kind", ["heads", "mean", "mixing"])
def test_layers_meet_by_their_own_numbers_within_the_students_window(kind):
    arrays, mask = batch(4, 2, 6, [4, 4, 4, 4])
    q_s, k_s, q_t, k_t = map(tensor, arrays)
    noise = [torch.full_like(q_s, torch.nan)] * 2
    bias = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    student = Features(queries={1: noise[0], 2: q_s}, keys={1: noise[0], 2: k_s}, bias={2: bias, 1: bias * torch.nan})
    teacher = Features(queries={2: noise[0], 5: q_t}, keys={2: noise[0], 5: k_t})
    weights = torch.eye(2)
    matching = HeadMatching(kind, 2, 2, windows={1: 0, 2: 1, 5: 3})
    found = matching.loss(2, 5, student, teacher, weights, tensor(mask))
    alone = HeadMatching(kind, 2, 2, windows={1: 1})
    expected = compare(alone, (q_s, k_s, None, bias), (q_t, k_t), mask, mixing=weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.item() != pytest.approx(
        compare(HeadMatching(kind, 2, 2), (q_s, k_s, None, bias), (q_t, k_t), mask, mixing=weights).item(), rel=1e-3
    )
    total = matching.loss(2, 5, student, teacher, weights, tensor(mask), "sum")
    pairs = losses.real_pairs(tensor(mask), 1)
    assert total.item() == pytest.approx((expected * pairs).item(), rel=1e-5)


def test_a_loss_is_a_mean_over_pairs_within_its_window_or_over_rows():
    counts = BatchCounts(*map(torch.tensor, (2.0, 3.0, 5.0, 7.0)), shares=1, windowed={4: torch.tensor(11.0)})
    matching = HeadMatching("heads", 2, 2, windows={1: None, 2: 4})
    assert [matching.count(layer, counts).item() for layer in (1, 2, 3)] == [5.0, 11.0, 5.0]
    assert HeadMatching("relations", 2, 2, windows={2: 4}).count(2, counts).item() == 3.0


def test_what_is_wanted_of_the_layers():
    for kind in ("heads", "mean", "mixing"):
        matching = HeadMatching(kind, 2, 2, windows={1: None, 2: 4, 3: 4, 4: 0})
        assert (matching.kinds, matching.distinct_windows) == (("queries", "keys", "bias"), {0, 4})
    matching = HeadMatching("relations", 2, 2, windows={1: None, 2: 4})
    assert (matching.kinds, matching.distinct_windows) == (("queries", "keys", "values"), set())


def test_a_matching_stays_as_it_is_and_asks_for_nothing_special():
    matching = HeadMatching("heads", 2, 3)
    assert matching == HeadMatching("heads", 2, 3, relation_heads=0, windows={}, why="")
    with pytest.raises(FrozenInstanceError):
        matching.kind = "mean"
    with pytest.raises(FrozenInstanceError):
        attention_matching._Scores(torch.zeros(1), torch.zeros(1), None).bias = torch.zeros(1)


def build(kind, student, teacher, mapping=MAPPING, **sizes):
    models = [tiny_models.model(family, **sizes.get(family, {})) for family in (student, teacher)]
    return HeadMatching.from_encoders(kind, *map(Encoder.from_model, models), mapping)


def test_auto_takes_heads_where_they_are_as_many():
    matching = build("auto", "bert", "roberta")
    assert (matching.kind, matching.why) == ("heads", "both have 4 heads")
    assert (matching.student_heads, matching.teacher_heads, matching.relation_heads) == (4, 4, 0)
    assert build("mean", "bert", "roberta").why == "asked for"


def test_auto_mixes_heads_where_they_are_not():
    matching = build("auto", "bert", "roberta", bert={"num_attention_heads": 3})
    assert (matching.kind, matching.why) == ("mixing", "the teacher has 4 heads and the student 3")
    assert (matching.student_heads, matching.teacher_heads, matching.relation_heads) == (3, 4, 0)
    message = (
        "^head_matching='heads' compares head with head, but the teacher has 4 heads and the student 3: use 'mean', "
        "'mixing' or 'relations', or make the student with `create_student`.$"
    )
    with pytest.raises(ValueError, match=message):
        build("heads", "bert", "roberta", bert={"num_attention_heads": 3})


@pytest.mark.parametrize("swapped", [False, True])
def test_auto_takes_relations_where_the_scores_are_not_known(swapped):
    config = tiny_models.config(config_class=EsmConfig, position_embedding_type="rotary", pad_token_id=1)
    pair = [Encoder.from_model(tiny_models.model()), Encoder.from_model(AutoModel.from_config(config))]
    if swapped:
        pair.reverse()
    matching = HeadMatching.from_encoders("auto", *pair, MAPPING)
    assert (matching.kind, matching.relation_heads) == ("relations", 4)
    assert matching.why == "one of the models adds unknown terms to its attention scores"
    for kind in ("heads", "mean", "mixing"):
        message = (
            f"^head_matching='{kind}' compares attention scores, and one of the models adds terms to them that are "
            r"not known here \(relative positions\): use head_matching='relations', or set attention_weight=0\.$"
        )
        with pytest.raises(ValueError, match=message):
            HeadMatching.from_encoders(kind, *pair, MAPPING)
    read_from_a_file = "-relations".removeprefix("-")  # equal to the literal, and not the same object
    assert HeadMatching.from_encoders(read_from_a_file, *pair, MAPPING).why == "asked for"


@pytest.mark.parametrize(
    ("width", "heads", "expected"), [(32, 4, 4), (20, 4, 4), (15, 3, 3), (25, 5, 1), (26, 2, 2), (24, 8, 4)]
)
def test_relation_heads_divide_both_widths_and_are_no_more_than_the_teachers(width, heads, expected):
    sizes = {"hidden_size": width, "num_attention_heads": heads}
    assert build("relations", "bert", "roberta", bert=sizes).relation_heads == expected


def test_the_narrower_window_counts():
    assert build("auto", "bert", "modernbert").windows == {1: None, 2: 2, 3: None}
    assert build("auto", "modernbert", "bert").distinct_windows == {2}
    assert build("auto", "bert", "modernbert", LayerMapping({0: 0, 1: 2, 3: 3})).windows == {1: 2, 3: None}
    assert build("auto", "modernbert", "bert", LayerMapping({1: 1, 2: 3})).windows == {1: None, 2: 2}


@pytest.mark.parametrize(("ours", "theirs", "expected"), [(1, 2, 1), (3, 2, 2), (None, 0, 0), (5, None, 5)])
def test_of_two_windows_the_narrower(ours, theirs, expected):
    assert attention_matching._narrower(ours, theirs) == expected


def test_an_unknown_kind_is_refused():
    message = "^head_matching must be one of auto, heads, mean, mixing, relations, got 'both'.$"
    with pytest.raises(ValueError, match=message):
        build("both", "bert", "bert")
