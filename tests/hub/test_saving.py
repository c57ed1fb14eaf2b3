from __future__ import annotations

import os
from contextlib import suppress

import pytest
import saving_worker
import tiny_models
import torch
from transformers import TrainingArguments

from hf_tinybert.hub.trainer import HubTrainer
from hf_tinybert.utils.files import file_beside, remove_partial, written_beside

pytestmark = pytest.mark.also_transformers("4.57")


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_files_arrive_whole_and_together(tmp_path):
    target = tmp_path / "new" / "out"
    with written_beside(target) as staging:
        os.makedirs(f"{staging}/deep/er")
        for name in ("a.txt", "deep/er/b.txt"):
            with open(f"{staging}/{name}", "w") as file:
                file.write(name)
        assert files(target).keys() == {f"{os.path.basename(staging)}/{n}" for n in ("a.txt", "deep/er/b.txt")}
    assert files(target) == {"a.txt": "a.txt", "deep/er/b.txt": "deep/er/b.txt"}
    assert {path.name for path in target.iterdir()} == {"a.txt", "deep"}


def test_old_files_are_replaced_others_stay_and_what_a_killed_run_left_goes(tmp_path):
    for name in ("a.txt", "kept.txt"):
        (tmp_path / name).write_text("old")
    (tmp_path / ".partial-dead").mkdir()
    (tmp_path / ".partial-dead" / "a.txt").write_text("half")
    with written_beside(tmp_path) as staging, open(f"{staging}/a.txt", "w") as file:
        file.write("new")
    assert files(tmp_path) == {"a.txt": "new", "kept.txt": "old"}
    assert not list(tmp_path.glob(".partial-*"))


def test_of_two_processes_one_writes_and_the_other_leaves_it_alone(processes, tmp_path):
    """Transformers 5 asks every process to save."""
    for rank in processes.run_ranks(2, saving_worker.__file__, tmp_path):
        assert rank.returncode == 0, rank.output
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "training_args.bin"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs they do train together")
def test_processes_that_know_nothing_of_each_other_are_refused(processes, tmp_path):
    for rank in processes.run_ranks(2, saving_worker.__file__, tmp_path, "alone"):
        assert rank.returncode == 1
        assert "2 processes were started, and each would train alone" in rank.stderr
    assert not list(tmp_path.iterdir())


def test_training_arguments_hold_neither_tokens_nor_paths(tmp_path):
    args = TrainingArguments(
        str(tmp_path / "my-home" / "out"), hub_token="hf_secret", run_name="~/me/run", use_cpu=True, report_to="none"
    )
    trainer = HubTrainer(tiny_models.model(), args)
    trainer.save_model()
    raw = (tmp_path / "my-home" / "out" / "training_args.bin").read_bytes()
    for secret in (b"hf_secret", str(tmp_path).encode(), b"my-home", b"~/me"):
        assert secret not in raw, secret
    saved = torch.load(tmp_path / "my-home" / "out" / "training_args.bin", weights_only=False)
    assert (saved.output_dir, saved.run_name, saved.learning_rate) == ("out", "run", args.learning_rate)
    assert args.hub_token == "hf_secret"
    assert args.output_dir == str(tmp_path / "my-home" / "out")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_when_writing_fails_the_old_files_are_untouched(error, tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail():
        with written_beside(tmp_path) as staging:
            for name in ("a.txt", "b.txt"):
                with open(f"{staging}/{name}", "w") as file:
                    file.write("half")
            raise error

    with pytest.raises(error):
        fail()
    assert files(tmp_path) == {"a.txt": "old"}
    assert not list(tmp_path.glob(".partial-*"))


def test_a_file_beside_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("before")
    with suppress(RuntimeError), file_beside(path) as file:
        file.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    with file_beside(path) as file:
        file.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_leftovers_of_killed_writers_are_removed_and_others_stay(tmp_path):
    names = ["a.json", "a.json.partial-1", "a.json.partial-22", "b.json.partial-1"]
    for name in names:
        (tmp_path / name).write_text(name)
    remove_partial(tmp_path / "a.json")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "b.json.partial-1"]
    assert (tmp_path / "a.json").read_text() == "a.json"
