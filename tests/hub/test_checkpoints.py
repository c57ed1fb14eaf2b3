from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_tinybert.distillation.projections import Projections
from hf_tinybert.hub import checkpoints
from hf_tinybert.hub.checkpoints import DistillationState, missing_parts, newest_complete

PARTS = (
    "distillation_projections.safetensors",
    "distillation_state.json",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
)


def checkpoint(output, step, without=(), state='{"global_step": 4}'):
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in PARTS:
        (folder / name).write_text(state if name == "trainer_state.json" else "x")
    for name in without:
        (folder / name).unlink()
    return folder


def test_the_newest_by_number_not_by_name(tmp_path):
    for step in (8, 20, 100):
        checkpoint(tmp_path, step)
    for name in ("checkpoint-final", "checkpoint-", "checkpoint-1e9", "my-checkpoint-900", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-999").write_text("a file")
    assert newest_complete(tmp_path) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("name", PARTS)
def test_one_that_lacks_any_part_is_passed_over(name, tmp_path):
    checkpoint(tmp_path, 4)
    folder = checkpoint(tmp_path, 8, without=[name])
    assert missing_parts(folder) == [name]
    assert newest_complete(tmp_path) == str(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("state", ["", '{"global_st', '{"global_step": 8, "log_history": [{"loss": 1.0}, '])
def test_one_whose_last_file_is_cut_short_is_passed_over(state, tmp_path):
    checkpoint(tmp_path, 4)
    folder = checkpoint(tmp_path, 8, state=state)
    assert missing_parts(folder) == ["trainer_state.json"]
    assert newest_complete(tmp_path) == str(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("name", ["optimizer.bin", "optimizer_0"])
def test_fsdp_names_the_optimiser_otherwise(name, tmp_path):
    folder = checkpoint(tmp_path, 4, without=["optimizer.pt"])
    (folder / name).mkdir()
    assert newest_complete(tmp_path) == str(folder)


def test_of_a_plain_trainer_less_is_wanted(tmp_path):
    folder = checkpoint(tmp_path, 4, without=[checkpoints.PROJECTIONS_NAME, checkpoints.STATE_NAME])
    assert newest_complete(tmp_path) is None
    assert newest_complete(tmp_path, distilled=False) == str(folder)


def test_marking_one_incomplete(tmp_path):
    folder = checkpoint(tmp_path, 4)
    assert missing_parts(folder) == []
    checkpoints.mark_incomplete(folder)
    checkpoints.mark_incomplete(folder)
    checkpoints.mark_incomplete(tmp_path / "checkpoint-5")
    assert newest_complete(tmp_path) is None


def test_none_at_all(tmp_path):
    assert newest_complete(tmp_path) is None
    assert newest_complete(tmp_path / "nowhere") is None


@pytest.mark.parametrize("shards", [(1, 2), (1,), ()])
def test_weights_in_several_files_must_all_be_there(shards, tmp_path):
    folder = checkpoint(tmp_path, 4, without=["model.safetensors", "rng_state.pth"])
    (folder / "rng_state_0.pth").write_text("x")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in shards:
        (folder / f"model-{number}.safetensors").write_text("x")
    assert newest_complete(tmp_path) == (str(folder) if len(shards) == 2 else None)


@pytest.mark.parametrize(
    ("name", "expected"), [("out/checkpoint-3", True), ("out/best", False), ("checkpoint-3/best", False)]
)
def test_folders_named_as_checkpoints(name, expected):
    assert checkpoints.is_checkpoint_folder(name) is expected


@given(
    st.integers(0, 10**6),
    st.booleans(),
    st.text("0123456789:,", max_size=20),
    st.sampled_from(["shared", "per_layer"]),
)
def test_the_state_round_trips(tmp_path_factory, steps, joint, mapping, projection):
    folder = tmp_path_factory.mktemp("state")
    state = DistillationState(steps, joint, mapping, projection)
    state.save(folder)
    assert DistillationState.load(folder) == state


@pytest.mark.parametrize("shared", [True, False])
def test_projections_round_trip(shared, tmp_path):
    saved, loaded = (Projections(3, 5, range(4), shared, seed=seed) for seed in (1, 2))
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.normal_()
    checkpoints.save_projections(saved.state_dict(), tmp_path)
    checkpoints.load_projections(loaded, tmp_path)
    assert len(saved.state_dict()) == (2 if shared else 8)
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict for Projections"):
        checkpoints.load_projections(Projections(3, 5, range(4), not shared), tmp_path)


def test_what_is_missing_of_an_optimiser_is_the_trainers_file(tmp_path):
    folder = checkpoint(tmp_path, 4, without=["optimizer.pt", "scheduler.pt"])
    assert missing_parts(folder) == ["optimizer.pt", "scheduler.pt"]


def test_a_checkpoint_of_a_distillation_is_what_is_looked_for(tmp_path):
    checkpoint(tmp_path, 4)
    checkpoint(tmp_path, 8, without=[checkpoints.STATE_NAME])
    assert newest_complete(tmp_path) == str(tmp_path / "checkpoint-4")
    assert checkpoints.to_resume_from(tmp_path) == str(tmp_path / "checkpoint-4")
    assert newest_complete(tmp_path, distilled=False) == str(tmp_path / "checkpoint-8")
