"""The house stays in order: few files at the top, none too long, short functions, few dependencies."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import hf_tinybert

PACKAGE = Path(hf_tinybert.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Longer than 60 lines, and why.
LONG = {
    "trainer.DistillationTrainer.__init__": "names every argument of the Trainer twice, so that editors show them",
}


def functions(file):
    """(qualified name, lines without its docstring) of every function."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    documented = child.body[0] if ast.get_docstring(child) is not None else None
                    lines = child.end_lineno - child.lineno + 1
                    if documented is not None:
                        lines -= documented.end_lineno - documented.lineno + 1
                    yield name, lines
                yield from walk(child, name)

    module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    yield from walk(ast.parse(file.read_text(encoding="utf-8")), module)


def test_few_files_stand_beside_the_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 9


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
    long = {name: lines for name, lines in functions(file) if lines > 60 and name not in LONG}
    assert not long


def test_what_is_excused_is_long():
    lengths = {name: lines for file in FILES for name, lines in functions(file)}
    assert len(LONG) <= 5
    for name in LONG:
        assert lengths[name] > 60, f"{name} need not be excused"


def test_a_trainer_user_installs_ten_packages_at_most():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) <= 10
