"""Every block of the pages is run, in the order of its page, in a folder with the files that the pages speak of.

What is not run is named in `ELSEWHERE`, with what runs it instead. A reader's teacher is a MiniLM cut down to four
layers and 1,500 tokens (`cut_minilm`), 384 wide, as the pages' students are up to 312 wide; only who comes with a
file of their own, by the README's first block, takes the whole model.
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

import cut_minilm
import factories
import pytest
from test_docs import PATHS, ROOT
from transformers import AutoModel, BertConfig, BertTokenizerFast

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
    with (resources.files("hf_tinybert.data") / "demo_data" / f"{split}.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        found = [{"text": row["text"], "label": row["intent"]} for row in csv.DictReader(file)]
    seen = Counter()
    turns = []
    for row in found:
        seen[row["label"]] += 1
        turns.append(seen[row["label"]])
    return [row for _, row in sorted(zip(turns, found, strict=True), key=lambda pair: pair[0])][:count]


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Cut down to 1,500 tokens: an encoder, a masked language model, a teacher."""
    folder = tmp_path_factory.mktemp("cut_minilm")
    encoder = cut_minilm.encoder(folder / "encoder")
    return {
        "encoder": encoder,
        "masked_lm": cut_minilm.language_model(folder / "masked_lm"),
        "teacher": cut_minilm.classifier(encoder, folder / "teacher"),
    }


@pytest.fixture
def hub(running_hub, models):
    """The Hub with the two models that the pages name."""
    running_hub.publish("google-bert/bert-base-uncased", str(models["masked_lm"]))
    running_hub.publish("sentence-transformers/all-MiniLM-L6-v2", str(models["encoder"]))
    return running_hub


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
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
    shutil.copytree(models["teacher"], folder / "teacher")
    tokenizer, teacher = factories.tokenizer(), factories.load(models["teacher"])
    known = [row for split in ("train", "eval") for row in rows(split, 24)]
    texts = tokenizer([row["text"] for row in known])["input_ids"]
    known = [
        {"input_ids": ids, "labels": teacher.config.label2id[row["label"]]}
        for ids, row in zip(texts, known, strict=True)
    ]
    calibration = tokenizer.pad({"input_ids": texts}, return_tensors="pt")
    student = create_student(teacher, calibration=calibration)
    # It knows these rows well, so that in 8 bits it answers the same: exporting demands that.
    cut_minilm.saved(cut_minilm.taught(student, known), folder / "student")
    encoder = AutoModel.from_pretrained(models["encoder"])
    cut_minilm.saved(create_student(encoder, calibration=calibration), folder / "general")
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


#: Folders that no page writes into, other than by making them anew.
ONLY_READ = ("teacher", "small", "wikipedia")


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder, environment, processes):
        self.folder, self._environment, self._processes = folder, environment, processes

    def shell(self, command):
        """A line of a page in a shell, which finds the Hub."""
        words = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(
            words, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def command(self, command):
        """The same, without a Python of its own where a line is nothing but a command of ours on local files."""
        words = shlex.split(command, comments=True)
        if words[0] != "hf-tinybert" or names_the_hub(command):
            return self.shell(command)
        return self._forked(command, "-m", "hf_tinybert", *words[1:])

    def program(self, text):
        if names_the_hub(text):
            return self.shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(text)}")
        return self._forked(text, "-c", text)

    def _forked(self, text, *words):
        environment = {"PATH": self._environment["PATH"]}
        done = self._processes.run(*words, cwd=self.folder, env=environment, timeout=600)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def names_the_hub(text):
    """What the Hub's address is has to be known when Python starts."""
    return re.search("google-bert/|sentence-transformers/|push", text) is not None


@pytest.fixture
def reader(files, hub, processes, tmp_path, tmp_path_factory):
    """In a copy of the folder; what is only read there is linked."""
    folder = tmp_path / "reader"
    shutil.copytree(files, folder, symlinks=True, ignore=shutil.ignore_patterns(*ONLY_READ))
    for name in ONLY_READ:
        shutil.copytree(files / name, folder / name, copy_function=os.link)
    environment = os.environ | hub.environment(tmp_path / "cache")
    # Not `tmp_path`: its name is too long for the sockets of processes that work together.
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path_factory.getbasetemp())}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return Reader(folder, environment, processes)


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


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PATHS if program(page)])
def test_its_python_runs(page, reader):
    reader.program(program(page))


def runs_here(command):
    here = not command.startswith(tuple(ELSEWHERE)) or "--use-cpu" in command
    return here and LONG not in command and MEASURED not in command


def shell(page):
    own = [block for language, block in blocks(page) if language == "bash" and ("bash", block) not in blocks(OWN_DATA)]
    found = [command for block in own for command in commands(block)]
    return [] if page == BROWSER else found


@pytest.mark.docs
@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("page", [page for page in PATHS if any(map(runs_here, shell(page)))])
def test_its_commands_run(page, reader):
    for command in filter(runs_here, shell(page)):
        print(command)
        # What a command is to make is not there before, unless it works on it.
        made = [reader.folder / name for name in re.findall(r"--output[-_](?:dir|file) (\S+)", command)]
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        reader.command(command)
        for path in made:
            assert path.is_file() or any(path.glob("*.safetensors")), command


@pytest.mark.parametrize("page", [page for page in PATHS if any(LONG in command for command in shell(page))])
def test_scripts_that_take_hours_know_their_flags(page, processes):
    for command in (command for command in shell(page) if LONG in command):
        words = shlex.split(command, comments=True)
        script = next(word for word in words if LONG in word)
        helped = processes.run(ROOT / script, "--help")
        assert helped.returncode == 0, helped.stderr
        known = set(re.findall(r"--[\w-]+", helped.stdout))
        assert {word for word in words if word.startswith("--")} <= known, command


@pytest.mark.docs
@pytest.mark.also_transformers("4.57")
def test_the_readme_leads_from_a_file_to_answers(reader, running_hub):
    """The way of a reader with a file of their own, in at most five commands; here from after the installation."""
    running_hub.publish("google-bert/bert-base-uncased", cut_minilm.masked_lm())
    (block,) = (block for language, block in blocks(OWN_DATA) if language == "bash")
    assert ("bash", block) in blocks("README.md")
    assert len(commands(block)) <= 5
    *made, asked = filter(runs_here, commands(block))
    for name in ("teacher", "student"):
        shutil.rmtree(reader.folder / name)
    for command in made:
        reader.shell(command)
    (answer,) = ast.literal_eval(reader.shell(asked))
    assert answer["label"] in {row["label"] for row in rows("train", 48)}
    config = json.loads((reader.folder / "student" / "config.json").read_text(encoding="utf-8"))
    assert (config["num_hidden_layers"], config["hidden_size"]) == (4, 312)
    measured = reader.shell("hf-tinybert evaluate --model student --test-file mine.csv")
    assert float(re.search(r"^test accuracy +(\S+)", measured, re.MULTILINE)[1]) > 0.4


def test_nothing_is_left_out_that_no_page_says():
    """A name in `ELSEWHERE` that no command begins with any more would hide what comes after it."""
    every = [block for page in PATHS for language, block in blocks(page) if language == "bash"]
    every = [command for block in every for command in commands(block)]
    assert not [known for known in ELSEWHERE if not any(command.startswith(known) for command in every)]
