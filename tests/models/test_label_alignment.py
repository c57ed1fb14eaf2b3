from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from hf_tinybert.models.label_alignment import LabelAlignment


def labels(*names):
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def test_labels_that_agree_or_that_say_nothing_keep_their_order():
    text = labels("a", "b")
    text.id2label = {"0": "a", "1": "b"}
    unnamed = BertConfig(num_labels=2)
    for student, teacher in ((text, labels("a", "b")), (text, unnamed), (unnamed, text)):
        assert LabelAlignment.from_configs(student, teacher) == LabelAlignment()
    logits, gold = torch.randn(3, 2), torch.tensor([0, 1, 1])
    assert LabelAlignment().logits(logits) is logits
    assert LabelAlignment().labels(gold) is gold


def test_an_order_is_no_more_than_it_was_made_of():
    order = LabelAlignment.from_configs(labels("b", "a"), labels("a", "b"))
    assert (order, order.indices) == (LabelAlignment((1, 0)), (1, 0))
    with pytest.raises(FrozenInstanceError):
        order.indices = None


def test_numbers_are_refused_with_what_to_do():
    message = (
        r"^The teacher has 2 labels and the student 1\. Make the student with `create_student\(teacher, \.\.\.\)`, or "
        r"its configuration with `TinyBertConfig\.from_teacher`: both take the labels from the teacher\.$"
    )
    with pytest.raises(ValueError, match=message):
        LabelAlignment.from_configs(labels("a"), labels("a", "b"))
    with pytest.raises(ValueError, match="The teacher has 2 labels and the student 3"):
        LabelAlignment.from_configs(labels("a", "b", "c"), labels("a", "b"))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (("a", "c"), ("a", "b")),
        (("LABEL_1", "LABEL_0"), ("a", "b")),
        (("LABEL_0", "a"), ("a", "b")),
        (("b", "a", "a"), ("a", "a", "b")),
        (("a", "b", "b"), ("a", "a", "b")),
    ],
)
def test_labels_that_do_not_agree_are_shown(student, teacher):
    with pytest.raises(ValueError) as caught:
        LabelAlignment.from_configs(labels(*student), labels(*teacher))
    assert str(caught.value).splitlines() == [
        "Teacher and student have different labels, so their logits cannot be compared.",
        f"  teacher: {dict(enumerate(teacher))}",
        f"  student: {dict(enumerate(student))}",
    ]


def test_made_up_names_of_some_classes_alone_are_names():
    assert LabelAlignment.from_configs(labels("LABEL_0", "b"), labels("b", "LABEL_0")).indices == (1, 0)
    assert LabelAlignment.from_configs(labels("a", "a", "b"), labels("a", "a", "b")).indices is None


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 999))
def test_another_order_is_matched_by_name(order, seed):
    names = [f"name {place}" for place in range(5)]
    matched = LabelAlignment.from_configs(labels(*(names[place] for place in order)), labels(*names))
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    ours = matched.logits(logits)
    for index, place in enumerate(order):
        assert torch.equal(ours[..., index], logits[..., place])
    gold = torch.tensor([[0, 4, -100], [2, 3, 1]])
    assert matched.labels(gold).tolist() == [[order[0], order[4], -100], [order[2], order[3], order[1]]]
    several = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]])
    assert torch.equal(matched.logits(matched.labels(several)), several)
