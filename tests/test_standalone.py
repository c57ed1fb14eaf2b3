"""A student loads where hf_tinybert is not: plain transformers, in both worlds."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import transformers
import workbench

ROOT = Path(__file__).parents[1]
TEXT = "the dishwasher blinks red"

LOAD = """
import json, sys
{block}
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, text = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder)
assert type(model).__name__ == "BertForSequenceClassification", type(model)
tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
best = pipeline("text-classification", model=folder)(text)[0]
assert model.config.id2label[model(**tokens).logits.argmax().item()] == best["label"]
assert "hf_tinybert" not in {{name for name, module in sys.modules.items() if module is not None}}
print(json.dumps(best))
"""
BLOCK = "sys.modules['hf_tinybert'] = None  # an import now fails as if it were not installed"


@pytest.fixture(scope="module")
def student_folder(teacher_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    teacher = workbench.load(teacher_folder)
    args = workbench.arguments(folder, max_steps=4)
    trainer = workbench.trainer(workbench.small_student(teacher), teacher, args)
    trainer.train()
    trainer.save_model()
    return folder


def load(python, folder, block=BLOCK):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(python), "-c", LOAD.format(block=block), str(folder), TEXT],
        env=clean,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_loads_without_hf_tinybert(student_folder):
    done = load(sys.executable, student_folder)
    assert done.returncode == 0, done.stderr
    assert '"label"' in done.stdout


def test_the_block_is_real():
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{BLOCK}\nimport hf_tinybert"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stderr


def test_it_loads_in_the_other_world(student_folder):
    other = ROOT / (".venv-latest" if transformers.__version__.startswith("4.") else ".venv") / "bin" / "python"
    if not other.exists() or other.parent == Path(sys.executable).parent:
        pytest.skip(f"the other world's environment is not at {other}; `make test` makes both")
    done = load(other, student_folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_loads_in_a_fresh_environment_with_only_transformers_and_torch(student_folder, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    pip = [str(tmp_path / "fresh" / "bin" / "pip"), "install", "--quiet"]
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, f"transformers=={transformers.__version__}"], check=True)
    done = load(tmp_path / "fresh" / "bin" / "python", student_folder, block="")
    assert done.returncode == 0, done.stderr
