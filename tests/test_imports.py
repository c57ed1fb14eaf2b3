"""What is imported when: names of the package when they are used, and no more than a command needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hf_tinybert


def test_every_public_name_is_there_and_listed():
    for name in hf_tinybert.__all__:
        assert getattr(hf_tinybert, name) is not None
        assert name in dir(hf_tinybert)
    with pytest.raises(AttributeError, match="has no attribute 'DistilationTrainer'"):
        _ = hf_tinybert.DistilationTrainer


def printed_by(code):
    """What code prints in a process of its own, which ends well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from hf_tinybert import cli; assert cli.main(['--help']) == 0;"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys(); assert not heavy, heavy"
    )
    assert "distill" in printed_by(code)


def test_help_of_distill_imports_no_models_and_no_data():
    code = (
        "import sys; from hf_tinybert import cli\n"
        "try: cli.main(['distill', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'datasets', 'transformers.trainer', 'hf_tinybert.trainer', 'hf_tinybert.models.loading'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    assert "--teacher TEACHER" in printed_by(code)


def test_inspecting_files_imports_no_models():
    """transformers 4.57 imports torch with itself; its models it imports when they are asked for."""
    code = (
        "import sys; from importlib import resources; from hf_tinybert import cli\n"
        "assert cli.main(['inspect', str(resources.files('hf_tinybert.data') / 'demo_data' / 'train.csv')]) == 0\n"
        "heavy = {'accelerate', 'sklearn', 'transformers.modeling_utils', 'hf_tinybert.models.loading'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    assert "780 rows" in printed_by(code)
