from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from hf_tinybert.labels import LabelOrder


def labels(*names):
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def test_labels_that_agree_or_that_say_nothing_keep_their_order():
    text = labels("a", "b")
    text.id2label = {"0": "a", "1": "b"}
    unnamed = BertConfig(num_labels=2)
    for student, teacher in ((text, labels("a", "b")), (text, unnamed), (unnamed, text)):
        assert LabelOrder.between(student, teacher) == LabelOrder()
    logits, gold = torch.randn(3, 2), torch.tensor([0, 1, 1])
    assert LabelOrder().logits(logits) is logits
    assert LabelOrder().labels(gold) is gold


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (labels("a"), labels("a", "b"), "teacher has 2 labels and the student 1"),
        (labels("a", "c"), labels("a", "b"), "different labels"),
        (labels("LABEL_1", "LABEL_0"), labels("a", "b"), "different labels"),
        (labels("b", "a", "a"), labels("a", "a", "b"), "different labels"),
    ],
)
def test_labels_that_do_not_agree_are_shown(student, teacher, message):
    with pytest.raises(ValueError, match=message) as caught:
        LabelOrder.between(student, teacher)
    if "different" in message:
        assert str(teacher.id2label) in str(caught.value)
        assert str(student.id2label) in str(caught.value)


@given(st.permutations(range(5)), st.integers(0, 999))
def test_another_order_is_matched_by_name(order, seed):
    names = [f"name {place}" for place in range(5)]
    matched = LabelOrder.between(labels(*(names[place] for place in order)), labels(*names))
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    ours = matched.logits(logits)
    for index, place in enumerate(order):
        assert torch.equal(ours[..., index], logits[..., place])
    gold = torch.tensor([[0, 4, -100], [2, 3, 1]])
    assert matched.labels(gold).tolist() == [[order[0], order[4], -100], [order[2], order[3], order[1]]]
    several = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]])
    assert torch.equal(matched.logits(matched.labels(several)), several)
