"""Pushing by the real client over HTTP to a Hub on loopback (`hub_server`); also where that says no."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import factories
import hub_server
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_tinybert.hub import upload

pytestmark = pytest.mark.also_transformers("4.57")


@pytest.fixture(scope="module")
def student_folder(teacher_folder, tmp_path_factory):
    """A student, and beside it what must stay at home."""
    folder = tmp_path_factory.mktemp("student")
    factories.small_student(factories.load(teacher_folder)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n\n# A student\n", encoding="utf-8")
    (folder / "pictures").mkdir()
    shutil.copy(
        Path(__file__).parents[2] / "docs" / "images" / "training_step.png", folder / "pictures" / "losses.png"
    )
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(os.urandom(1000))
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "distillation_projections.safetensors",
        "summary.json",
        "checkpoint-3/model.safetensors",
        "runs/events.out",
        ".env",
        "cache/shard.safetensors",
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("stays at home", encoding="utf-8")
    return folder


PROMISED = {
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "pictures/losses.png",
    "onnx/model.onnx",
}


def test_the_student_goes_up_and_nothing_else(server, client, student_folder):
    answer = client("push", folder=str(student_folder), repo_id="me/small", private=True, commit_message="Here it is")
    assert "error" not in answer, answer
    repository = server.repositories["me/small"]
    assert repository.private
    assert repository.messages == ["initial commit", "Here it is"]
    assert repository.branches["main"] == answer["result"]
    files = server.files("me/small")
    assert files.keys() >= PROMISED
    assert files.keys() - PROMISED <= {".gitattributes", "vocab.txt", "special_tokens_map.json"}
    assert not any(b"stays at home" in content for content in files.values())
    for name in PROMISED:
        assert files[name] == (student_folder / name).read_bytes(), name
    downloaded = client("download", repo_id="me/small")["result"]
    weights, back = load_file(student_folder / "model.safetensors"), load_file(Path(downloaded) / "model.safetensors")
    assert weights.keys() == back.keys()
    assert all((weights[name] == back[name]).all() for name in weights)


def test_large_weights_go_in_parts(server, client, student_folder, monkeypatch):
    monkeypatch.setattr(hub_server, "PART", 200_000)
    server.blobs.clear()
    assert "error" not in client("push", folder=str(student_folder), repo_id="me/parts")
    oid = hashlib.sha256((student_folder / "model.safetensors").read_bytes()).hexdigest()
    parts = -(-(student_folder / "model.safetensors").stat().st_size // 200_000)
    sent = [line for line, _ in server.requests if line.startswith(f"PUT /_lfs/{oid}/")]
    assert sorted(sent) == [f"PUT /_lfs/{oid}/{number}" for number in range(1, parts + 1)]
    assert parts > 1
    assert server.files("me/parts")["model.safetensors"] == (student_folder / "model.safetensors").read_bytes()


def test_a_branch_is_made_where_it_is_missing(server, client, student_folder):
    for message in ("first", "second"):
        changed = student_folder / "README.md"
        changed.write_text(f"# A student\n\n{message}\n", encoding="utf-8")
        answer = client(
            "push", folder=str(student_folder), repo_id="me/branched", revision="v2", commit_message=message
        )
        assert "error" not in answer, answer
    assert b"second" in server.files("me/branched", "v2")["README.md"]
    assert server.files("me/branched").keys() == {".gitattributes"}


def test_what_is_saved_while_it_is_sent_does_not_mix_with_it(server, client, student_folder, tmp_path):
    folder = shutil.copytree(student_folder, tmp_path / "saved again")
    answer = client("push_and_save_again", folder=str(folder), repo_id="me/again")
    assert "error" not in answer, answer
    commits = server.repositories["me/again"].commits
    for content, oid in zip((b"first", b"second"), answer["result"], strict=True):
        assert server.blobs[commits[oid]["model.safetensors"].sha256] == content * 100_000


REFUSALS = {
    "unknown token": (r"POST /api/repos/create", 401, "log in with `hf auth login`"),
    "no right to write": (r"POST /api/models/.*/commit", 403, "this token may not write there"),
    "somebody was faster": (r"POST /api/models/.*/commit", 409, "somebody else was changing it"),
    "too many requests": (r"POST /api/models/.*/commit", 429, "wait a few minutes"),
    "trouble": (r"POST /api/models/.*/commit", 500, "run the command again later"),
    "no preupload": (r"POST /api/models/.*/preupload", 500, "run the command again later"),
    "broken while creating": (r"POST /api/repos/create", "drop", "check the network"),
    "no right to store": (r"PUT /_lfs/", 403, "this token may not write there"),
    "broken while sending": (r"PUT /_lfs/", "drop", "check the network"),
    "broken while committing": (r"POST /api/models/.*/commit", "drop", "check the network"),
}


#: The client tries again for 24 seconds, the first in 5.x alone.
PATIENT = ("no preupload", "broken while sending")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in PATIENT else ()) for case in REFUSALS]
)
def test_a_refusal_says_what_to_do_and_a_repeat_sends_the_rest(server, client, student_folder, tmp_path, case):
    pattern, action, advice = REFUSALS[case]
    folder = tmp_path / "student"
    shutil.copytree(student_folder, folder)
    (folder / "README.md").write_text(f"# {case}\n", encoding="utf-8")
    (folder / "onnx" / "model.onnx").write_bytes(os.urandom(2000))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    server.blobs.pop(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(), None)
    repo = f"me/refused-{list(REFUSALS).index(case)}"
    server.fail(pattern, action, times=100)
    answer = client("push", folder=str(folder), repo_id=repo)
    assert answer.get("error") == "PushError", answer
    code = f" ({action})" if isinstance(action, int) else ""
    assert answer["message"].startswith(f"The Hub did not take {repo}{code}: ")
    assert advice in answer["message"]
    assert answer["message"].endswith(". Nothing on this disk has changed, and what has arrived is not sent again.")
    assert "hf_" not in answer["message"].replace("hf_home", "")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    server.failures.clear()
    answer = client("push", folder=str(folder), repo_id=repo)
    assert "error" not in answer, answer
    assert server.files(repo)["README.md"] == f"# {case}\n".encode()
    assert len(server.received) == len(set(server.received)), "something was sent twice"


def test_what_is_no_student_is_refused(tmp_path, student_folder):
    with pytest.raises(ValueError, match="is not a folder"):
        upload.check_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no configuration \(config.json\)"):
        upload.check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds no weights \(model.safetensors\)"):
        upload.check_folder(tmp_path)
    upload.check_folder(student_folder)


def test_an_adapter_is_not_pushed_as_it_lies_there(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    with pytest.raises(
        ValueError, match=r"whose base model is named by a folder of this machine: save the merged student"
    ):
        upload.check_folder(tmp_path)


def test_the_cards_examples_name_the_repository():
    card = '# small\n\npipeline("text-classification", model="small")\nfrom_pretrained("small") and "small"\n'
    expected = card.replace('model="small"', 'model="me/x"').replace('("small")', '("me/x")')
    assert upload.named(card, "me/x") == expected
    script = '# onnx\n\nfrom_pretrained("onnx", subfolder="onnx")\npipeline("fill-mask", "onnx", { dtype: "q8" })\n'
    found = upload.named(script, "me/x").splitlines()[2:]
    assert found == [
        'from_pretrained("me/x", subfolder="onnx")',
        'pipeline("fill-mask", "me/x", { dtype: "q8" })',
    ]
    assert upload.named("no title", "me/x") == "no title"


def test_into_a_pull_requests_branch(server, client, student_folder):
    """Which exists already, and cannot be made."""
    assert "error" not in client("push", folder=str(student_folder), repo_id="me/reviewed")
    repository = server.repositories["me/reviewed"]
    repository.branches["refs/pr/1"] = repository.branches["main"]
    (student_folder / "README.md").write_text("# Changed\n", encoding="utf-8")
    answer = client("push", folder=str(student_folder), repo_id="me/reviewed", revision="refs/pr/1")
    assert "error" not in answer, answer
    assert server.files("me/reviewed", "refs/pr/1")["README.md"] == b"# Changed\n"


def test_tokens_that_may_not(server, client, student_folder):
    reader = client("push", folder=str(student_folder), repo_id="me/small", token="hf_reader")
    assert "may not write there" in reader["message"]
    other = client("push", folder=str(student_folder), repo_id="me/small", token="hf_other")
    assert "may not write there" in other["message"]
    unknown = client("push", folder=str(student_folder), repo_id="me/small", token="hf_secretsecret")
    assert "log in" in unknown["message"]
    assert "hf_secretsecret" not in json.dumps(unknown)


def test_a_name_that_cannot_be(client, student_folder):
    answer = client("push", folder=str(student_folder), repo_id="a/b/c")
    assert answer["error"] == "ValueError"
    assert "expected NAME or OWNER/NAME" in answer["message"]


def test_an_export_of_other_weights_stays_at_home(tmp_path, caplog):
    """What `hf-tinybert export` made of an earlier student is not put beside a later one's weights."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"first")
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"of the first")
    assert "onnx/model.onnx" in upload.files_of(tmp_path)  # nothing is known of it
    facts = {"weights": upload.weights_sha256(tmp_path)}
    (tmp_path / "onnx" / "export.json").write_text(json.dumps(facts), encoding="utf-8")
    assert {"onnx/model.onnx", "onnx/export.json"} <= set(upload.files_of(tmp_path))
    assert not caplog.text
    (tmp_path / "model.safetensors").write_bytes(b"second")
    assert upload.files_of(tmp_path) == ["model.safetensors"]
    assert "was exported from other weights" in caplog.text
    (tmp_path / "onnx" / "export.json").write_text("damaged", encoding="utf-8")
    assert "onnx/model.onnx" in upload.files_of(tmp_path)
