from __future__ import annotations

import pytest
import torch


@pytest.fixture
def no_gradients():
    """What is made from a teacher is made without gradients; random weights are the same in every test."""
    torch.manual_seed(0)
    with torch.no_grad():
        yield
