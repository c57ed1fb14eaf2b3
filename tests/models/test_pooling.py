from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.models.pooling import pool


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_means_are_over_real_positions(lengths, width, left, seed):
    hidden = torch.randn(len(lengths), max(lengths), width, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1 if left else 0
        mask[row, :length] |= 0 if left else 1
    expected = [hidden[row].double().numpy()[mask[row].bool().numpy()].mean(0) for row in range(len(lengths))]
    np.testing.assert_allclose(pool(hidden, mask, "mean").numpy(), np.stack(expected), atol=1e-6)


def test_without_a_mask_and_of_the_first_token():
    hidden = torch.randn(2, 3, 4).bfloat16()
    assert torch.equal(pool(hidden, None, "mean"), hidden.float().mean(1))
    assert torch.equal(pool(hidden, torch.ones(2, 3), "cls"), hidden[:, 0].float())
    assert pool(hidden, None, "cls").dtype == torch.float32


def test_nothing_real_is_no_division_by_zero():
    assert pool(torch.ones(1, 2, 3), torch.zeros(1, 2), "mean").tolist() == [pytest.approx([0.0, 0.0, 0.0])]
