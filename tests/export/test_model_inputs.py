from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel
from transformers.models.bert import BertModel

from hf_tinybert.export.model_inputs import ModelInputs

SMALL = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}


@pytest.mark.parametrize(
    ("model", "token_types"),
    [
        (lambda: BertModel(BertConfig(**SMALL)), True),
        (lambda: BertModel(BertConfig(**SMALL, type_vocab_size=1)), True),
        (lambda: RobertaModel(RobertaConfig(**SMALL, type_vocab_size=1)), False),
        (lambda: RobertaModel(RobertaConfig(**SMALL, type_vocab_size=2)), True),
        (lambda: DistilBertModel(DistilBertConfig(n_layers=1, dim=8, n_heads=2, hidden_dim=8, vocab_size=9)), False),
    ],
)
def test_of_a_model(model, token_types):
    names = ModelInputs.from_model(model()).names
    assert names == ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]


def test_what_a_batch_lacks_is_real_and_of_the_first_type():
    ids = torch.tensor([[3, 4, 5]])
    given = ModelInputs(["attention_mask", "input_ids", "token_type_ids"]).complete({"input_ids": ids})
    assert list(given) == ["attention_mask", "input_ids", "token_type_ids"]
    assert [value.tolist() for value in given.values()] == [[[1, 1, 1]], [[3, 4, 5]], [[0, 0, 0]]]
    assert all(value.dtype == torch.int64 for value in given.values())


def test_what_a_batch_has_is_taken_and_the_rest_left_out():
    batch = {
        "input_ids": torch.tensor([[3, 0]]),
        "attention_mask": torch.tensor([[1, 0]]),
        "labels": torch.tensor([1]),
    }
    given = ModelInputs(["input_ids", "attention_mask"]).complete(batch)
    assert given["attention_mask"] is batch["attention_mask"]
    assert "labels" not in given


def test_of_a_row():
    inputs = ModelInputs(["input_ids", "attention_mask", "token_type_ids"])
    row = {"input_ids": [3, 4], "token_type_ids": [0, 1], "labels": 1}
    assert inputs.complete_row(row) == {"input_ids": [3, 4], "attention_mask": [1, 1], "token_type_ids": [0, 1]}
