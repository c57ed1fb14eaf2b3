"""Rows that are known again: their lengths, their content, their numbers in batches."""

from __future__ import annotations

import copy

import factories
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, IterableDataset, LargeList, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding

from hf_tinybert.teacher.cache import rows

tokens = st.lists(st.integers(0, 200), min_size=1, max_size=6)
tables = st.lists(tokens, min_size=1, max_size=6)
quick = settings(max_examples=10, deadline=None)


def padded(table, side):
    """The rows with padding and attention mask."""
    width = max(map(len, table)) + 2
    ids, masks = [], []
    for row in table:
        padding = [0] * (width - len(row))
        mask = [1] * len(row)
        ids.append(row + padding if side == "right" else padding + row)
        masks.append(mask + padding if side == "right" else padding + mask)
    return Dataset.from_dict({"input_ids": ids, "attention_mask": masks})


def typed(table, kind):
    return Dataset.from_dict({"input_ids": table}, features=Features({"input_ids": kind}))


@quick
@given(tables)
def test_lengths_are_of_real_positions(table):
    expected = [len(row) for row in table]
    for dataset in (Dataset.from_dict({"input_ids": table}), padded(table, "left"), padded(table, "right")):
        lengths = rows.real_lengths(dataset)
        assert lengths.dtype == np.int64
        assert lengths.tolist() == expected


def test_lengths_and_digest_of_more_rows_than_are_read_at_once(monkeypatch):
    table = [[number] * (number % 5 + 1) for number in range(100)]
    dataset = Dataset.from_dict({"input_ids": table})
    whole = rows.digest(dataset, ["input_ids"])
    monkeypatch.setattr(rows, "_CHUNK", 7)
    assert rows.real_lengths(dataset).tolist() == [len(row) for row in table]
    changed = [*table[:-1], [98] * len(table[-1])]
    assert rows.digest(dataset, ["input_ids"]) != rows.digest(Dataset.from_dict({"input_ids": changed}), ["input_ids"])
    assert whole != rows.digest(Dataset.from_dict({"input_ids": changed}), ["input_ids"])


@quick
@given(tables)
def test_the_digest_is_of_values_not_of_how_they_are_kept(table):
    kinds = (List(Value("int64")), List(Value("int32")), LargeList(Value("int16")))
    datasets = [typed(table, kind) for kind in kinds]
    datasets += [datasets[0].with_format("torch"), Dataset.from_dict({"other": table, "input_ids": table})]
    again = Dataset.from_dict({"input_ids": [[9], *table, [9]]})
    datasets.append(again.select(range(1, len(table) + 1)))
    assert len({rows.digest(dataset, ["input_ids"]) for dataset in datasets}) == 1


def test_columns_of_one_fixed_length_are_read_too():
    table = [[1, 2, 3], [4, 5, 6]]
    fixed = typed(table, List(Value("int64"), length=3))
    assert rows.real_lengths(fixed).tolist() == [3, 3]
    assert rows.digest(fixed, ["input_ids"]) == rows.digest(Dataset.from_dict({"input_ids": table}), ["input_ids"])


@quick
@given(tables, st.data())
def test_any_change_of_the_data_changes_the_digest(table, data):
    number = data.draw(st.integers(0, len(table) - 1))
    place = data.draw(st.integers(0, len(table[number]) - 1))
    value = copy.deepcopy(table)
    value[number][place] += 1
    longer, shorter = [*table, [7]], table[:-1]
    moved = copy.deepcopy(table)
    moved.insert(number, [moved[number].pop(0)])  # the same values, another boundary
    merged = [[value for row in table for value in row]] if len(table) > 1 else [*table, *table]
    seen = {rows.digest(Dataset.from_dict({"input_ids": table}), ["input_ids"])}
    for change in (value, longer, moved, merged, *([shorter] if shorter else [])):
        if change != table:
            seen.add(rows.digest(Dataset.from_dict({"input_ids": change}), ["input_ids"]))
    distinct = {str(change) for change in (table, value, longer, moved, merged, *([shorter] if shorter else []))}
    assert len(seen) == len(distinct)


def test_columns_do_not_stand_in_for_each_other():
    one, two = [[1, 2], [3]], [[0, 0], [1]]
    names = ["input_ids", "token_type_ids"]
    there = rows.digest(Dataset.from_dict(dict(zip(names, (one, two), strict=True))), names)
    back = rows.digest(Dataset.from_dict(dict(zip(names, (two, one), strict=True))), names)
    alone = rows.digest(Dataset.from_dict({"input_ids": one}), ["input_ids"])
    assert len({there, back, alone}) == 3


def test_fractions_count():
    one, other = ({"input_ids": [[1]], "weights": [[value]]} for value in (0.25, 0.75))
    names = ["input_ids", "weights"]
    assert rows.digest(Dataset.from_dict(one), names) != rows.digest(Dataset.from_dict(other), names)


def test_fractions_in_columns_of_one_fixed_length_count_too():
    one, other, lists = (
        Dataset.from_dict({"weights": [[0.25, value]]}, Features({"weights": List(Value("float64"), length=length)}))
        for value, length in ((0.5, 2), (0.75, 2), (0.5, -1))
    )
    digests = [rows.digest(dataset, ["weights"]) for dataset in (one, other, lists)]
    assert digests[0] == digests[2] != digests[1]


def test_what_has_no_lasting_rows_is_said():
    stream = IterableDataset.from_generator(lambda: iter([{"input_ids": [1]}]))
    plain = Dataset.from_dict({"input_ids": [[1, 2]]})
    expected = {
        "a IterableDataset, and only a datasets.Dataset": stream,
        "a TensorDataset": torch.utils.data.TensorDataset(torch.ones(1, 2)),
        "set_transform": plain.with_transform(lambda batch: batch),
        "no column 'input_ids', only text": Dataset.from_dict({"text": ["a"]}),
        "empty": plain.select([]),
    }
    for words, dataset in expected.items():
        assert words in rows.why_not(dataset)
    assert rows.why_not(plain) is None
    assert rows.why_not(plain.with_format("torch")) is None


@pytest.mark.parametrize("kind", [None, "torch", "numpy"])
def test_numbered_rows_are_the_rows(kind):
    table = [[5, 6], [7], [8, 9, 10]]
    dataset = Dataset.from_dict({"input_ids": table, "labels": [0, 1, 2], "text": ["a", "b", "c"]})
    dataset = dataset.select([2, 0]).with_format(kind, columns=["input_ids", "labels"])
    numbered = rows.numbered(dataset)
    assert [int(row[rows.ROW]) for row in numbered] == [0, 1]
    assert [list(map(int, row["input_ids"])) for row in numbered] == [table[2], table[0]]
    assert set(numbered[0]) == {"input_ids", "labels", rows.ROW}
    assert numbered.format["type"] == kind
    assert rows.ROW not in dataset.column_names


def test_a_batch_carries_its_numbers_and_what_is_known(household):
    dataset = rows.numbered(household["train"].select(range(9)))
    asked = []

    def read(numbers, mask):
        asked.append((numbers, int(mask.sum())))
        return {"tokens": torch.ones(2)}

    collate = rows.NumberedCollator(DataCollatorWithPadding(factories.tokenizer()), read)
    chosen = [7, 0, 3]
    batch = collate([dataset[number] for number in chosen])
    expected = DataCollatorWithPadding(factories.tokenizer())([household["train"][number] for number in chosen])
    assert batch[rows.ROW] == (7, 0, 3)
    assert asked == [((7, 0, 3), int(expected["attention_mask"].sum()))]
    assert batch[rows.KNOWLEDGE].keys() == {"tokens"}
    assert batch.keys() - expected.keys() == {rows.ROW, rows.KNOWLEDGE}
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert rows.KNOWLEDGE not in rows.NumberedCollator(collate.collator)([dataset[0]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_is_in_the_data_already_changes_nothing(side):
    dataset = rows.numbered(padded([[5, 6], [7], [8, 9, 10]], side))
    collate = rows.NumberedCollator(DataCollatorWithPadding(factories.tokenizer()))
    assert collate(list(dataset))[rows.ROW] == (0, 1, 2)


def test_without_masks_everything_is_real():
    collate = rows.NumberedCollator(lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])})
    batch = collate([{"input_ids": [0, 4], rows.ROW: 3}, {"input_ids": [0, 0], rows.ROW: 1}])
    assert batch[rows.ROW] == (3, 1)
    assert rows.mask_of(batch).tolist() == [[1, 1], [1, 1]]


def masked(examples):
    torch.manual_seed(0)
    return DataCollatorForLanguageModeling(factories.tokenizer(), mlm_probability=0.5)(examples)


def truncated(examples):
    return {name: value[:, :4] for name, value in DataCollatorWithPadding(factories.tokenizer())(examples).items()}


def reversed_order(examples):
    return DataCollatorWithPadding(factories.tokenizer())(examples[::-1])


@pytest.mark.parametrize("collator", [masked, truncated, reversed_order])
def test_collators_that_change_the_rows_are_refused(collator, household):
    dataset = rows.numbered(household["train"].select_columns(["input_ids", "attention_mask"]))
    with pytest.raises(ValueError, match=r"changes the token ids.*teacher_cache='none'"):
        rows.NumberedCollator(collator)([dataset[number] for number in range(3)])


def test_a_batch_that_was_cut_is_refused():
    batch = {"input_ids": torch.zeros(4, 3), rows.ROW: (5, 1, 2, 7)}
    assert rows.numbers_of(batch) == (5, 1, 2, 7)
    assert rows.numbers_of({"input_ids": torch.zeros(4, 3)}) is None
    with pytest.raises(ValueError, match="2 sequences carries the numbers of 4 rows"):
        rows.numbers_of(batch | {"input_ids": torch.zeros(2, 3)})
