"""How alike layers are: against the definition, written out with centring matrices in float64."""

from __future__ import annotations

import factories
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.evaluation import layer_similarity
from hf_tinybert.layer_mapping import LayerMapping


def reference(x, y):
    """Equation 5 of Song et al. for linear kernels, normalised as in Kornblith et al."""
    n = len(x)
    kernels = [states @ states.T for states in (x, y)]
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)

    def hsic(k, m):
        ones = np.ones(n)
        whole = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (whole - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    return hsic(*kernels) / np.sqrt(hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 30), st.integers(1, 7), st.integers(1, 7))
def test_linear_cka_is_the_papers(seed, tokens, width, other):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(tokens, width)), rng.normal(size=(tokens, other)) + rng.normal()
    found = layer_similarity.linear_cka(torch.from_numpy(x), torch.from_numpy(y))
    assert float(found) == pytest.approx(reference(x, y), rel=1e-7, abs=1e-9)


def test_rotations_scales_and_shifts_do_not_count():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))
    assert float(layer_similarity.linear_cka(x, 3 * x @ rotation + 7)) == pytest.approx(1, abs=1e-5)


def test_what_has_nothing_in_common_is_near_zero_though_it_is_wide():
    """With few tokens and many dimensions, where the plain estimate is near 1."""
    found = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(40, 312, generator=generator), torch.randn(40, 768, generator=generator)
        found.append(float(layer_similarity.linear_cka(x, y)))
    assert abs(sum(found) / len(found)) < 0.02


def test_padding_is_left_out_and_batches_do_not_matter(teacher, tokenizer):
    texts = ["turn on the lights", "what is the weather like in a town that is far away", "stop"]
    rows = [dict(tokenizer(text)) for text in texts]
    together = layer_similarity.hidden_states(teacher.eval(), tokenizer, rows)
    alone = layer_similarity.hidden_states(teacher, tokenizer, rows, batch_size=1)
    assert len(together) == teacher.config.num_hidden_layers + 1
    assert together[0].shape == (sum(len(tokenizer(text)["input_ids"]) for text in texts), teacher.config.hidden_size)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


def test_a_model_is_like_itself_and_a_student_like_its_teacher(teacher, tokenizer):
    texts = [dict(tokenizer(text)) for text in factories.requests(12)]
    teacher.eval()
    mapping = LayerMapping({0: 0, **{m: m for m in range(1, 5)}})
    same = layer_similarity.measure(teacher, teacher, tokenizer, texts, mapping, "turn on the lights")
    torch.testing.assert_close(same.hidden.diagonal(), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9)
    assert same.attention == pytest.approx(dict.fromkeys(range(1, 5), 1.0), abs=1e-5)
    assert same.tokens == ["[CLS]", "turn", "on", "the", "lights", "[SEP]"]
    assert set(same.maps) == {(m, m) for m in range(1, 5)}
    student = factories.small_student(teacher, init="teacher").eval()
    found = layer_similarity.measure(student, teacher, tokenizer, texts, LayerMapping({0: 0, 1: 2, 2: 4}), "stop")
    random = layer_similarity.measure(factories.small_student(teacher).eval(), teacher, tokenizer, texts, None, "stop")
    assert found.hidden.shape == random.hidden.shape == (3, 5)
    assert found.hidden[0, 0] > random.hidden[0, 0]
    assert found.hidden[2, 4] > random.hidden[2, 4]
    assert set(found.attention) == {1, 2}
    assert all(0 < share < 1 for share in found.attention.values())
    assert (random.attention, random.maps) == ({}, {})
