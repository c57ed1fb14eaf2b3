"""Training that pushes, by the real client to a Hub on loopback, and `pipeline()` on what has arrived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import workbench
from huggingface_hub import ModelCard
from test_standalone import BLOCK

SCRIPT = str(Path(__file__).with_name("hub_training.py"))
STUDENT = {
    ".gitattributes",
    "README.md",
    "config.json",
    "model.safetensors",
    "pictures/attention.png",
    "pictures/losses.png",
    "tokenizer.json",
    "tokenizer_config.json",
}
SLOW_TOKENIZER = {"vocab.txt", "special_tokens_map.json"}  # which transformers 4.57 writes besides
ASK = """
import sys
{block}
from transformers import pipeline
print("ANSWER", pipeline("text-classification", model=sys.argv[1])("turn on the lights in the kitchen")[0]["label"])
"""


def run(server, cache, *arguments, token="hf_writer"):
    command = workbench.worker(*arguments)
    command["env"] |= server.environment(cache, token)
    return subprocess.run(**command, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def trained(running_hub, teacher_folder, tmp_path_factory):
    """Every strategy once; where the Hub is in trouble for a while, training goes on."""
    folder = tmp_path_factory.mktemp("trained")
    running_hub.fail(r"POST /api/models/me/every_save/commit", 500, times=1)
    strategies = ["end", "every_save", "checkpoint", "all_checkpoints", "adapter"]
    done = run(running_hub, folder / "cache", SCRIPT, teacher_folder, folder, *strategies)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_the_repository_holds_what_was_promised(running_hub, trained, strategy):
    folder, _ = trained
    files = running_hub.files(f"me/{strategy}")
    states = {name for name in files if name.startswith(("last-checkpoint/", "checkpoint-"))}
    assert files.keys() - states - SLOW_TOKENIZER == STUDENT
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4"}}
    assert {name.partition("/")[0] for name in states} == expected.get(strategy, set())
    for state in expected.get(strategy, ()):
        held = {name.partition("/")[2] for name in states if name.startswith(f"{state}/")}
        assert {"distillation_projections.safetensors", "distillation_state.json", "optimizer.pt"} <= held
    messages = running_hub.repositories[f"me/{strategy}"].messages
    assert messages[-1] == "Done"
    assert ("Training in progress, step 4" in messages) == (strategy != "end")
    for name, content in files.items():
        assert b"hf_writer" not in content, name
        if not name.endswith("trainer_state.json"):
            assert str(folder).encode() not in content, name
    assert files["model.safetensors"] == (folder / strategy / "model.safetensors").read_bytes()


def test_nothing_secret_was_printed_and_trouble_was(trained):
    folder, output = trained
    assert "hf_writer" not in output
    assert "An upload during training failed. The Hub did not take me/every_save (500)" in output
    for path in folder.rglob("*"):
        if path.is_file() and "cache" not in path.parts:
            assert b"hf_writer" not in path.read_bytes(), path


def test_the_card_says_what_was_measured(running_hub, trained):
    assert ("POST /api/validate-yaml", 200) in running_hub.requests
    assert ("POST /api/validate-yaml", 400) not in running_hub.requests
    card = ModelCard(running_hub.files("me/end")["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.language == ["en"]
    assert "requests" in card.data.tags
    (result,) = card.data.eval_results
    assert (result.task_type, result.metric_type, result.dataset_split) == ("text-classification", "accuracy", "eval")
    lines = [line.removeprefix("MEASURED") for line in trained[1].splitlines() if line.startswith("MEASURED")]
    measured = next(one for one in map(json.loads, lines) if one["strategy"] == "end")
    student, teacher = measured["eval_accuracy"], measured["teacher_accuracy"]
    assert result.metric_value == pytest.approx(student, abs=1e-6)
    assert f"| accuracy (eval) | {teacher:.4f} | {student:.4f} | {student / teacher:.1%} kept |" in card.text
    assert f"gives the teacher's answer in {measured['eval_agreement']:.1%} of" in card.text
    assert "times faster" in card.text
    assert 'pipeline("text-classification", model="me/end")' in card.text


def test_an_adapter_arrives_merged(running_hub, trained):
    files = running_hub.files("me/adapter")
    assert files.keys() - SLOW_TOKENIZER == STUDENT
    assert running_hub.repositories["me/adapter"].messages == ["initial commit", "Done"]
    assert "LoRA" in files["README.md"].decode()
    assert (trained[0] / "adapter" / "adapter_model.safetensors").is_file()  # here it stays an adapter


@pytest.mark.parametrize("strategy", ["end", "checkpoint", "adapter"])
def test_a_clean_process_answers(running_hub, trained, tmp_path, strategy):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(block=BLOCK), f"me/{strategy}"],
        env=environment | running_hub.environment(tmp_path / "cache", token=None),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("ANSWER", 1)[1].strip() in workbench.intents()


def test_a_token_that_is_not_known_is_said_before_training(running_hub, teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_TOKEN", "hf_nobodyknows")
    done = run(running_hub, tmp_path / "cache", SCRIPT, teacher_folder, tmp_path, "end")
    assert done.returncode != 0
    assert "log in with `hf auth login`" in done.stderr.splitlines()[-1]
    assert "'loss'" not in done.stdout
    assert "hf_nobodyknows" not in done.stdout + done.stderr
