from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn

from hf_tinybert.utils.hashing import file_digest, json_digest, stream_digest, tensors_digest, weights_digest


def test_of_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content\x00" * 100_000)
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_of_json_the_order_of_keys_plays_no_part():
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})
    assert json_digest([1, 2]) != json_digest([2, 1])
    assert json_digest("ü") == hashlib.sha256(json.dumps("ü").encode()).hexdigest()


def test_of_a_stream():
    assert stream_digest(iter(["ab", b"c"])) == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors | {"more": torch.zeros(1)},
        lambda tensors: {"other": tensors["a"], "b": tensors["b"]},
        lambda tensors: tensors | {"a": tensors["a"] + 1},
        lambda tensors: tensors | {"a": tensors["a"].T},
        lambda tensors: tensors | {"a": tensors["a"].double()},
    ],
)
def test_of_tensors_everything_counts(change):
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    assert tensors_digest(tensors) == tensors_digest(dict(reversed(tensors.items())))
    assert tensors_digest(tensors) != tensors_digest(change(tensors))


def test_of_a_models_weights():
    model = nn.Linear(2, 3)
    assert weights_digest(model) == tensors_digest(model.state_dict())
