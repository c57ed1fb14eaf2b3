"""One page from runs: pictures, tables, HTML with everything in it or Markdown with pictures beside."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hf_tinybert import plots
from hf_tinybert.report.answers import Answers
from hf_tinybert.report.likeness import Likeness
from hf_tinybert.report.runs import Run
from hf_tinybert.saving import file_beside, written_beside

_FORMATS = {".html": "page.html", ".md": "page.md"}


def make(
    runs: Sequence[Run],
    output: str | os.PathLike[str],
    likeness: Mapping[str, Likeness] | None = None,
    answers: Mapping[str, Answers] | None = None,
    sentence: str = "",
) -> Path:
    """Write the page, whole or not at all.

    Args:
        runs: with different names.
        output: a file that ends with .html (pictures inside) or .md (pictures in a folder beside, `NAME_pictures`).
        likeness: name of a run -> what was measured of its layers.
        answers: name of a run -> what its answers are against the teacher's.
        sentence: that the pictures of attention show.

    Raises:
        ValueError: the file's ending is another one.
        ImportError: matplotlib is not installed.
    """
    path = Path(output)
    if path.suffix not in _FORMATS:
        raise ValueError(f"A report ends with .html or .md, got {path.name!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = _draw(runs, likeness or {}, Path(scratch))
        shown: dict[str, str]
        if path.suffix == ".html":
            shown = {name: _inline(file) for name, file in pictures.items()}
        else:
            beside = path.with_name(f"{path.stem}_pictures")
            with written_beside(beside) as staging:
                for file in pictures.values():
                    (Path(staging) / file.name).write_bytes(file.read_bytes())
            shown = {name: f"{beside.name}/{file.name}" for name, file in pictures.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=path.suffix == ".html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    page = environment.get_template(_FORMATS[path.suffix]).render(
        runs=runs,
        rows=[row for run in runs for row in _rows(run)],
        pictures=shown,
        likeness=likeness or {},
        answers=answers or {},
        sentence=sentence,
        measured=next((run.comparison for run in runs if run.comparison), None),
    )
    with file_beside(path) as file:
        file.write_text(page, encoding="utf-8")
    return path


def _draw(runs: Sequence[Run], likeness: Mapping[str, Likeness], folder: Path) -> dict[str, Path]:
    """What there is to see, by name."""
    drawn: dict[str, Path] = {}
    compared = {run.name: run.comparison for run in runs if run.comparison is not None}
    scored = {name: c for name, c in compared.items() if all(model.score is not None for model in c.models)}
    if scored:
        drawn["sizes"] = folder / "sizes.png"
        plots.sizes_picture(scored, drawn["sizes"])
    for number, run in enumerate(runs):
        if run.has_losses:
            drawn[f"losses {run.name}"] = folder / f"losses_{number}.png"
            plots.curves_picture(run.history, drawn[f"losses {run.name}"])
        found = likeness.get(run.name)
        if found is not None:
            drawn[f"layers {run.name}"] = folder / f"layers_{number}.png"
            plots.layers_picture(found.hidden, run.mapping or {}, drawn[f"layers {run.name}"])
            if found.maps:
                drawn[f"attention {run.name}"] = folder / f"attention_{number}.png"
                plots.attention_picture(found.tokens, found.maps, drawn[f"attention {run.name}"])
    return drawn


def _rows(run: Run) -> list[dict[str, Any]]:
    """The student's line of the table; the teacher's stands first in `measured`."""
    if run.comparison is None:
        return [{"name": run.name}]
    teacher, student = run.comparison.models[0], run.comparison.models[-1]
    kept = student.score / teacher.score if student.score is not None and teacher.score else None
    return [
        {
            "name": run.name,
            "score": student.score,
            "teacher": teacher.score,
            "kept": kept,
            "parameters": student.parameters,
            "fewer": teacher.parameters / student.parameters,
            "size": student.bytes_on_disk,
            "latency": student.latency_ms,
            "faster": teacher.latency_ms / student.latency_ms if teacher.latency_ms and student.latency_ms else None,
        }
    ]


def _inline(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _cell(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)
