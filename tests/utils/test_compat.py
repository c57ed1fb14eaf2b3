from __future__ import annotations

from contextlib import suppress

import pytest
import tiny_models
import torch
from transformers import TrainingArguments

from hf_tinybert import DistillationTrainingArguments
from hf_tinybert.utils import compat

pytestmark = pytest.mark.also_transformers("4.57")


@pytest.mark.parametrize("cls", [TrainingArguments, DistillationTrainingArguments])
def test_grouping_by_length_in_this_versions_spelling(tmp_path, cls):
    assert compat.groups_by_length(cls(output_dir=str(tmp_path))) == (cls is DistillationTrainingArguments)
    assert compat.groups_by_length(cls(output_dir=str(tmp_path), **compat.group_by_length_argument()))
    assert not compat.groups_by_length(cls(output_dir=str(tmp_path), **compat.random_order_argument()))


def test_without_grouping_leaves_no_trace(tmp_path):
    for given in (compat.group_by_length_argument(), compat.random_order_argument()):
        args = TrainingArguments(output_dir=str(tmp_path), **given)
        before = args.to_dict()
        with suppress(RuntimeError), compat.without_grouping(args):
            assert not compat.groups_by_length(args)
            raise RuntimeError
        assert args.to_dict() == before


def test_the_arguments_of_torch_compile(tmp_path):
    assert compat.compile_arguments(TrainingArguments(output_dir=str(tmp_path))) is None
    args = TrainingArguments(output_dir=str(tmp_path), torch_compile_backend="aot_eager")
    assert compat.compile_arguments(args) == {"backend": "aot_eager"}


def test_grouping_survives_json(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), **compat.group_by_length_argument())
    assert compat.groups_by_length(TrainingArguments(**args.to_dict()))


def test_warm_up_is_a_share_of_the_steps(tmp_path, recwarn):
    args = TrainingArguments(output_dir=str(tmp_path), **compat.warmup_argument(0.1))
    assert args.get_warmup_steps(200) == 20
    none = TrainingArguments(output_dir=str(tmp_path), **compat.warmup_argument(0.0))
    assert none.get_warmup_steps(200) == 0
    assert not [w for w in recwarn if "warmup" in str(w.message)]


def test_checkpointing_is_seen_in_both_spellings():
    model = tiny_models.model()
    assert not compat.checkpoints_layers(model)
    model.gradient_checkpointing_enable()
    assert compat.checkpoints_layers(model)
    model.gradient_checkpointing_disable()
    assert not compat.checkpoints_layers(model)
    assert not compat.checkpoints_layers(torch.nn.Linear(2, 2))


def test_a_numbered_cpu_is_a_cpu(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "state.pt")
    compat.let_cpus_have_numbers()
    for place in ("cpu:0", "cpu:3", "cpu"):
        loaded = torch.load(tmp_path / "state.pt", map_location=torch.device(place), weights_only=True)
        assert loaded["a"].device.type == "cpu"
        assert loaded["a"].sum() == 3
