from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.student import calibration
from hf_tinybert.student.calibration import (
    CalibrationTexts,
    sample_calibration_batch,
    sample_calibration_examples,
)


def lengths(*sizes):
    return [{"input_ids": list(range(size))} for size in sizes]


@pytest.mark.parametrize(("examples", "held_out"), [(0, 0), (1, 0), (2, 1), (3, 1), (10, 2), (13, 3)])
def test_all_of_few_examples_a_fifth_of_them_to_judge_by(examples, held_out):
    rows = Dataset.from_dict({"input_ids": [[size] * (size + 1) for size in range(examples)]})
    fitted, kept = sample_calibration_examples(rows)
    assert (len(fitted), len(kept)) == (examples - held_out, held_out)
    assert sorted(example["input_ids"][0] for example in fitted + kept) == list(range(examples))


def test_variants_beside_their_text_do_not_crowd_other_texts_out():
    rows = Dataset.from_dict({"input_ids": [[text] * 4 for text in range(2000) for _ in range(6)]})
    first, again = sample_calibration_examples(rows), sample_calibration_examples(rows)
    assert first == again
    assert [len(part) for part in first] == [1638, 410]
    for part, least in zip(first, (600, 250), strict=True):
        texts = {example["input_ids"][0] for example in part}
        assert len(texts) > least
        assert min(texts) < 100
        assert max(texts) > 1900


def test_no_more_tokens_than_can_be_run_through_a_teacher_soon():
    sizes = [len(part) for part in sample_calibration_examples(Dataset.from_list(lengths(*[512] * 100)))]
    assert sizes == [51, 13]
    assert [len(part) for part in sample_calibration_examples(Dataset.from_list(lengths(40_000, 40_000)))] == [1, 0]


def test_of_a_stream_the_first():
    fitted, held_out = sample_calibration_examples(iter(lengths(*range(1, 2000))))
    assert [len(example["input_ids"]) for example in fitted] == list(range(1, 205))
    assert [len(example["input_ids"]) for example in held_out] == list(range(205, 256))


def test_texts_that_are_not_tokenised_count_one_by_one():
    fitted, held_out = sample_calibration_examples([{"text": "lights on"}] * 3000)
    assert (len(fitted), len(held_out)) == (1638, 410)


def test_a_batch_is_the_models_inputs_of_these_examples_and_no_more(tokenizer):
    requests = ["lights on", "play some jazz in the kitchen", "stop", "what time is it", "wake me up at seven"]
    rows = Dataset.from_dict({"text": requests, "labels": range(5)}).map(lambda row: tokenizer(row["text"]))
    batch = sample_calibration_batch(rows, tokenizer)
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    fitted, held_out = sample_calibration_examples(rows)
    assert len(held_out) == 1
    for row, example in enumerate(fitted):
        kept = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][kept].tolist() == example["input_ids"]
    assert batch["input_ids"].shape == (4, 16)
    assert set(batch["input_ids"][~batch["attention_mask"].bool()].tolist()) == {tokenizer.pad_token_id}


def test_a_data_set_of_torch_will_do(tokenizer):
    class Plain(torch.utils.data.Dataset):
        rows = tuple(tokenizer(text) for text in ("lights on", "play some jazz in the kitchen", "stop"))

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return self.rows[index]

    assert sample_calibration_batch(Plain(), tokenizer)["input_ids"].shape[0] == 2


def test_a_stream_of_torch_with_a_length_is_a_stream(tokenizer):
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 3

        def __iter__(self):
            return iter(tokenizer(text) for text in ("lights on", "play some jazz in the kitchen", "stop"))

        def __getitem__(self, index):
            raise NotImplementedError

    assert sample_calibration_batch(Stream(), tokenizer)["input_ids"].shape[0] == 2


def test_there_is_no_batch_where_nothing_is_tokenised(tokenizer):
    texts = Dataset.from_dict({"text": ["lights on"]})
    assert sample_calibration_batch(texts, tokenizer) is None
    assert sample_calibration_batch(None, tokenizer) is None
    assert sample_calibration_batch(texts.select([]), tokenizer) is None
    assert sample_calibration_batch(texts.map(lambda row: tokenizer(row["text"])), None) is None


# Chunks


@st.composite
def masks(draw):
    """Of rows whose padding is on the right or on the left, some of them all padding."""
    width = draw(st.integers(1, 12))
    sizes = draw(st.lists(st.integers(0, width), min_size=1, max_size=8))
    mask = torch.zeros(len(sizes), width, dtype=torch.long)
    for row, size in enumerate(sizes):
        start = draw(st.sampled_from([0, width - size]))
        mask[row, start : start + size] = 1
    return mask


def numbered(mask):
    """A batch in which every position has a number of its own."""
    ids = torch.arange(mask.numel()).view(mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids + 1000}


@settings(max_examples=100, deadline=None)
@given(masks(), st.integers(1, 15), st.integers(1, 30))
def test_each_real_position_is_packed_once_whatever_the_padding(mask, length, chunk):
    batch = numbered(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "_CHUNK", chunk)
        texts = CalibrationTexts.from_batch(batch, length)
    packed = texts.pack([each["input_ids"] for each in texts.chunks])
    kept = batch["input_ids"][:, :length][mask[:, :length].bool()]
    assert sorted(packed.tolist()) == kept.tolist()
    types = texts.pack([each["token_type_ids"] for each in texts.chunks])
    assert torch.equal(types, packed + 1000)
    states = texts.pack([torch.stack([each["input_ids"]] * 3, dim=-1) for each in texts.chunks])
    assert torch.equal(states, packed.unsqueeze(-1).expand(-1, 3))
    assert sum(len(each["input_ids"]) for each in texts.chunks) == len(mask)
    for each in texts.chunks:
        assert len(each["input_ids"]) == 1 or each["input_ids"].numel() <= chunk
        assert each["attention_mask"][:, -1].any() or each["attention_mask"].shape[1] == 1


def test_a_row_keeps_its_place_in_a_chunk():
    """Positions are counted from a row's beginning: nothing is cut off there, though it be padding."""
    batch = numbered(torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]))
    (chunk,) = CalibrationTexts.from_batch(batch, 9).chunks
    for row, ids in zip(chunk["input_ids"], batch["input_ids"][[1, 0]], strict=True):
        assert torch.equal(row, ids)


def test_rows_of_similar_length_share_a_chunk(monkeypatch):
    monkeypatch.setattr(calibration, "_CHUNK", 24)
    texts = CalibrationTexts.from_batch(tiny_models.batch((3, 12, 2, 11, 12, 4)), 512)
    assert [tuple(each["input_ids"].shape) for each in texts.chunks] == [(2, 12), (2, 11), (2, 3)]


def test_without_a_mask_every_position_is_real_and_what_a_model_does_not_read_is_left_out():
    ids = torch.arange(12).view(3, 4)
    texts = CalibrationTexts.from_batch({"input_ids": ids, "labels": torch.zeros(3)}, 3)
    assert [each.keys() for each in texts.chunks] == [{"input_ids", "attention_mask"}]
    np.testing.assert_array_equal(texts.pack([texts.chunks[0]["input_ids"]]), ids[:, :3].flatten())


def test_texts_move_to_a_device():
    texts = CalibrationTexts.from_batch(tiny_models.batch(), 512).to(torch.device("meta"))
    assert {value.device.type for each in texts.chunks for value in each.values()} == {"meta"}
