"""Every way to compare attention against its float64 reference, which of them `auto` takes, and what is refused."""

from __future__ import annotations

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
from hf_tinybert.families import locate
from hf_tinybert.features import Features
from hf_tinybert.head_matching import HeadMatching
from hf_tinybert.layer_mapping import LayerMapping

pytestmark = pytest.mark.one_world("4.57")

HEADS = st.tuples(st.integers(1, 4), st.integers(1, 4))
SHAPE = st.tuples(st.integers(1, 3), st.integers(1, 6))
MAPPING = LayerMapping.build("uniform", 3, 3)


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


def test_sixteen_heads_start_from_twelve_evenly():
    start = HeadMatching("mixing", 12, 16).start_of_mixing()
    assert start.sum(1).tolist() == [1.0] * 16
    assert set(start.sum(0).tolist()) == {1.0, 2.0}
    assert HeadMatching("mixing", 12, 4).start_of_mixing().sum(0).max() == 1.0


def build(kind, student, teacher, **sizes):
    models = [tiny_models.model(family, **sizes.get(family, {})) for family in (student, teacher)]
    return HeadMatching.build(kind, *map(locate, models), MAPPING)


def test_auto_takes_heads_where_they_are_as_many():
    matching = build("auto", "bert", "roberta")
    assert (matching.kind, matching.why) == ("heads", "both have 4 heads")


def test_auto_mixes_heads_where_they_are_not():
    matching = build("auto", "bert", "roberta", bert={"num_attention_heads": 3})
    assert (matching.kind, matching.why) == ("mixing", "the teacher has 4 heads and the student 3")
    with pytest.raises(ValueError, match="teacher has 4 heads and the student 3"):
        build("heads", "bert", "roberta", bert={"num_attention_heads": 3})


def test_auto_takes_relations_where_the_scores_are_not_known():
    config = tiny_models.config(config_class=EsmConfig, position_embedding_type="rotary", pad_token_id=1)
    teacher, student = locate(AutoModel.from_config(config)), locate(tiny_models.model())
    matching = HeadMatching.build("auto", student, teacher, MAPPING)
    assert (matching.kind, matching.relation_heads) == ("relations", 4)
    with pytest.raises(ValueError, match=r"head_matching='mean'.*'relations'"):
        HeadMatching.build("mean", student, teacher, MAPPING)


@pytest.mark.parametrize(("width", "heads", "expected"), [(32, 4, 4), (20, 4, 4), (15, 3, 3), (25, 5, 1)])
def test_relation_heads_divide_both_widths(width, heads, expected):
    sizes = {"hidden_size": width, "num_attention_heads": heads}
    assert build("relations", "bert", "roberta", bert=sizes).relation_heads == expected


def test_the_narrower_window_counts():
    assert build("auto", "bert", "modernbert").windows == {1: None, 2: 2, 3: None}
    assert build("auto", "modernbert", "bert").distinct_windows == {2}


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="head_matching must be one of auto, heads"):
        build("both", "bert", "bert")
