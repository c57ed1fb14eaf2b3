"""The page in examples/browser, in a real browser: what it shows is what the exported file says."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import factories
import pytest
import torch

from hf_tinybert.export import export_onnx
from hf_tinybert.export.session import OnnxModel

pytestmark = pytest.mark.docs

pytest.importorskip("onnxruntime")

PAGE = Path(__file__).parents[1] / "examples" / "browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EXPECTED = {
    "wake me up at half past six": "alarm_timer",
    "play some jazz in the kitchen": "play_media",
    "will it rain tomorrow": "weather",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and keeps quiet."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(teacher_folder, tmp_path_factory):
    """The page with a student, as its README says to make it."""
    if CHROMIUM is None or shutil.which("node") is None or not (PAGE / "node_modules" / ".ready").is_file():
        pytest.skip("needs Chromium, node and `make browser`")
    folder = tmp_path_factory.mktemp("browser")
    teacher = factories.load(teacher_folder)
    width = {"hidden_size": 96, "intermediate_size": 192}
    student = factories.small_student(teacher, init="teacher", **width)
    trainer = factories.trainer(
        student,
        teacher,
        factories.arguments(folder / "student", max_steps=120, learning_rate=1e-3),
        processing_class=factories.tokenizer(),
    )
    trainer.train()
    trainer.save_model()
    subprocess.run(["node", "build.mjs", str(folder / "site")], cwd=PAGE, check=True, capture_output=True)
    export_onnx(folder / "student", folder / "site" / "model", quantize="int8")
    return folder / "site"


@pytest.fixture
def address(site):
    """Where it is served, on loopback."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def opened(address, picture, *sentences):
    """What check.mjs says: answers, and what happened besides."""
    return subprocess.run(
        ["node", "check.mjs", address, str(picture), *sentences],
        cwd=PAGE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(picture.parent), "CHROMIUM": str(CHROMIUM)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_typing_a_sentence_shows_label_and_milliseconds(site, address, tmp_path):
    done = opened(address, tmp_path / "page.png", *EXPECTED)
    assert done.returncode == 0, done.stderr
    *answers, besides = map(json.loads, done.stdout.splitlines())
    model = OnnxModel(site / "model" / "onnx" / "model_quantized.onnx", factories.load(site.parent / "student").config)
    for answer in answers:
        inputs = factories.tokenizer()(answer["sentence"], return_tensors="pt")
        shares = model(**inputs)["logits"][0].softmax(-1)
        scores, ids = torch.topk(shares, 3)
        assert [found["label"] for found in answer["answers"]] == [model.config.id2label[int(i)] for i in ids]
        assert [found["score"] for found in answer["answers"]] == pytest.approx(scores.tolist(), abs=0.01)
        assert answer["shown"].endswith(" ms, tokenizer included")
        assert 0 < float(answer["shown"].split()[0]) < 10_000
    assert {answer["sentence"]: answer["answers"][0]["label"] for answer in answers} == EXPECTED
    assert besides["elsewhere"] == []  # nothing is asked of anyone but the server of static files
    assert not [message for message in besides["messages"] if message.startswith("error")]
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_model_the_page_says_so(address, site, tmp_path):
    (site / "model" / "onnx").rename(site / "model" / "away")
    try:
        done = opened(address, tmp_path / "page.png", "hello")
    finally:
        (site / "model" / "away").rename(site / "model" / "onnx")
    assert done.returncode == 1
    assert "The student cannot answer: " in done.stderr
