"""Features of real tokens, side by side, and back in their batch."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.models.features import Features
from hf_tinybert.teacher.cache import layout
from hf_tinybert.teacher.cache.layout import Layout
from hf_tinybert.teacher.source import OnlineTeacher

quick = settings(max_examples=40, deadline=None)
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def mask_of(lengths, side, extra):
    width = max(lengths) + extra
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return mask.flip(1) if side == "left" else mask


def some_features(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda width: torch.randn(*shape, width, generator=generator)  # noqa: E731
    return Features(
        logits=torch.randn(shape[0], 3, generator=generator),
        hidden={4: draw(6), 0: draw(5)},
        queries={2: draw(4)},
        keys={2: draw(4)},
    )


@quick
@given(lengths, st.sampled_from(["left", "right"]), st.integers(0, 2))
def test_tokens_come_back_where_they_were(lengths, side, extra):
    mask = mask_of(lengths, side, extra)
    tensor = torch.randn(*mask.shape, 3)
    positions = layout.real_positions(mask)
    tokens = layout.real_tokens(tensor, positions)
    assert tokens.shape == (sum(lengths), 3)
    assert torch.equal(tokens, torch.cat([row[kept.bool()] for row, kept in zip(tensor, mask, strict=True)]))
    back = layout.spread(tokens, positions, tuple(mask.shape))
    assert torch.equal(back, tensor * mask.unsqueeze(-1))
    assert torch.equal(layout.real_tokens(back, positions), tokens)


@quick
@given(lengths, st.sampled_from(["left", "right"]), st.integers(0, 2), st.sampled_from(sorted(layout.DTYPES)))
def test_features_come_back_as_they_were(lengths, side, extra, dtype):
    mask = mask_of(lengths, side, extra)
    shape = tuple(mask.shape)
    features = some_features(shape)
    kept = Layout.from_features(features, dtype)
    tokens = kept.pack(features, mask)
    assert tokens.shape == (sum(lengths), kept.width)
    assert tokens.dtype == layout.DTYPES[dtype]
    back = kept.unpack(tokens, layout.real_positions(mask), shape)
    assert back.logits is None
    for kind in ("hidden", "queries", "keys"):
        ours, theirs = getattr(back, kind), getattr(features, kind)
        assert ours.keys() == theirs.keys()
        for layer, tensor in theirs.items():
            expected = (tensor * mask.unsqueeze(-1)).to(layout.DTYPES[dtype])
            assert torch.equal(ours[layer], expected)


@pytest.mark.parametrize(("dtype", "size"), [("float16", 2), ("bfloat16", 2), ("float32", 4)])
def test_sizes(dtype, size):
    of_rows = Layout.from_features(some_features((2, 3)), dtype)
    assert of_rows.columns == (("hidden", 0, 5), ("hidden", 4, 6), ("queries", 2, 4), ("keys", 2, 4))
    assert (of_rows.width, of_rows.token_bytes, of_rows.row_bytes) == (19, 19 * size, 12)
    features = some_features((2, 3))
    features.logits = torch.zeros(2, 3, 7)
    of_tokens = Layout.from_features(features, dtype)
    assert (of_tokens.classes, of_tokens.per_token) == (7, True)
    assert (of_tokens.token_bytes, of_tokens.row_bytes) == (19 * size + 28, 0)
    features.logits = None
    without = Layout.from_features(features, dtype)
    assert (without.classes, without.token_bytes, without.row_bytes) == (0, 19 * size, 0)


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_what_a_teacher_says_survives(family):
    batch = tiny_models.batch()
    features = OnlineTeacher(tiny_models.model(family), [0, 3], [2, 3]).features(batch, True, True)
    kept, mask = Layout.from_features(features, "float32"), batch["attention_mask"]
    back = kept.unpack(kept.pack(features, mask), layout.real_positions(mask), tuple(mask.shape))
    for kind in ("hidden", "queries", "keys"):
        for layer, tensor in getattr(features, kind).items():
            assert torch.equal(getattr(back, kind)[layer], tensor * mask.unsqueeze(-1))
