"""FSDP: what the trainer wraps, sharded over two gloo processes. The Trainer's own FSDP needs an accelerator."""

from __future__ import annotations

import json
from pathlib import Path

import factories
import pytest
import shard_worker
import torch
from accelerate.commands.config.config_args import load_config_from_file


@pytest.mark.also_transformers("4.57")
def test_a_sharded_step_equals_the_whole_batch_in_one_process(processes, teacher_folder, tmp_path):
    result = tmp_path / "result.json"
    for rank in processes.run_ranks(2, shard_worker.__file__, teacher_folder, result):
        assert rank.returncode == 0, rank.output
    report = json.loads(result.read_text())
    assert report["names"] == report["expected_names"]
    assert report["sharded"] == len(report["names"]) > 40
    assert report["loss"] == pytest.approx(report["expected"], rel=1e-5)
    assert report["worst"] < 1e-5 < report["moved"]


def test_fsdp_that_would_not_be_is_refused(teacher, tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator")
    args = factories.arguments(tmp_path, max_steps=2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was requested and is not active"):
        factories.trainer(factories.small_student(teacher), teacher, args)


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("deepspeed", "DEEPSPEED")])
def test_the_launchers_files_are_read_by_accelerate(name, kind):
    path = Path(__file__).parents[1] / "examples" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes == 2
    assert config.distributed_type == kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the Trainer's FSDP exists on accelerators only")
def test_the_trainers_fsdp_is_on_and_never_falls_back(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_VERSION", "2")
    args = factories.arguments(tmp_path, use_cpu=False, max_steps=2, fsdp="full_shard")
    trainer = factories.trainer(factories.small_student(teacher), teacher, args)
    assert trainer.is_fsdp_enabled
    trainer.train()
