"""Accumulation, two processes, and kill -9: each gives what one undisturbed process gives."""

from __future__ import annotations

import json
import random
import signal

import ddp_worker
import pytest
import torch
from safetensors.torch import load_file

from hf_tinybert.hub import checkpoints
from hf_tinybert.utils import compat

pytestmark = pytest.mark.also_transformers("4.57")

GRADIENT_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4
STEPS, SAVED = 12, 4


def command(teacher_folder, result, options):
    options = {"max_steps": STEPS} | compat.group_by_length_argument() | options
    return ddp_worker.__file__, teacher_folder, result, json.dumps(options)


def finish(children):
    for child in children:
        assert child.returncode == 0, child.output
    return children[0].stdout


def run(processes, teacher_folder, result, options, ranks=1):
    """What training gives, in a process of its own or in several."""
    argv = command(teacher_folder, result, options)
    finish([processes.run(*argv, timeout=300)] if ranks == 1 else processes.run_ranks(ranks, *argv))
    return load_file(result)


def killed(processes, teacher_folder, result, options):
    """Train until the worker ends itself."""
    child = processes.run(*command(teacher_folder, result, options))
    assert child.returncode == -signal.SIGKILL, child.output
    assert not result.exists()


def assert_same_training(one, other):
    assert one.keys() == other.keys()
    assert any(name.startswith("gradient.0.projections.") for name in one)
    assert any(name.startswith(f"gradient.{STEPS // 2}.student.classifier.") for name in one)
    for name, value in one.items():
        tolerance = GRADIENT_TOLERANCE if name.startswith("gradient.") else WEIGHT_TOLERANCE
        torch.testing.assert_close(other[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def one_batch(processes, teacher_folder, tmp_path_factory):
    """Twelve steps of eight sentences in one process, grouped by length."""
    folder = tmp_path_factory.mktemp("one")
    return run(processes, teacher_folder, folder / "result.safetensors", {"output_dir": str(folder / "out")})


def test_four_micro_batches_equal_one_batch(one_batch, processes, teacher_folder, tmp_path):
    options = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
    }
    assert_same_training(one_batch, run(processes, teacher_folder, tmp_path / "result.safetensors", options))


def test_two_processes_equal_one(one_batch, processes, teacher_folder, tmp_path):
    options = {"output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    assert_same_training(one_batch, run(processes, teacher_folder, tmp_path / "result.safetensors", options, ranks=2))


@pytest.fixture(scope="module")
def undisturbed(processes, teacher_folder, tmp_path_factory):
    """The run that the killed ones must equal: dropout on, checkpoints written, grouped by length."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(processes, teacher_folder, folder / "result.safetensors", killed_options(folder / "out"))


def killed_options(output):
    # Batches of 8 from 780 sentences: the epoch does not end within 12 steps, so batches are skipped on resume.
    return {"output_dir": str(output), "dropout": 0.1, "save_strategy": "steps", "save_steps": SAVED}


def assert_resumed(undisturbed, processes, teacher_folder, tmp_path, options):
    result = run(processes, teacher_folder, tmp_path / "result.safetensors", options | {"resume": True})
    final = {name: value for name, value in undisturbed.items() if not name.startswith("gradient.")}
    assert {name for name in result if not name.startswith("gradient.")} == final.keys()
    assert any(name.startswith("projections.") for name in final)
    for name, value in final.items():
        assert torch.equal(result[name], value), name


@pytest.mark.parametrize(
    "step", [pytest.param(5, id="intermediate phase", marks=pytest.mark.slow), pytest.param(10, id="prediction phase")]
)
def test_killed_between_checkpoints(step, undisturbed, processes, teacher_folder, tmp_path):
    options = killed_options(tmp_path / "out")
    killed(processes, teacher_folder, tmp_path / "result.safetensors", options | {"kill_after": step})
    assert checkpoints.newest_complete(tmp_path / "out") == str(tmp_path / "out" / f"checkpoint-{step // 4 * 4}")
    assert_resumed(undisturbed, processes, teacher_folder, tmp_path, options)


def test_killed_while_a_checkpoint_is_written(undisturbed, processes, teacher_folder, tmp_path):
    """In the phase for predictions; resumed from the checkpoint before, in the other phase."""
    options = killed_options(tmp_path / "out")
    killed(processes, teacher_folder, tmp_path / "result.safetensors", options | {"kill_in_checkpoint": 8})
    half = tmp_path / "out" / "checkpoint-8"
    assert (half / "model.safetensors").stat().st_size > 0
    assert set(checkpoints.missing_parts(half)) == {"rng_state.pth", "trainer_state.json"}
    assert checkpoints.newest_complete(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-4")
    assert_resumed(undisturbed, processes, teacher_folder, tmp_path, options)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_resumed_with_another_number_of_processes(before, after, one_batch, processes, teacher_folder, tmp_path):
    def options(ranks, **changes):
        settings = {"output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 8 // ranks}
        settings |= {"save_strategy": "steps", "save_steps": SAVED} | changes
        return settings | ({"ddp_backend": "gloo"} if ranks > 1 else {})

    result = tmp_path / "result.safetensors"
    argv = command(teacher_folder, result, options(before, kill_after=10))
    children = [processes.run(*argv)] if before == 1 else processes.run_ranks(before, *argv)
    assert -signal.SIGKILL in {child.returncode for child in children}
    assert checkpoints.newest_complete(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-8")
    found = run(processes, teacher_folder, result, options(after, resume=True), after)
    for name, value in one_batch.items():
        if not name.startswith("gradient."):
            torch.testing.assert_close(found[name], value, rtol=0, atol=WEIGHT_TOLERANCE, msg=name)


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(processes, teacher_folder, tmp_path):
    """Wherever the kills fall (starting, training, writing a checkpoint), the end is that of an undisturbed run."""

    def options(name):
        return killed_options(tmp_path / name) | {"max_steps": 2400, "save_steps": 6, "save_total_limit": 2}

    result = tmp_path / "result.safetensors"
    expected = run(processes, teacher_folder, tmp_path / "expected.safetensors", options("undisturbed"))
    source, reached = random.Random(0), []
    for _ in range(20):
        newest = checkpoints.newest_complete(tmp_path / "out")
        reached.append(0 if newest is None else int(newest.rpartition("-")[2]))
        resumed = {"resume": True} if newest else {}
        child = processes.start(*command(teacher_folder, result, options("out") | resumed))
        child.process.join(source.uniform(0.6, 2.5))
        assert child.poll() is None, f"the run ended before its kill: give it more steps\n{child.output}"
        child.kill()
        assert child.returncode == -signal.SIGKILL
    assert len(set(reached)) > 3, f"killed too early to train anything: {reached}"
    found = run(processes, teacher_folder, result, options("out") | {"resume": True})
    for name, value in expected.items():
        if not name.startswith("gradient."):
            assert torch.equal(found[name], value), name
