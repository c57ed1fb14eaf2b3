"""A student loads where hf_tinybert is not: plain transformers, in both versions."""

from __future__ import annotations

import subprocess
import venv

import factories
import pytest
import torch
import transformers
from clean_python import without_the_package

pytest_plugins = ["clean_python"]
pytestmark = pytest.mark.also_transformers("4.57")

TEXT = "the dishwasher blinks red"


@pytest.fixture(scope="module")
def student(teacher_folder, tmp_path_factory):
    """Folder of a student that was trained a little, and what it says of the text."""
    folder = tmp_path_factory.mktemp("student")
    teacher = factories.load(teacher_folder)
    args = factories.arguments(folder, max_steps=4)
    trainer = factories.trainer(factories.small_student(teacher), teacher, args)
    trainer.train()
    trainer.save_model()
    with torch.no_grad():
        logits = trainer.model.eval()(**factories.tokenizer()(TEXT, return_tensors="pt")).logits[0]
    return folder, logits


def says_the_same(ask, student):
    folder, logits = student
    answer = ask("classify", model=str(folder), text=TEXT)
    assert "error" not in answer, answer
    found = answer["result"]
    assert found["class"] == "BertForSequenceClassification"
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=0, atol=1e-5)
    assert found["label"] == factories.intents()[int(logits.argmax())]
    assert found["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)
    assert ask("loaded")["result"] == []


def test_it_loads_without_hf_tinybert(student, clean_python):
    says_the_same(clean_python, student)


def test_the_block_is_real(clean_python):
    assert clean_python("package")["error"] == "ModuleNotFoundError"


def test_it_loads_in_the_other_version(student, other_python):
    says_the_same(other_python, student)


@pytest.mark.slow
def test_it_loads_in_a_fresh_environment_with_only_transformers_and_torch(student, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    pip = [str(tmp_path / "fresh" / "bin" / "pip"), "install", "--quiet"]
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, f"transformers=={transformers.__version__}"], check=True)
    with without_the_package(tmp_path / "fresh" / "bin" / "python", tmp_path) as ask:
        says_the_same(ask, student)
