"""The example scripts as they were, and with their two lines changed."""

from __future__ import annotations

import csv
import difflib
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import workbench

FOLDER = Path(__file__).parents[1] / "examples" / "scripts"
SCRIPTS = {"run_glue": "accuracy", "run_ner": "f1", "run_qa": "f1"}


def requests(split, count):
    with (resources.files("hf_tinybert") / "demo_data" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))[:count]


def rows(script, split, count):
    """Household requests: what they want, which words are long, what was said where."""
    found = requests(split, count)
    if script == "run_glue":
        return [{"sentence": row["text"], "label": row["intent"]} for row in found]
    if script == "run_ner":
        words = [row["text"].split() for row in found]
        tags = [["B-LONG" if len(word) > 7 else "O" for word in text] for text in words]
        return [{"tokens": text, "ner_tags": tag} for text, tag in zip(words, tags, strict=True)]
    made = []
    for number, (hall, attic) in enumerate(zip(found[::2], found[1::2], strict=True)):
        context = f"In the hall: {hall['text']} - In the attic: {attic['text']}"
        answers = {"text": [attic["text"]], "answer_start": [context.rindex(attic["text"])]}
        question = "What was said in the attic?"
        made.append({"id": str(number), "question": question, "context": context, "answers": answers})
    return made


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_lines_differ_and_they_are_the_ones_that_are_shown(script):
    plain, changed = ((FOLDER / f"{script}{end}.py").read_text().splitlines() for end in ("", "_distill"))
    diff = [line for line in difflib.unified_diff(plain, changed, n=0) if not line.startswith(("---", "+++", "@@"))]
    readme = (FOLDER / "README.md").read_text()
    shown = readme.split("```diff\n")[1].split("```")[0].splitlines()
    assert diff == [line for line in shown if line != " ..."]
    assert len(diff) == 4


@pytest.mark.parametrize("script", SCRIPTS)
def test_both_run(script, body, tmp_path):
    """First the script as it was makes a teacher, then the changed one distils it."""
    for split, count in (("train", 64), ("eval", 32)):
        lines = [json.dumps(row) for row in rows(script, split, count)]
        (tmp_path / f"{split}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = ["--train_file", str(tmp_path / "train.json"), "--validation_file", str(tmp_path / "eval.json")]
    usual = ["--do_train", "--do_eval", "--max_steps", "4", "--logging_steps", "1", "--save_strategy", "no"]
    usual += ["--use_cpu", "--report_to", "none"]
    for end, model, layers in (("", body, 6), ("_distill", str(tmp_path / "teacher"), 4)):
        output = tmp_path / ("student" if end else "teacher")
        command = [sys.executable, str(FOLDER / f"{script}{end}.py"), "--model_name_or_path", model, *files, *usual]
        command += ["--output_dir", str(output), "--disable_tqdm", "True", "--per_device_train_batch_size", "8"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        config = json.loads((output / "config.json").read_text())
        assert (config["model_type"], config["num_hidden_layers"]) == ("bert", layers)
        metrics = json.loads((output / "eval_results.json").read_text())
        assert metrics[f"eval_{SCRIPTS[script]}"] >= 0
    assert "loss_hidden_4" in (output / "trainer_state.json").read_text()


@pytest.mark.one_world("5")
def test_the_walkthrough(running_hub, body, tmp_path):
    """As a reader runs it, in an empty folder, its model from a Hub."""
    running_hub.publish("sentence-transformers/all-MiniLM-L6-v2", body)
    command = workbench.worker(str(FOLDER.parent / "walkthrough.py"))
    command["env"] |= running_hub.environment(tmp_path / "cache", token=None) | {"MPLBACKEND": "agg"}
    done = subprocess.run(**command, cwd=tmp_path, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    untrained, student = (
        float(line.split()[1]) for line in done.stdout.splitlines() if re.match("untrained|student", line)
    )
    assert untrained < student
    assert student > 0.7
    assert (tmp_path / "walkthrough" / "losses.png").stat().st_size > 10_000
    assert "lights" in done.stdout.splitlines()[-2]
