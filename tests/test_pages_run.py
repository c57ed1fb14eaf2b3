"""Every block of the pages is run, in the order of its page, in a folder with the files that the pages speak of.

What is not run is named in `ELSEWHERE`, with what runs it instead. The first way that a reader takes is run in both
worlds, the other commands in transformers 4.57, which exports, and Python in 5.
"""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
import workbench
from test_docs import PATHS, ROOT
from transformers import AutoModel, AutoTokenizer, BertConfig, BertTokenizerFast

from hf_tinybert import create_student

#: Beginnings of commands that no page's test runs, and why.
ELSEWHERE = {
    "git clone": "CI and every reader of this file",
    "make demo": "tests/cli/test_demo.py runs what it runs",
    "make test": "CI: it runs this test",
    "python3 -m venv": "the Makefile does, for the environment at hand",
    "pip install": "the Makefile does, for the environment at hand",
    "accelerate launch": "needs two GPUs; tests/test_examples.py runs the script",
    "torchrun": "needs two GPUs, or two machines; with --use-cpu it is run",
    "cd examples/browser": "tests/test_browser.py, with its whole block",
    "hf-tinybert export student --format openvino": "tests/export/test_openvino.py, where OpenVINO is installed",
}
#: Takes hours: that its flags exist is checked.
LONG = "examples/benchmarks/"
#: Takes what results.py made in hours.
MEASURED = "runs/results/"
#: Pages that link this one take names from its first block, and where they train nothing themselves, its trainer.
SCRIPT = "docs/trainer_script.md"
BROWSER = "examples/browser/README.md"
#: The README's block again, which has a test of its own.
OWN_DATA = "docs/own_data.md"


def blocks(page):
    """Language and text of a page's blocks of code, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(block):
    return [line for line in block.replace("\\\n", " ").splitlines() if line.split("#")[0].strip()]


def rows(split, count):
    """So many requests of the demo, of every intent as many."""
    with (resources.files("hf_tinybert") / "demo_data" / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        found = [{"text": row["text"], "label": row["intent"]} for row in csv.DictReader(file)]
    seen = Counter()
    turns = []
    for row in found:
        seen[row["label"]] += 1
        turns.append(seen[row["label"]])
    return [row for _, row in sorted(zip(turns, found, strict=True), key=lambda pair: pair[0])][:count]


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="module")
def hub(running_hub):
    """The Hub with the two models that the pages name: MiniLM, and as BERT one with a masked language model's head.

    Where the latter is not at hand, MiniLM, whose new head then says nothing sensible.
    """
    masked_lm = SHARED / "models" / "minilm-mlm"
    running_hub.publish("google-bert/bert-base-uncased", str(masked_lm) if masked_lm.is_dir() else workbench.body())
    running_hub.publish("sentence-transformers/all-MiniLM-L6-v2", workbench.body())
    return running_hub


@pytest.fixture(scope="module")
def files(teacher_folder, tmp_path_factory):
    """What lies in a reader's folder: data, text, word vectors, a teacher, students."""
    folder = tmp_path_factory.mktemp("reader")
    for name, split, count in [
        ("train", "train", 24),
        ("mine", "train", 48),
        ("eval", "eval", 24),
        ("test", "test", 24),
    ]:
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows(split, count))
    (folder / "wikipedia").mkdir()
    text, vectors = SHARED / "data" / "wikitext2" / "valid.txt", SHARED / "data" / "glove" / "glove.6B.50d.top2445.txt"
    said = [row["text"] for row in rows("train", 300)]
    lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else said
    (folder / "wikipedia" / "part.txt").write_text("\n".join(lines[:60]) + "\n", encoding="utf-8")
    if vectors.is_file():
        shutil.copy(vectors, folder / "glove.6B.300d.txt")
    else:
        words = sorted({word for line in said for word in line.split()})
        made = [f"{word} {len(word)} {word.count('e')} {index % 7}" for index, word in enumerate(words)]
        (folder / "glove.6B.300d.txt").write_text("\n".join(made) + "\n", encoding="utf-8")
    shutil.copytree(teacher_folder, folder / "teacher")
    teacher = workbench.load(teacher_folder)
    for model, name in (
        (create_student(teacher), "student"),
        (create_student(AutoModel.from_pretrained(teacher_folder)), "general"),
    ):
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder / name)
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    letters += [f"##{letter}" for letter in letters[5:]]
    (folder / "vocab.txt").write_text("\n".join(letters) + "\n", encoding="utf-8")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    small = AutoModel.from_config(BertConfig(vocab_size=len(letters), **sizes))
    small.save_pretrained(folder / "small")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder / "small")
    for name in ("examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def reader(files, hub, tmp_path):
    """Runs something as a reader would, in a copy of the folder."""
    folder = tmp_path / "reader"
    shutil.copytree(files, folder, symlinks=True)
    environment = workbench.worker("")["env"] | hub.environment(tmp_path / "cache")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(arguments):
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run


def program(page):
    """A page's Python, one program, after what it takes from `docs/trainer_script.md`."""
    own = [block for language, block in blocks(page) if language == "python"]
    first, second, *_ = (block for language, block in blocks(SCRIPT) if language == "python")
    linked = "trainer_script.md" in (ROOT / page).read_text(encoding="utf-8")
    before = [first] if linked else []
    if "trainer." in "".join(own) and not re.search(r"^trainer = ", "".join(own), re.MULTILINE):
        assert linked
        assert 'output_dir="student"' in second
        before.append(second.replace('output_dir="student"', 'output_dir="student", max_steps=4'))
    return "\n".join([*before, *own]) if own else None


def test_blocks_are_of_languages_that_are_run_or_compared():
    for page in PATHS:
        fences = re.findall(r"^ *```(.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), f"{page}: an indented block, or one without a language"
        assert {language for language, _ in blocks(page)} <= {"bash", "python", "diff", "text"}, page


def test_the_two_lines_are_the_same_on_every_page():
    (first, *others) = [
        [line for line in block.splitlines() if line.startswith(("+", "-"))]
        for page in PATHS
        for language, block in blocks(page)
        if language == "diff"
    ]
    for other in others:
        assert [line.replace(" ", "") for line in other] == [line.replace(" ", "") for line in first]


def test_extras_that_pages_install_are_there():
    known = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    )
    named = [names for page in PATHS for names in re.findall(r"hf-tinybert\[([\w,-]+)\]", (ROOT / page).read_text())]
    assert named
    assert {name for names in named for name in names.split(",")} <= known


@pytest.mark.one_world("5")
@pytest.mark.parametrize("page", [page for page in PATHS if program(page)])
def test_its_python_runs(page, reader):
    reader([sys.executable, "-c", program(page)])


def runs_here(command):
    here = not command.startswith(tuple(ELSEWHERE)) or "--use-cpu" in command
    return here and LONG not in command and MEASURED not in command


def shell(page):
    own = [block for language, block in blocks(page) if language == "bash" and ("bash", block) not in blocks(OWN_DATA)]
    found = [command for block in own for command in commands(block)]
    return [] if page == BROWSER else found


@pytest.mark.one_world("4.57")
@pytest.mark.parametrize("page", [page for page in PATHS if any(map(runs_here, shell(page)))])
def test_its_commands_run(page, reader, tmp_path):
    for command in filter(runs_here, shell(page)):
        print(command)
        # What a command is to make is not there before, unless it works on it.
        for name in re.findall(r"--output[-_](?:dir|file) (\S+)", command):
            made = tmp_path / "reader" / name
            shutil.rmtree(made, ignore_errors=True)
            reader(["bash", "-euo", "pipefail", "-c", command])
            assert made.exists(), command
            break
        else:
            reader(["bash", "-euo", "pipefail", "-c", command])


@pytest.mark.one_world("5")
@pytest.mark.parametrize("page", [page for page in PATHS if any(LONG in command for command in shell(page))])
def test_scripts_that_take_hours_know_their_flags(page, reader):
    for command in (command for command in shell(page) if LONG in command):
        words = shlex.split(command, comments=True)
        script = next(word for word in words if LONG in word)
        known = set(re.findall(r"--[\w-]+", reader([sys.executable, str(ROOT / script), "--help"])))
        assert {word for word in words if word.startswith("--")} <= known, command


def test_the_readme_leads_from_a_file_to_answers(reader, tmp_path):
    """The way of a reader with a file of their own, in at most five commands; here from after the installation."""
    (block,) = (block for language, block in blocks(OWN_DATA) if language == "bash")
    assert ("bash", block) in blocks("README.md")
    assert len(commands(block)) <= 5
    *made, asked = filter(runs_here, commands(block))
    for name in ("teacher", "student"):
        shutil.rmtree(tmp_path / "reader" / name)
    for command in made:
        reader(["bash", "-euc", command])
    (answer,) = ast.literal_eval(reader(["bash", "-euc", asked]))
    assert answer["label"] in {row["label"] for row in rows("train", 48)}
    config = json.loads((tmp_path / "reader" / "student" / "config.json").read_text(encoding="utf-8"))
    assert (config["num_hidden_layers"], config["hidden_size"]) == (4, 312)


def test_nothing_is_left_out_that_no_page_says():
    """A name in `ELSEWHERE` that no command begins with any more would hide what comes after it."""
    every = [block for page in PATHS for language, block in blocks(page) if language == "bash"]
    every = [command for block in every for command in commands(block)]
    assert not [known for known in ELSEWHERE if not any(command.startswith(known) for command in every)]
