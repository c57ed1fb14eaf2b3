"""Attention in float32 under autocast on a CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from torch import nn

from hf_tinybert.distillation.attention_precision import Float32Attention, fast_attention

pytestmark = pytest.mark.also_transformers("4.57")

CPU = torch.device("cpu")


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def heads(seed):
    return torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed)).bfloat16().requires_grad_()


@pytest.mark.parametrize("mask", [None, torch.zeros(2, 1, 5, 5), torch.zeros(2, 1, 5, 5).bfloat16()])
def test_attention_is_that_of_float32(mask):
    if mask is not None:
        mask[0, :, :, 3:] = -torch.inf
    query, key, value = heads(0), heads(1), heads(2)
    with bf16(), Float32Attention():
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        product = query @ key.mT
    assert (found.dtype, product.dtype) == (torch.float32, torch.bfloat16)
    scores = query.double() @ key.double().mT / 2 + (0 if mask is None else mask.double())
    torch.testing.assert_close(found.double(), scores.softmax(-1) @ value.double(), rtol=1e-5, atol=1e-6)


def test_a_boolean_mask_stays_one():
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, :, 2:] = False
    query, key, value = heads(0), heads(1), heads(2)
    with bf16(), Float32Attention():
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query.float() @ key.float().mT / 2).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(found, scores.softmax(-1) @ value.float())


def test_it_is_for_autocast_on_a_cpu_alone():
    model = nn.Linear(2, 2)
    assert not isinstance(fast_attention(model, CPU), Float32Attention)
    with bf16():
        assert isinstance(fast_attention(model, CPU), Float32Attention)
        assert not isinstance(fast_attention(model, torch.device("cuda")), Float32Attention)


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_a_student_learns_the_same_with_it(family):
    """Gradients under autocast against those in float32: with it they are as near as without."""
    far = {}
    for name, context in (("plain", nullcontext), ("float32", Float32Attention)):
        model, batch = tiny_models.model(family), tiny_models.batch()
        model(**batch).logits.square().sum().backward()
        exact = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        with bf16(), context():
            logits = model(**batch).logits
        logits.float().square().sum().backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        norm = sum(e.square().sum() for e in exact).sqrt()
        far[name] = float(sum((f - e).square().sum() for f, e in zip(found, exact, strict=True)).sqrt() / norm)
    assert 0 < far["float32"] < 1.5 * far["plain"]
    assert far["float32"] < 0.3


def test_checkpointed_layers_are_left_alone():
    """They run again in the backward pass, outside of any context, and must find the same types."""
    model, batch = tiny_models.model().train(), tiny_models.batch()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with bf16(), fast_attention(model, CPU) as mode:
        loss = model(**batch).logits.float().square().sum()
    assert mode is None
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
