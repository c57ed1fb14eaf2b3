from __future__ import annotations

import torch
from datasets import Dataset

from hf_tinybert.student.calibration import sample_calibration_batch, sample_calibration_examples


def lengths(*sizes):
    return [{"input_ids": list(range(size))} for size in sizes]


def test_all_of_few_examples():
    found = sample_calibration_examples(Dataset.from_list(lengths(3, 5, 2)))
    assert sorted(len(example["input_ids"]) for example in found) == [2, 3, 5]


def test_variants_beside_their_text_do_not_crowd_other_texts_out():
    rows = Dataset.from_dict({"input_ids": [[text] * 4 for text in range(2000) for _ in range(6)]})
    texts = {example["input_ids"][0] for example in sample_calibration_examples(rows)}
    assert len(texts) > 700
    assert min(texts) < 100
    assert max(texts) > 1900
    assert sample_calibration_examples(rows) == sample_calibration_examples(rows)


def test_no_more_than_fit_when_padded_to_the_longest():
    assert len(sample_calibration_examples(Dataset.from_list(lengths(*[512] * 100)))) == 64
    assert len(sample_calibration_examples(Dataset.from_list(lengths(40_000)))) == 1


def test_of_a_stream_the_first():
    found = sample_calibration_examples(iter(lengths(*range(1, 2000))))
    assert [len(example["input_ids"]) for example in found] == list(range(1, 182))


def test_a_batch_is_the_models_inputs_of_these_examples_and_no_more(tokenizer):
    texts = Dataset.from_dict({"text": ["lights on", "play some jazz in the kitchen"], "labels": [0, 1]})
    rows = texts.map(lambda row: tokenizer(row["text"]))
    batch = sample_calibration_batch(rows, tokenizer)
    assert batch.keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert sorted(batch["attention_mask"].sum(1).tolist()) == sorted(map(len, rows["input_ids"]))


def test_a_data_set_of_torch_will_do(tokenizer):
    class Plain(torch.utils.data.Dataset):
        rows = tuple(tokenizer(text) for text in ("lights on", "play some jazz in the kitchen"))

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return self.rows[index]

    assert sample_calibration_batch(Plain(), tokenizer)["input_ids"].shape[0] == 2


def test_a_stream_of_torch_with_a_length_is_a_stream(tokenizer):
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 2

        def __iter__(self):
            return iter([tokenizer("lights on"), tokenizer("play some jazz in the kitchen")])

    assert sample_calibration_batch(Stream(), tokenizer)["input_ids"].shape[0] == 2


def test_there_is_no_batch_where_nothing_is_tokenised(tokenizer):
    texts = Dataset.from_dict({"text": ["lights on"]})
    assert sample_calibration_batch(texts, tokenizer) is None
    assert sample_calibration_batch(None, tokenizer) is None
    assert sample_calibration_batch(texts.select([]), tokenizer) is None
    assert sample_calibration_batch(texts.map(lambda row: tokenizer(row["text"])), None) is None
