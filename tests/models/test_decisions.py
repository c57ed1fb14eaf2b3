from __future__ import annotations

import pytest
import torch

from hf_tinybert.models.decisions import decisions
from hf_tinybert.models.output_types import MULTI_LABEL, SINGLE_LABEL, SPANS, TOKENS

MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]])


def test_a_row_is_one_decision():
    logits = torch.randn(3, 5).bfloat16()
    found, counted = decisions(SINGLE_LABEL, logits, {"attention_mask": MASK, "labels": torch.tensor([0, -100, 2])})
    assert found.dtype == torch.float32
    assert torch.equal(found, logits.float())
    assert counted is None


def test_each_label_of_several_is_a_decision_against_its_absence():
    logits = torch.randn(3, 5)
    found, counted = decisions(MULTI_LABEL, logits, {"labels": torch.zeros(3, 5)})
    assert found.shape == (3, 5, 2)
    torch.testing.assert_close(found.softmax(-1)[..., 0], logits.sigmoid())
    assert counted is None


def test_of_tokens_those_with_a_label_count_and_without_labels_the_real_ones():
    logits = torch.randn(2, 4, 3)
    labels = torch.tensor([[0, -100, 2, -100], [-100, 1, -100, -100]])
    found, counted = decisions(TOKENS, logits, {"attention_mask": MASK, "labels": labels})
    assert torch.equal(found, logits)
    assert torch.equal(counted, labels != -100)
    assert torch.equal(decisions(TOKENS, logits, {"attention_mask": MASK})[1], MASK.bool())
    assert decisions(TOKENS, logits, {})[1] is None


@pytest.mark.parametrize("padded", [True, False])
def test_a_span_is_two_decisions_between_real_positions(padded):
    logits = torch.randn(2, 4, 2)
    found, counted = decisions(SPANS, logits, {"attention_mask": MASK} if padded else {})
    assert counted is None
    assert found.shape == (2, 2, 4)
    for row in range(2):
        kept = MASK[row].bool() if padded else torch.ones(4, dtype=torch.bool)
        for end in range(2):
            assert torch.equal(found[row, end][kept], logits[row, kept, end])
            probabilities = found[row, end].softmax(-1)
            assert torch.equal(probabilities > 0, kept)
            torch.testing.assert_close(probabilities[kept], logits[row, kept, end].softmax(-1))
