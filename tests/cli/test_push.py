"""`hf-tinybert push`, and `distill --push-to-hub`, to a Hub on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard


@pytest.fixture
def student(distilled):
    """A student as `distill` leaves it: with its card, and with a checkpoint beside it."""
    return distilled[0]


def test_distill_leaves_a_card_that_agrees_with_its_summary(student):
    summary = json.loads((student / "summary.json").read_text())
    card = ModelCard.load(student / "README.md")
    teacher, small = summary["teacher"], summary["student"]
    metric = next(result for result in card.data.eval_results if result.metric_type == summary["metric"])
    assert metric.metric_value == pytest.approx(small["score"], abs=1e-6)
    assert f"| accuracy (test) | {teacher['score']:.4f} | {small['score']:.4f} |" in card.text
    assert f"| {teacher['latency_ms']:.2f} ms | {small['latency_ms']:.2f} ms |" in card.text
    assert f"| {teacher['parameters'] / 1e6:.1f}M | {small['parameters'] / 1e6:.1f}M |" in card.text
    assert str(student.parent) not in str(card)
    for name in ("losses.png", "attention.png"):
        assert (student / "pictures" / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert f"(pictures/{name})" in card.text


def test_a_folder_goes_up_without_what_is_no_student(server, client, student):
    done = client("command", argv=["push", str(student), "--repo-id", "by-command", "--private", "True"])["result"]
    assert done["code"] == 0, done
    assert "me/by-command" in done["out"]
    assert server.repositories["me/by-command"].private
    files = server.files("me/by-command")
    assert {"README.md", "model.safetensors", "tokenizer.json", "pictures/losses.png"} <= files.keys()
    assert not {"summary.json", "training_args.bin", "trainer_state.json"} & files.keys()
    assert not [name for name in files if name.startswith("checkpoint-")]
    printed = done["out"].split()
    assert all(name in printed for name in files if name != ".gitattributes")


def test_a_branch_a_message_and_a_token(server, client, student):
    flags = ["--revision", "first", "--commit-message", "Look", "--token", "hf_other"]
    done = client("command", argv=["push", str(student), "--repo-id", "you/theirs", *flags])["result"]
    assert done["code"] == 0, done
    repository = server.repositories["you/theirs"]
    assert repository.messages[-1] == "Look"
    assert set(repository.branches) == {"main", "first"}
    assert "hf_other" not in done["out"] + done["err"]


@pytest.mark.parametrize(
    ("folder", "flags", "message"),
    [
        ("nowhere", ["--repo-id", "me/x"], "is not a folder"),
        (".", ["--repo-id", "me/x"], "holds no configuration (config.json)"),
        ("student", ["--repo-id", "a/b/c"], "expected NAME or OWNER/NAME"),
        ("student", ["--repo-id", "you/x"], "this token may not write there"),
        ("student", ["--repo-id", "me/x", "--token", "hf_unknown"], "log in with `hf auth login`"),
    ],
)
def test_what_cannot_work_is_said_without_a_traceback(client, student, folder, flags, message):
    given = {"nowhere": Path("nowhere"), ".": student.parent, "student": student}[folder]
    done = client("command", argv=["push", str(given), *flags])["result"]
    assert done["code"] == 2
    assert message in done["err"]
    assert "Traceback" not in done["err"]


def test_distilling_can_push(server, client, distill_flags, tmp_path):
    flags = [*distill_flags, "--max-steps", 2, "--save-strategy", "no", "--output-dir", tmp_path / "pushed"]
    hub = ["--push-to-hub", "True", "--hub-model-id", "me/pushed"]
    done = client("command", argv=[str(word) for word in (*flags, *hub)])["result"]
    assert done["code"] == 0, done
    files = server.files("me/pushed")
    summary = json.loads((tmp_path / "pushed" / "summary.json").read_text())
    assert f"{summary['student']['score']:.4f}" in files["README.md"].decode()
    assert 'model="me/pushed"' in files["README.md"].decode()
    assert server.repositories["me/pushed"].messages[-1] == "End of training"
    assert "summary.json" not in files
