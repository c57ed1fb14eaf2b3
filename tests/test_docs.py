"""What the pages say is what the code knows: messages, commands and their flags, names that are imported."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from transformers import HfArgumentParser

sys.path.insert(0, str(Path(__file__).parent / "cli"))

from test_main import CLASSES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
PATHS = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page, *languages):
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL) if language in languages]


def commands(page):
    """Our own commands of a page, in blocks and in the text, as lists of words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    inline = [" ".join(found.split()) for found in re.findall(r"(?<!`)`(hf-tinybert [^`]+)`", text)]
    for block in [*blocks(page, "bash"), *inline]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                if word == "hf-tinybert" or words[max(start - 1, 0) : start + 1] == ["-m", "hf_tinybert"]:
                    yield words[start + 1 :]
                    break


@pytest.mark.parametrize("page", PATHS)
def test_every_command_knows_its_flags(page):
    for verb, *words in commands(page):
        if verb.startswith("-") or verb in ("VERB", "..."):
            continue
        parser = HfArgumentParser(CLASSES[verb], allow_abbrev=False)
        known = {option for action in parser._actions for option in action.option_strings}
        unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
        assert not unknown, f"{page}: {verb} {words}"


@pytest.mark.parametrize("page", PATHS)
def test_python_is_python_and_what_it_imports_of_ours_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hf_tinybert":
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{page}: {missing}"


def test_there_are_commands_and_code_to_look_at():
    assert sum(len(list(commands(page))) for page in PATHS) > 30
    assert sum(len(blocks(page, "python")) for page in PATHS) > 8


def test_quoted_messages_are_in_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    table = page.split("| message |")[1].split("\n\n")[0]
    quoted = [text for row in table.splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(quoted) >= 8
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "hf_tinybert").rglob("*.py"))
    code = re.sub(r'"\s+f?"', "", code)  # strings that go on in the next line
    missing = [text for text in quoted if text not in code]
    assert not missing
