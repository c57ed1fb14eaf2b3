"""Training that pushes, by the real client to a Hub on loopback, and `pipeline()` on what has arrived."""

from __future__ import annotations

import factories
import pytest
import torch
from hub_training import ONLY_TRAINED
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification

from hf_tinybert.models.loading import load_model

pytest_plugins = ["clean_python"]
pytestmark = pytest.mark.also_transformers("4.57")

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
CARD = {"README.md", "pictures/attention.png", "pictures/losses.png"}
SLOW_TOKENIZER = {"vocab.txt", "special_tokens_map.json"}  # which transformers 4.57 writes besides
TEXT = "turn on the lights in the kitchen"


@pytest.fixture(scope="module")
def trained(running_hub, client, teacher_folder, tmp_path_factory):
    """Every strategy once; where the Hub is in trouble for a while, training goes on."""
    folder = tmp_path_factory.mktemp("trained")
    running_hub.fail(r"POST /api/models/me/every_save/commit", 500, times=1)
    strategies = ["end", "every_save", "checkpoint", "all_checkpoints", "adapter"]
    done = client("train", teacher_folder=teacher_folder, folder=str(folder), strategies=strategies)["result"]
    assert done["error"] is None, done["output"]
    return folder, done


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_the_repository_holds_what_was_promised(running_hub, trained, strategy):
    folder, _ = trained
    files = running_hub.files(f"me/{strategy}")
    states = {name for name in files if name.startswith(("last-checkpoint/", "checkpoint-"))}
    assert files.keys() - states - SLOW_TOKENIZER == (STUDENT - CARD if strategy in ONLY_TRAINED else STUDENT)
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-2", "checkpoint-4"}}
    assert {name.partition("/")[0] for name in states} == expected.get(strategy, set())
    for state in expected.get(strategy, ()):
        held = {name.partition("/")[2] for name in states if name.startswith(f"{state}/")}
        assert {"distillation_projections.safetensors", "distillation_state.json", "optimizer.pt"} <= held
    messages = running_hub.repositories[f"me/{strategy}"].messages
    assert ("Done" in messages) == (strategy not in ONLY_TRAINED)
    assert ("Training in progress, step 4" in messages) == (strategy != "end")
    assert ("Training in progress, step 4, checkpoint" in messages) == (strategy in expected)
    for name, content in files.items():
        assert b"hf_writer" not in content, name
        if not name.endswith("trainer_state.json"):
            assert str(folder).encode() not in content, name
    assert files["model.safetensors"] == (folder / strategy / "model.safetensors").read_bytes()


def test_nothing_secret_was_printed_and_trouble_was(trained):
    folder, done = trained
    output = done["output"]
    assert "hf_writer" not in output
    assert "An upload during training failed. The Hub did not take me/every_save (500)" in output
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).parts[0] for path in written} == set(done["measured"])
    for path in written:
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
    measured = trained[1]["measured"]["end"]
    student, teacher = measured["eval_accuracy"], measured["teacher_accuracy"]
    assert result.metric_value == pytest.approx(student, abs=1e-6)
    assert f"| accuracy (eval) | {teacher:.4f} | {student:.4f} | {student / teacher:.1%} retained |" in card.text
    assert f"student and teacher agree on {measured['eval_agreement']:.1%} of" in card.text
    assert "times faster" in card.text
    assert 'pipeline("text-classification", model="me/end")' in card.text


def test_an_adapter_arrives_merged(running_hub, trained):
    files = running_hub.files("me/adapter")
    assert files.keys() - SLOW_TOKENIZER == STUDENT
    assert running_hub.repositories["me/adapter"].messages == ["initial commit", "Done"]
    assert "LoRA" in files["README.md"].decode()
    assert (trained[0] / "adapter" / "adapter_model.safetensors").is_file()  # here it stays an adapter


def test_a_process_without_this_package_answers_as_the_student_here(trained, clean_python, tokenizer):
    for strategy in ("end", "checkpoint", "adapter"):
        found = clean_python("classify", model=f"me/{strategy}", text=TEXT)["result"]
        own = load_model(str(trained[0] / strategy), AutoModelForSequenceClassification).eval()
        with torch.no_grad():
            logits = own(**tokenizer(TEXT, return_tensors="pt")).logits[0]
        assert found["class"] == "BertForSequenceClassification"
        torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=0, atol=1e-5)
        assert found["label"] == own.config.id2label[int(logits.argmax())]
        assert found["label"] in factories.intents()
    assert clean_python("loaded")["result"] == []


def test_a_token_that_is_not_known_is_said_before_training(client, teacher_folder, tmp_path):
    given = {"teacher_folder": teacher_folder, "folder": str(tmp_path), "token": "hf_nobodyknows"}
    done = client("train", strategies=["end"], **given)["result"]
    assert done["error"].startswith("PushError: The Hub did not take me/end (401): the token is missing or not known")
    assert "log in with `hf auth login`" in done["error"]
    assert done["measured"] == {}
    assert "'loss'" not in done["output"]
    assert "hf_nobodyknows" not in done["output"]
