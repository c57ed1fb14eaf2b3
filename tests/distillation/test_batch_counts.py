"""What a global batch holds is counted exactly, whatever its micro-batches look like."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.distillation.batch_counts import BatchCounts

CPU = torch.device("cpu")
LENGTHS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=3)


def batch(*lengths, width=None, left=False, **more):
    """Rows of so many real tokens each, padded to the longest or to `width`."""
    width = width or max(lengths)
    ends = torch.arange(width).expand(len(lengths), -1)
    ends = ends.flip(1) if left else ends
    mask = (ends < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.full((len(lengths), width), 7), "attention_mask": mask} | more


def counted(*batches, **settings):
    counts = BatchCounts.from_batches(batches, CPU, **settings)
    tensors = (counts.sequences, counts.tokens, counts.pairs, counts.labels, *counts.windowed.values())
    assert {(value.dtype, value.shape) for value in tensors} == {(torch.float32, ())}
    return {
        "sequences": counts.sequences.item(),
        "tokens": counts.tokens.item(),
        "pairs": counts.pairs.item(),
        "labels": counts.labels.item(),
        "shares": counts.shares,
        "windowed": {window: value.item() for window, value in counts.windowed.items()},
    }


def test_of_one_batch_with_padding():
    expected = {"sequences": 3, "tokens": 9, "pairs": 25 + 9 + 1, "labels": 3, "shares": 1, "windowed": {}}
    assert counted(batch(5, 3, 1)) == expected
    assert counted(batch(5, 3, 1, width=20)) == expected
    assert counted(batch(5, 3, 1, width=20, left=True)) == expected


def test_without_a_mask_every_position_is_real():
    rows = {"input_ids": torch.zeros(2, 6, dtype=torch.long)}
    assert counted(rows, windows=[1]) == {
        "sequences": 2,
        "tokens": 12,
        "pairs": 72,
        "labels": 2,
        "shares": 1,
        "windowed": {1: 2 * (6 + 5 + 5)},
    }


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.sets(st.integers(0, 8), max_size=3), st.integers(1, 3))
def test_over_all_micro_batches_one_position_after_the_other(lengths, windows, processes):
    found = counted(*(batch(*rows, width=7) for rows in lengths), windows=windows, processes=processes)
    rows = [length for part in lengths for length in part]
    assert found == {
        "sequences": len(rows),
        "tokens": sum(rows),
        "pairs": sum(length**2 for length in rows),
        "labels": len(rows),
        "shares": len(lengths) * processes,
        "windowed": {
            window: sum(abs(i - j) <= window for length in rows for i in range(length) for j in range(length))
            for window in windows
        },
    }


def test_windows_are_in_ascending_order_and_none_by_default():
    counts = BatchCounts.from_batches([batch(4, 2)], CPU, windows=[3, 0, 2, 1])
    assert [(window, value.item()) for window, value in counts.windowed.items()] == [(0, 6), (1, 14), (2, 18), (3, 20)]
    assert BatchCounts(*torch.zeros(4), shares=1).windowed == {}


@pytest.mark.parametrize(
    ("labels", "count_rows", "expected"),
    [
        (None, False, 2),
        (None, True, 2),
        (torch.tensor([1, -100]), False, 1),
        (torch.tensor([-100, -100]), False, 0),
        (torch.tensor([0, 99]), False, 2),
        (torch.tensor([-1, -99]), False, 2),
        (torch.tensor([[-100, 4, -100], [1, 2, -100]]), False, 3),
        (torch.tensor([[-100, 4, -100], [1, 2, -100]]), True, 2),
        (torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), False, 2),
        (torch.tensor([0.5, -100.0]), False, 2),
    ],
)
def test_labels_are_labelled_rows_or_positions(labels, count_rows, expected):
    labelled = {} if labels is None else {"labels": labels}
    found = counted(batch(3, 2, **labelled), count_rows=count_rows)
    assert found["labels"] == expected
    assert (found["sequences"], found["tokens"]) == (2, 5)


def test_processes_are_added_up_and_each_is_a_share():
    asked = []

    def reduce(values, reduction):
        asked.append((values.tolist(), reduction))
        return values * 3

    found = counted(batch(4, 1), batch(2), processes=3, reduce=reduce, windows=[0])
    assert asked == [([3, 7, 21, 3, 7], "sum")]
    assert found == {"sequences": 9, "tokens": 21, "pairs": 63, "labels": 9, "shares": 6, "windowed": {0: 21}}


def test_an_input_longer_than_the_models_is_refused_and_padding_counts_as_length():
    assert counted(batch(2, width=8), longest=8)["tokens"] == 2
    assert counted(batch(2, width=8), longest=None)["tokens"] == 2
    with pytest.raises(ValueError) as caught:
        counted(batch(2), batch(2, width=9), longest=8)
    assert str(caught.value) == (
        "An input of 9 tokens is longer than the 8 positions of the student or the teacher: truncate when tokenising "
        "(`truncation=True, max_length=...`)."
    )


def test_counts_stay_as_they_are():
    with pytest.raises(FrozenInstanceError):
        BatchCounts.from_batches([batch(2)], CPU).shares = 2
