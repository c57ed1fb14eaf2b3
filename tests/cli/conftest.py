"""The commands run once in a session, on a hundred real sentences, for all files in this folder."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import datasets
import pytest

from hf_tinybert.cli import main
from hf_tinybert.model_card import pictures

QUICK = ["--use-cpu", "--disable-tqdm", "True"]


@dataclass(frozen=True, repr=False)
class Result:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What was said on stderr, without argparse's long usage."""
        return self.err[self.err.rfind(": error: ") + 2 :] if ": error: " in self.err else self.err

    def __repr__(self) -> str:
        return f"Result(code={self.code}, out=...{self.out[-300:]!r}, error={self.error[-600:]!r})"


def run(*argv: object, with_pictures: bool = False) -> Result:
    """Run a command in this process; an exception that escapes from it fails the test.

    A card's pictures take longer to draw than a short run to train, and are left out unless they are asked for.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        if not with_pictures:
            patch.setattr(pictures, "draw", lambda *given: {})
        try:
            code = main([str(word) for word in argv])
        except SystemExit as end:  # argparse's own way out
            code = end.code if isinstance(end.code, int) else 1
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    return run


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets_cache"))
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with the first rows of the demo: train.csv, eval.csv and test.csv."""
    folder = tmp_path_factory.mktemp("files")
    source = resources.files("hf_tinybert.data") / "demo_data"
    for split, count in (("train", 100), ("eval", 40), ("test", 60)):
        with (source / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows[: count + 1])
    return folder


@pytest.fixture(scope="session")
def data_flags(files) -> list[str]:
    flags = ["--max-length", "48"]
    for split in ("train", "eval", "test"):
        flags += [f"--{split}-file", str(files / f"{split}.csv")]
    return flags


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory, encoder, data_flags) -> tuple[Path, Result]:
    """The encoder after a few steps of `finetune`, and what the command printed."""
    folder = tmp_path_factory.mktemp("finetuned") / "teacher"
    steps = ["--max-steps", "24", "--per-device-train-batch-size", "16", "--learning-rate", "1e-3", "--seed", "3"]
    result = run("finetune", "--model", encoder, *data_flags, "--output-dir", folder, *steps, *QUICK)
    assert result.code == 0, result
    return folder, result


@pytest.fixture(scope="session")
def teacher_path(finetuned) -> Path:
    return finetuned[0]


@pytest.fixture(scope="session")
def distill_flags(teacher_path, student_shape, data_flags) -> list[str]:
    """Six steps, with a checkpoint in the middle."""
    return [
        *("distill", "--teacher", str(teacher_path), "--student", student_shape, *data_flags, *QUICK),
        *("--max-steps", "6", "--save-strategy", "steps", "--save-steps", "3", "--logging-steps", "1"),
        *("--per-device-train-batch-size", "8", "--learning-rate", "5e-4", "--seed", "5"),
    ]


@pytest.fixture(scope="session")
def distilled(tmp_path_factory, distill_flags) -> tuple[Path, Result]:
    """A student after six steps of `distill`, and what the command printed."""
    folder = tmp_path_factory.mktemp("distilled") / "student"
    result = run(*distill_flags, "--output-dir", folder, with_pictures=True)
    assert result.code == 0, result
    return folder, result
