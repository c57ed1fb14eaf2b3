"""Accumulation, two processes, and kill -9: each gives what one undisturbed process gives."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from contextlib import suppress

import pytest
import torch
import workbench
import worker
from safetensors.torch import load_file

from hf_tinybert import checkpoints, compat

GRADIENT_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4


def start(teacher_folder, result, options, processes=1):
    """Start a worker and return the process."""
    command = workbench.worker(worker.__file__, teacher_folder, result, json.dumps(options), processes=processes)
    return subprocess.Popen(**command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run(teacher_folder, result, options, processes=1):
    finish(start(teacher_folder, result, options, processes))
    return load_file(result)


def assert_same_training(one, other):
    assert one.keys() == other.keys()
    assert any(name.startswith("gradient.0.projections.") for name in one)
    assert any(name.startswith("gradient.10.student.classifier.") for name in one)
    for name, value in one.items():
        tolerance = GRADIENT_TOLERANCE if name.startswith("gradient.") else WEIGHT_TOLERANCE
        torch.testing.assert_close(other[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def one_batch(teacher_folder, tmp_path_factory):
    """Twenty steps of eight sentences in one process, grouped by length."""
    folder = tmp_path_factory.mktemp("one")
    options = {"output_dir": str(folder / "out")} | compat.group_by_length_argument()
    return run(teacher_folder, folder / "result.safetensors", options)


def test_four_micro_batches_equal_one_batch(one_batch, teacher_folder, tmp_path):
    options = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
    } | compat.group_by_length_argument()
    assert_same_training(one_batch, run(teacher_folder, tmp_path / "result.safetensors", options))


def test_two_processes_equal_one(one_batch, teacher_folder, tmp_path):
    options = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 4,
        "ddp_backend": "gloo",
    } | compat.group_by_length_argument()
    assert_same_training(one_batch, run(teacher_folder, tmp_path / "result.safetensors", options, processes=2))


@pytest.fixture(scope="module")
def undisturbed(teacher_folder, tmp_path_factory):
    """The run that the killed ones must equal: dropout on, checkpoints written, grouped by length."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(teacher_folder, folder / "result.safetensors", killed_options(folder / "out"))


def killed_options(output):
    options = {"output_dir": str(output), "dropout": 0.1, "save_strategy": "steps", "save_steps": 4}
    # Batches of 8 from 780 sentences: the epoch does not end within 20 steps, so batches are skipped on resume.
    return options | compat.group_by_length_argument()


def resume_and_compare(teacher_folder, tmp_path, options, undisturbed):
    result = run(teacher_folder, tmp_path / "result.safetensors", options | {"resume": True})
    final = {name: value for name, value in undisturbed.items() if not name.startswith("gradient.")}
    assert len(final) > 50
    for name, value in final.items():
        assert torch.equal(result[name], value), name


@pytest.mark.one_world("4.57")
@pytest.mark.parametrize(
    "step", [pytest.param(6, id="intermediate phase", marks=pytest.mark.slow), pytest.param(15, id="prediction phase")]
)
def test_killed_between_checkpoints(step, undisturbed, teacher_folder, tmp_path):
    options = killed_options(tmp_path / "out")
    process = start(teacher_folder, tmp_path / "result.safetensors", options | {"kill_after": step})
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    newest = checkpoints.newest_complete(tmp_path / "out")
    assert newest is not None
    assert newest.endswith(f"checkpoint-{step // 4 * 4}")
    resume_and_compare(teacher_folder, tmp_path, options, undisturbed)


@pytest.mark.one_world("5")
@pytest.mark.parametrize(
    "step", [pytest.param(8, id="intermediate phase"), pytest.param(16, id="prediction phase", marks=pytest.mark.slow)]
)
def test_killed_while_a_checkpoint_is_written(step, undisturbed, teacher_folder, tmp_path):
    options = killed_options(tmp_path / "out")
    folder = tmp_path / "out" / f"checkpoint-{step}"
    process = start(teacher_folder, tmp_path / "result.safetensors", options)
    while process.poll() is None and not (folder / "model.safetensors").exists():
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "trainer_state.json" in checkpoints.missing_parts(folder), "the kill came too late to test anything"
    assert checkpoints.newest_complete(tmp_path / "out").endswith(f"checkpoint-{step - 4}")
    resume_and_compare(teacher_folder, tmp_path, options, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_resumed_with_another_number_of_processes(before, after, one_batch, teacher_folder, tmp_path):
    def options(processes, **changes):
        settings = {"output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 8 // processes}
        settings |= {"save_strategy": "steps", "save_steps": 4} | compat.group_by_length_argument() | changes
        return settings | ({"ddp_backend": "gloo"} if processes > 1 else {})

    result = tmp_path / "result.safetensors"
    process = start(teacher_folder, result, options(before, kill_after=14), before)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert checkpoints.newest_complete(tmp_path / "out").endswith("checkpoint-12")
    found = run(teacher_folder, result, options(after, resume=True), after)
    for name, value in one_batch.items():
        if not name.startswith("gradient."):
            torch.testing.assert_close(found[name], value, rtol=0, atol=WEIGHT_TOLERANCE, msg=name)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(teacher_folder, tmp_path):
    """Wherever the kills fall (starting, training, writing a checkpoint), the end is that of an undisturbed run."""

    def options(name):
        return killed_options(tmp_path / name) | {"max_steps": 600, "save_steps": 6, "save_total_limit": 2}

    expected = run(teacher_folder, tmp_path / "expected.safetensors", options("undisturbed"))
    source, reached = random.Random(0), []
    for _ in range(20):
        newest = checkpoints.newest_complete(tmp_path / "out")
        reached.append(0 if newest is None else int(newest.rpartition("-")[2]))
        process = start(
            teacher_folder, tmp_path / "result.safetensors", options("out") | ({"resume": True} if newest else {})
        )
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=source.uniform(3.0, 11.0))
        assert process.poll() is None, "the run ended before its kills: give it more steps"
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert len(set(reached)) > 3, f"killed too early to train anything: {reached}"
    found = run(teacher_folder, tmp_path / "result.safetensors", options("out") | {"resume": True})
    for name, value in expected.items():
        if not name.startswith("gradient."):
            assert torch.equal(found[name], value), name
