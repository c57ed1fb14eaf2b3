"""The general stage in processes that are killed, and in several at once: all give what one undisturbed gives."""

from __future__ import annotations

import json
import signal

import factories
import general_worker
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from hf_tinybert import create_student

STEPS, SAVED = 8, 3


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A hundred requests, a document each: four pieces of text."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n\n".join(factories.requests(100)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory, encoder):
    """A small random student without dropout, so that processes may differ in their random numbers."""
    teacher = AutoModel.from_pretrained(encoder)
    config = factories.student_config(teacher, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    create_student(teacher, config, init="random").save_pretrained(folder)
    factories.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(processes, text, encoder, start):
    """Runs the stage in `home`, by so many ranks; gives the processes, which have ended."""

    def run(home, options=None, more=(), ranks=1):
        home.mkdir(exist_ok=True)
        flags = ["--teacher", encoder, "--student", start, "--train-file", text, "--max-length", 16, "--held-out", 16]
        flags += ["--output-dir", home / "student", "--max-steps", STEPS, "--save-steps", SAVED]
        flags += ["--learning-rate", 1e-3, "--adam-epsilon", 1e-6, "--max-grad-norm", 0]  # rounding stays small
        flags += ["--use-cpu", "--disable-tqdm", "True", "--per-device-train-batch-size", 8 // ranks, *more]
        argv, where = (general_worker.__file__, json.dumps(options or {}), *flags), {"env": {"HF_HOME": str(home)}}
        return [processes.run(*argv, **where)] if ranks == 1 else processes.run_ranks(ranks, *argv, **where)

    return run


def outcome(home):
    """The final weights, projections included, and the fidelity."""
    student = home / "student"
    weights = {}
    for path in sorted(student.glob("*.safetensors")):
        weights |= {f"{path.stem}.{name}": value for name, value in load_file(path).items()}
    fidelity = json.loads((student / "eval_results.json").read_text())
    same = {n: v for n, v in fidelity.items() if n.startswith(("eval_loss", "eval_cosine", "eval_attention"))}
    assert len(same) > 6
    return weights, same


def made(home):
    """How many pieces of text have been tokenised."""
    return len((home / "made").read_text().split())


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    (done,) = run(home)
    assert done.returncode == 0, done.output
    assert made(home) == 4
    return outcome(home)


@pytest.mark.also_transformers("4.57")
def test_killed_while_tokenising_and_while_training(undisturbed, run, tmp_path):
    """Finished pieces are not made again, and training goes on from its checkpoint."""
    home = tmp_path / "home"
    (first,) = run(home, {"kill_after_pieces": 2})
    assert (first.returncode, made(home)) == (-signal.SIGKILL, 2), first.output
    (second,) = run(home, {"kill_after_step": SAVED + 2})
    assert (second.returncode, made(home)) == (-signal.SIGKILL, 4), second.output
    assert {path.name for path in (home / "student").glob("checkpoint-*")} == {f"checkpoint-{SAVED}"}
    (third,) = run(home, more=("--resume-from-checkpoint", "last"))
    assert (third.returncode, made(home)) == (0, 4), third.output
    weights, fidelity = outcome(home)
    assert weights.keys() == undisturbed[0].keys()
    for name, value in undisturbed[0].items():
        assert torch.equal(weights[name], value), name
    assert fidelity == undisturbed[1]


def test_two_processes_equal_one(undisturbed, run, tmp_path):
    home = tmp_path / "home"
    ranks = run(home, ranks=2)
    for rank in ranks:
        assert rank.returncode == 0, rank.output
    assert [rank.stdout.count("On 16 held-out sequences") for rank in ranks] == [1, 0]
    assert made(home) == 4, "a piece was tokenised twice"
    weights, fidelity = outcome(home)
    assert weights.keys() == undisturbed[0].keys()
    for name, value in undisturbed[0].items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-4)
    assert fidelity == pytest.approx(undisturbed[1], rel=1e-3)
