"""The example scripts as they were, and with their two lines changed."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import cut_minilm
import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "scripts"
SCRIPTS = {"run_glue": "accuracy", "run_ner": "f1", "run_qa": "f1"}


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """MiniLM cut down, 384 wide: the scripts' student is 312 wide."""
    return cut_minilm.encoder(tmp_path_factory.mktemp("cut_minilm"))


def requests(split, count):
    with (resources.files("hf_tinybert.data") / "demo_data" / f"{split}.csv").open(
        encoding="utf-8", newline=""
    ) as file:
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


@pytest.mark.docs
@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("script", SCRIPTS)
def test_both_run(script, encoder_folder, processes, tmp_path):
    """First the script as it was makes a teacher, then the changed one distils it."""
    for split, count in (("train", 480), ("eval", 32)):
        lines = [json.dumps(row) for row in rows(script, split, count)]
        (tmp_path / f"{split}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = ["--train_file", tmp_path / "train.json", "--validation_file", tmp_path / "eval.json"]
    usual = ["--do_train", "--do_eval", "--max_steps", "30", "--logging_steps", "10", "--save_strategy", "no"]
    usual += ["--use_cpu", "--report_to", "none", "--disable_tqdm", "True", "--per_device_train_batch_size", "16"]
    measured = {}
    for end, model, rate in (("", encoder_folder, "4e-4"), ("_distill", tmp_path / "teacher", "3e-4")):
        output = tmp_path / ("student" if end else "teacher")
        words = ["--model_name_or_path", model, *files, *usual, "--learning_rate", rate, "--output_dir", output]
        done = processes.run(FOLDER / f"{script}{end}.py", *words, timeout=300)
        assert done.returncode == 0, done.stderr
        config = json.loads((output / "config.json").read_text())
        assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == (
            "bert",
            cut_minilm.LAYERS,
            312 if end else 384,
        )
        measured[output.name] = json.loads((output / "eval_results.json").read_text())
    history = json.loads((tmp_path / "student" / "trainer_state.json").read_text())["log_history"]
    of_layers = [entry["loss_hidden_4"] for entry in history if "loss_hidden_4" in entry]
    assert of_layers == sorted(of_layers, reverse=True)
    assert len(of_layers) == 3
    taught, learnt = (measured[name][f"eval_{SCRIPTS[script]}"] for name in ("teacher", "student"))
    assert taught > 0.1
    assert learnt > 0.5 * taught
    assert script == "run_qa" or measured["student"]["eval_agreement"] > 0.9


@pytest.mark.docs
def test_the_walkthrough(running_hub, minilm, tmp_path):
    """As a reader runs it, in an empty folder, its model from a Hub."""
    running_hub.publish("sentence-transformers/all-MiniLM-L6-v2", minilm)
    environment = os.environ | running_hub.environment(tmp_path / "cache", token=None)
    environment |= {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(
        [sys.executable, str(FOLDER.parent / "walkthrough.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    answers = dict(re.findall(r"^(teacher|untrained|student) (\d\.\d+)", done.stdout, re.MULTILINE))
    assert list(answers) == ["teacher", "untrained", "student"]
    assert float(answers["untrained"]) < float(answers["student"])
    assert float(answers["student"]) > 0.7
    assert (tmp_path / "walkthrough" / "losses.png").read_bytes().startswith(b"\x89PNG")
    lamp, morning = done.stdout.splitlines()[-2:]
    assert "lights" in lamp
    assert "alarm" in morning
