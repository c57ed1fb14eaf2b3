from __future__ import annotations

import pytest
from datasets import Dataset

from hf_tinybert.cli.stage import calibration

pytestmark = pytest.mark.one_world("4.57")


def lengths(*sizes):
    return [{"input_ids": list(range(size))} for size in sizes]


def test_all_of_few_examples():
    found = calibration(Dataset.from_list(lengths(3, 5, 2)))
    assert sorted(len(example["input_ids"]) for example in found) == [2, 3, 5]


def test_variants_beside_their_text_do_not_crowd_other_texts_out():
    rows = Dataset.from_dict({"input_ids": [[text] * 4 for text in range(2000) for _ in range(6)]})
    texts = {example["input_ids"][0] for example in calibration(rows)}
    assert len(texts) > 700
    assert min(texts) < 100
    assert max(texts) > 1900
    assert calibration(rows) == calibration(rows)


def test_no_more_than_fit_when_padded_to_the_longest():
    assert len(calibration(Dataset.from_list(lengths(*[512] * 100)))) == 64
    assert len(calibration(Dataset.from_list(lengths(40_000)))) == 1


def test_of_a_stream_the_first():
    found = calibration(iter(lengths(*range(1, 2000))))
    assert [len(example["input_ids"]) for example in found] == list(range(1, 182))
