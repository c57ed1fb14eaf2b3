"""docs/architecture.md is true: its listing names every module, and a batch goes the way that it draws."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import factories
import pytest

import hf_tinybert

PACKAGE = Path(hf_tinybert.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
LISTING, WAY = (
    re.search(rf"{before}.*?```text\n(.*?)```", TEXT, re.DOTALL)[1] for before in ("", "## The way of one")
)
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__"))


def rooms():
    """Folder, or "" for the top -> its lines in the listing."""
    found = {"": []}
    room = ""
    for line in LISTING.splitlines()[1:]:
        name = re.match(r"  (\w+)(/|\.py)? ", line)
        if name:
            room = name[1] if name[2] == "/" else ""
        found.setdefault(room, []).append(line)
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_place_in_the_listing(module):
    inner = module.parts[:-1]
    if inner and inner[0] in ("tasks", "augmentation", "report", "cli"):  # said in a word
        assert inner[0] in rooms()
        return
    lines = "\n".join(rooms()[inner[0] if inner else ""])
    if len(inner) == 2:
        assert f"{inner[1]}/" in lines
    else:
        assert re.search(rf"\b{module.stem}\b", lines), f"{module} is not listed"


def test_what_is_listed_first_in_a_line_is_there():
    for room, lines in rooms().items():
        for line in lines:
            name = re.match(r"  (?:  )?(\w+)", line)[1]
            folder = PACKAGE / room if line.startswith("    ") else PACKAGE
            assert (folder / name).is_dir() or (folder / f"{name}.py").is_file(), line


def test_a_batch_goes_the_way_that_is_drawn(teacher, tmp_path):
    drawn = re.findall(r"\b([A-Z]\w+\.[a-z_]+)\b", WAY)
    drawn = [name.replace("TeacherSource", "OnlineTeacher") for name in drawn if not name.startswith("Trainer.")]
    assert len(drawn) >= 7
    trainer = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path, max_steps=1, logging_steps=1)
    )
    seen = []

    def note(frame, event, argument):
        if event == "call" and "hf_tinybert" in frame.f_code.co_filename:
            seen.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        trainer.train()
    finally:
        sys.setprofile(None)
    step = seen[seen.index("BatchCounts.from_batches") :]
    at = 0
    for name in drawn:
        assert name in step[at:], f"{name} was not called after {drawn[: drawn.index(name)]}"
        at += step[at:].index(name) + 1
