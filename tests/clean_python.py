"""Fixtures: one bare Python in each version of transformers, where hf_tinybert is not, for all tests of a session."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
from asking import asked

from hf_tinybert.utils import compat

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("clean_worker.py")


@contextlib.contextmanager
def without_the_package(python: Path, folder: Path, **environment: str):
    """Asks a process of that Python (`clean_worker`)."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    with asked(str(python), WORKER, inherited | environment, folder) as ask:
        assert ask("loaded") == {"result": []}
        yield ask


@pytest.fixture(scope="session")
def clean_python(running_hub, tmp_path_factory):
    """In this version of transformers; it may ask the Hub, as nobody in particular."""
    folder = tmp_path_factory.mktemp("clean_python")
    with without_the_package(Path(sys.executable), folder, **running_hub.environment(folder, token=None)) as ask:
        yield ask


@pytest.fixture(scope="session")
def other_python(tmp_path_factory):
    """In the other version of transformers: 4.57 where this one is 5.x."""
    python = ROOT / (".venv" if compat.HAS_SAMPLING_STRATEGY else ".venv-latest") / "bin" / "python"
    if not python.exists() or python.parent == Path(sys.executable).parent:
        pytest.skip(f"the other version's environment is not at {python}; `make test` makes both")
    with without_the_package(python, tmp_path_factory.mktemp("other_python")) as ask:
        yield ask
