"""The general stage, on real text with a real pretrained teacher."""

from __future__ import annotations

import functools
import json
import re

import factories
import pytest
from transformers import AutoModel, AutoTokenizer


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tinybert.utils.work_sharing.HF_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n".join(factories.requests(300)), encoding="utf-8")
    return path


@pytest.fixture
def flags(encoder, text, student_shape):
    """The words of a command that writes to a folder."""
    return functools.partial(_flags, encoder, text, student_shape)


def _flags(encoder, text, student_shape, output, *more):
    return [
        *("distill", "--stage", "general", "--teacher", encoder, "--student", student_shape, "--train-file", text),
        *("--max-length", 32, "--held-out", 16, "--output-dir", output, "--per-device-train-batch-size", 8),
        *("--use-cpu", "--disable-tqdm", "True", "--learning-rate", 1e-3, *more),
    ]


def losses(result):
    return {name: float(value) for name, value in re.findall(r"^(\w+) +([\d.]+) +[\d.]+$", result.out, re.MULTILINE)}


def test_text_goes_in_and_a_student_for_tasks_comes_out(command, flags, files, teacher_path, tmp_path):
    short = command(*flags(tmp_path / "short", "--max-steps", 1, "--student-init", "random"))
    assert short.code == 0, short
    student = tmp_path / "student"
    result = command(*flags(student, "--max-steps", 30, "--student-init", "random"))
    assert result.code == 0, result
    before, after = losses(short), losses(result)
    assert set(before) == {"embedding", *(f"{kind}_{m}" for kind in ("hidden", "attention") for m in (1, 2))}
    assert all(after[level] < before[level] for level in before), (before, after)
    metrics = json.loads((student / "eval_results.json").read_text())
    assert metrics["eval_loss_hidden_2"] == pytest.approx(after["hidden_2"], abs=1e-4)
    assert 0 < metrics["eval_attention_overlap_1"] < 1
    model = AutoModel.from_pretrained(student)
    assert type(model).__name__ == "BertModel"
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 48)
    assert AutoTokenizer.from_pretrained(student)("a film")["input_ids"]
    task = command(
        "distill",
        "--teacher",
        teacher_path,
        "--student",
        student,
        "--train-file",
        files / "train.csv",
        "--max-steps",
        2,
        "--output-dir",
        tmp_path / "task",
        "--use-cpu",
        "--disable-tqdm",
        "True",
    )
    assert task.code == 0, task


def test_a_stream(command, flags, tmp_path):
    result = command(*flags(tmp_path / "student", "--max-steps", 3, "--streaming"))
    assert result.code == 0, result
    assert "On 16 held-out sequences" in result.out


def test_it_evaluates_while_it_trains(command, flags, tmp_path):
    more = ("--max-steps", 4, "--eval-strategy", "steps", "--eval-steps", 2, "--save-strategy", "no")
    result = command(*flags(tmp_path / "student", *more))
    assert result.code == 0, result
    history = json.loads((tmp_path / "student" / "trainer_state.json").read_text())["log_history"]
    measured = [entry for entry in history if "eval_cosine_hidden_2" in entry]
    assert [entry["step"] for entry in measured][:2] == [2, 4]
    assert measured[1]["eval_loss"] < measured[0]["eval_loss"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--phases", "prediction"), "The general stage matches layers only"),
        (("--phases", "two_phase"), "The general stage matches layers only"),
        (("--streaming",), "say how long to train with --max-steps"),
        (("--label-column", "intent"), "--label-column is for tasks"),
        (("--max-length", 4000), "4000"),
    ],
)
def test_mistakes_are_said_in_a_sentence(more, message, command, flags, tmp_path):
    result = command(*flags(tmp_path / "student", *more))
    assert result.code == 2
    assert message in result.error
    assert not (tmp_path / "student").exists() or not list((tmp_path / "student").iterdir())


def test_flags_of_the_general_stage_are_refused_in_a_task(command, teacher_path, files, tmp_path):
    result = command(
        "distill",
        "--teacher",
        teacher_path,
        "--train-file",
        files / "train.csv",
        "--streaming",
        "--output-dir",
        tmp_path / "student",
        "--use-cpu",
    )
    assert result.code == 2
    assert "go with --stage general" in result.error
