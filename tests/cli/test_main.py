from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

import hf_tinybert
from hf_tinybert import DistillationTrainingArguments
from hf_tinybert.cli import VERBS
from hf_tinybert.cli.augment import AugmentArguments
from hf_tinybert.cli.benchmark import BenchmarkArguments
from hf_tinybert.cli.demo import DemoArguments
from hf_tinybert.cli.distill import DistillArguments
from hf_tinybert.cli.evaluate import EvaluateArguments
from hf_tinybert.cli.export import ExportArguments
from hf_tinybert.cli.finetune import FinetuneArguments
from hf_tinybert.cli.inspect import InspectArguments
from hf_tinybert.cli.push import PushArguments
from hf_tinybert.cli.report import ReportArguments
from hf_tinybert.data.arguments import CorpusArguments, DataArguments

CLASSES = {
    "finetune": (FinetuneArguments, DataArguments, TrainingArguments),
    "distill": (DistillArguments, DataArguments, CorpusArguments, DistillationTrainingArguments),
    "evaluate": (EvaluateArguments, DataArguments),
    "inspect": (InspectArguments, DataArguments),
    "augment": (AugmentArguments,),
    "benchmark": (BenchmarkArguments,),
    "export": (ExportArguments, DataArguments),
    "push": (PushArguments,),
    "report": (ReportArguments, DataArguments),
    "demo": (DemoArguments,),
}


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(command, flag):
    result = command(flag)
    assert result.code == 0
    assert not result.err
    for verb in VERBS:
        assert f"\n  {verb} " in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_lists_every_flag(command, verb):
    result = command(verb, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: hf-tinybert {verb}")
    flags = {"config"}
    for cls in CLASSES[verb]:
        flags |= {field.name for field in dataclasses.fields(cls) if field.init} - {"class_names"}
    if DataArguments in CLASSES[verb]:
        flags.add("label_names")
    missing = {name for name in flags if f"--{name.replace('_', '-')}" not in result.out}
    assert not missing


def test_help_says_what_our_own_flags_do(command):
    text = " ".join(command("distill", "--help").out.split())
    for cls in (DistillArguments, DataArguments, CorpusArguments):
        for field in dataclasses.fields(cls):
            assert " ".join(field.metadata["help"].split()[:5]) in text, field.name


def test_no_arguments(command):
    result = command()
    assert result.code == 2
    assert "usage: hf-tinybert VERB" in result.out + result.err


def test_version(command):
    result = command("--version")
    assert (result.code, result.out.strip()) == (0, hf_tinybert.__version__)


@pytest.mark.parametrize("verb", ["destill", "--teacher", "", "cli", "../evil", "arguments", "distill.run"])
def test_an_unknown_verb(command, verb):
    result = command(verb, "--help")
    assert result.code == 2
    assert f"unknown verb {verb!r}" in result.err
    assert "distill" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("word", ["--no-such-flag", "loose-word"])
def test_an_unknown_flag(command, tmp_path, monkeypatch, verb, word):
    monkeypatch.chdir(tmp_path)
    required = {
        "finetune": ["--model", "x"],
        "distill": ["--teacher", "x"],
        "evaluate": ["--model", "x"],
        "augment": ["--input-file", "x", "--output-file", "x"],
        "export": ["--model", "x"],
        "push": ["--folder", "x", "--repo-id", "me/x"],
    }
    result = command(verb, *required.get(verb, []), word)
    assert result.code == 2
    assert word in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "flag"), [("finetune", "--model"), ("distill", "--teacher"), ("evaluate", "--model")]
)
def test_a_missing_required_flag(command, verb, flag):
    result = command(verb)
    assert result.code == 2
    assert f"the following arguments are required: {flag}" in result.err


def test_an_interruption_is_no_traceback(command, monkeypatch):
    import hf_tinybert.cli.evaluate

    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_tinybert.cli.evaluate, "run", interrupted)
    result = command("evaluate")
    assert (result.code, result.err) == (130, "hf-tinybert evaluate: interrupted\n")


def test_as_a_module_and_as_a_script(processes, tmp_path):
    script = Path(sys.executable).parent / "hf-tinybert"
    for start in (["-m", "hf_tinybert"], [script]):
        wrong = processes.run(*start, "destill", cwd=tmp_path)
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("hf-tinybert: unknown verb 'destill'\n\nusage: hf-tinybert VERB [arguments]\n")
        assert "Traceback" not in wrong.stderr
        assert not wrong.stdout
