"""The example script as it was, and with its two lines changed."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "text_classification"


def test_two_lines_differ_and_the_diff_is_the_one_that_is_shown():
    plain, changed = ((FOLDER / name).read_text().splitlines(True) for name in ("train.py", "distill.py"))
    diff = list(difflib.unified_diff(plain, changed, "train.py", "distill.py"))
    assert sum(line.startswith("-") and not line.startswith("---") for line in diff) == 2
    assert sum(line.startswith("+") and not line.startswith("+++") for line in diff) == 2
    assert "".join(diff) == (FOLDER / "distill.diff").read_text()


@pytest.mark.parametrize("script", ["train.py", "distill.py"])
def test_the_script_runs(script, teacher_folder, tmp_path):
    data = resources.files("hf_tinybert") / "demo_data"
    output = tmp_path / "out"
    command = [sys.executable, str(FOLDER / script), "--model", teacher_folder, "--output_dir", str(output)]
    command += ["--train_file", str(data / "train.csv"), "--eval_file", str(data / "eval.csv"), "--max_steps", "4"]
    command += ["--use_cpu", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    config = json.loads((output / "config.json").read_text())
    assert config["num_hidden_layers"] == (4 if script == "distill.py" else 6)
    assert "eval_accuracy" in json.loads((output / "eval_results.json").read_text())
