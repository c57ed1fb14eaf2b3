from __future__ import annotations

import random

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.data.sampler import SeededLengthGroupedSampler, lengths_of, token_counts

pytestmark = pytest.mark.also_transformers("4.57")

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=200)


def order(lengths, batch=4, seed=0, epoch=0):
    sampler = SeededLengthGroupedSampler(batch, lengths, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def padding(lengths, order, batch):
    """Positions spent on padding when batches are cut from an order."""
    batches = [[lengths[i] for i in order[at : at + batch]] for at in range(0, len(order), batch)]
    return sum(max(b) * len(b) - sum(b) for b in batches)


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(1, 16), st.integers(0, 9), st.integers(0, 9))
def test_every_example_once_in_an_order_of_seed_and_epoch_alone(lengths, batch, seed, epoch):
    first = order(lengths, batch, seed, epoch)
    assert sorted(first) == list(range(len(lengths)))
    assert all(type(index) is int for index in first)
    torch.manual_seed(len(lengths))
    torch.rand(7)
    assert order(lengths, batch, seed, epoch) == first
    assert len(SeededLengthGroupedSampler(batch, lengths, seed)) == len(lengths)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(100, 300))
def test_other_epochs_and_other_seeds_have_other_orders(seed, epoch, count):
    lengths = [1 + (i * 7) % 60 for i in range(count)]
    orders = [order(lengths, 4, s, e) for s, e in ((seed, epoch), (seed, epoch + 1), (seed + 101, epoch))]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_asking_twice_in_one_epoch_gives_the_same_order():
    sampler = SeededLengthGroupedSampler(4, list(range(1, 60)), 3)
    assert list(sampler) == list(sampler)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(400, 1200), st.sampled_from([4, 8]))
def test_batches_hold_similar_lengths(seed, count, batch):
    source = random.Random(seed)
    lengths = [source.randint(1, 64) for _ in range(count)]
    grouped = padding(lengths, order(lengths, batch, seed), batch)
    shuffled = padding(lengths, source.sample(range(count), count), batch)
    assert grouped < 0.4 * shuffled


def test_real_sentences_need_less_padding(household):
    lengths = lengths_of(household["train"], "length")
    shuffled = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    assert padding(lengths, order(lengths, 8), 8) < 0.4 * padding(lengths, shuffled, 8)


def test_lengths_of_tokenised_sentences(household):
    data = household["eval"]
    expected = [len(row["input_ids"]) for row in data]
    assert len(set(expected)) > 3
    for same in (data, data.with_format("torch"), data.select_columns(["input_ids"])):
        assert lengths_of(same, "length") == token_counts(same) == expected


def test_a_column_of_lengths_is_taken_at_its_word():
    data = Dataset.from_dict({"input_ids": [[1], [1, 2]], "length": [7, 9]})
    for form in (data, data.with_format("torch"), data.with_format("numpy")):
        found = lengths_of(form, "length")
        assert found == [7, 9]
        assert all(type(length) is int for length in found)


def test_lengths_are_unknown_where_rows_would_have_to_be_computed(household):
    raw = Dataset.from_dict({"text": ["a"]})
    lazy = raw.with_transform(lambda rows: {"input_ids": [[1, 2] for _ in rows["text"]]})
    for data in (raw, lazy, list(household["eval"]), None):
        assert lengths_of(data, "length") is None
    assert token_counts(raw) is None
