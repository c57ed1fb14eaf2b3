"""The general stage in processes that are killed, and in several at once: all give what one undisturbed gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import general_worker
import pytest
import torch
import workbench
from safetensors.torch import load_file
from transformers import AutoModel

from hf_tinybert import TinyBertConfig, create_student

STEPS, SAVED = 8, 3


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A hundred requests, a document each: four pieces of text."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n\n".join(workbench.requests(100)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory, body):
    """A small random student without dropout, so that processes may differ in their random numbers."""
    teacher = AutoModel.from_pretrained(body)
    sizes = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192}
    config = TinyBertConfig.from_teacher(
        teacher.config, **sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    create_student(teacher, config, init="random").save_pretrained(folder)
    workbench.tokenizer().save_pretrained(folder)
    return folder


def run(text, body, student, home, options=None, more=(), processes=1):
    """What the process gave: its exit status and what it said."""
    home.mkdir(exist_ok=True)
    launcher = [sys.executable]
    if processes > 1:
        # With --cpu it would start one process; this starts two, and --use-cpu keeps them off a GPU.
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    flags = ["--teacher", body, "--student", student, "--train-file", text, "--max-length", 16, "--held-out", 16]
    flags += ["--output-dir", home / "student", "--max-steps", STEPS, "--save-steps", SAVED, "--learning-rate", 1e-3]
    flags += ["--adam-epsilon", 1e-6, "--max-grad-norm", 0]  # differences of rounding stay small
    flags += ["--use-cpu", "--disable-tqdm", "True", "--per-device-train-batch-size", 8 // processes, *more]
    environment = os.environ | {
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(general_worker.__file__).parent),
    }
    return subprocess.run(
        [*launcher, general_worker.__file__, json.dumps(options or {}), *map(str, flags)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def outcome(home):
    """The final weights, projections included, and the fidelity."""
    student = home / "student"
    weights = {}
    for path in sorted(student.glob("*.safetensors")):
        weights |= {f"{path.stem}.{name}": value for name, value in load_file(path).items()}
    return weights, json.loads((student / "eval_results.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(text, body, start, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    done = run(text, body, start, home)
    assert done.returncode == 0, done.stderr
    assert made(home) == 4
    return outcome(home)


def made(home):
    return len((home / "made").read_text().split())


def assert_equal(home, undisturbed):
    weights, fidelity = outcome(home)
    assert weights.keys() == undisturbed[0].keys()
    for name, value in undisturbed[0].items():
        assert torch.equal(weights[name], value), name
    same = [name for name in fidelity if name.startswith(("eval_loss", "eval_cosine", "eval_attention"))]
    assert len(same) > 6
    assert {name: fidelity[name] for name in same} == {name: undisturbed[1][name] for name in same}


@pytest.mark.one_world("4.57")
def test_killed_while_tokenising(undisturbed, text, body, start, tmp_path):
    home = tmp_path / "home"
    assert run(text, body, start, home, {"kill_after_pieces": 2}).returncode == -signal.SIGKILL
    assert made(home) == 2
    done = run(text, body, start, home)
    assert done.returncode == 0, done.stderr
    assert made(home) == 4, "finished pieces were made again"
    assert_equal(home, undisturbed)


@pytest.mark.one_world("4.57")
def test_killed_while_training(undisturbed, text, body, start, tmp_path):
    home = tmp_path / "home"
    assert run(text, body, start, home, {"kill_after_step": SAVED + 2}).returncode == -signal.SIGKILL
    done = run(text, body, start, home, more=("--resume-from-checkpoint", "last"))
    assert done.returncode == 0, done.stderr
    assert made(home) == 4
    assert_equal(home, undisturbed)


@pytest.mark.one_world("4.57")
def test_two_launched_processes_equal_one(undisturbed, text, body, start, tmp_path):
    home = tmp_path / "home"
    done = run(text, body, start, home, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("On 16 held-out sequences") == 1
    lines = (home / "made").read_text().split()
    assert len(lines) == 4, "a piece was tokenised twice"
    weights, fidelity = outcome(home)
    assert weights.keys() == undisturbed[0].keys()
    for name, value in undisturbed[0].items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-4)
    for name, value in undisturbed[1].items():
        if name.startswith(("eval_loss", "eval_cosine", "eval_attention")):
            assert fidelity[name] == pytest.approx(value, rel=1e-3), name
