"""One page from runs: pictures, tables, HTML with everything in it or Markdown with pictures beside."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from hf_tinybert import plots
from hf_tinybert.benchmark.comparison import ModelFacts
from hf_tinybert.evaluation.error_analysis import Answers
from hf_tinybert.evaluation.layer_similarity import LayerSimilarity
from hf_tinybert.report.runs import Run
from hf_tinybert.utils.files import file_beside, written_beside

_FORMATS = {".html": "page.html", ".md": "page.md"}


def make(
    runs: Sequence[Run],
    output: str | os.PathLike[str],
    likeness: Mapping[str, LayerSimilarity] | None = None,
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
        ValueError, ImportError: as `check`.
    """
    check(runs, output)
    path = Path(output)
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
            shown = {name: quote(f"{beside.name}/{file.name}") for name, file in pictures.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=path.suffix == ".html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["escaped"] = lambda text: text.replace("|", "\\|").replace("\n", " ")
    page = environment.get_template(_FORMATS[path.suffix]).render(
        runs=runs,
        rows=[*_teachers(runs), *map(_row, runs)],
        pictures=shown,
        likeness=likeness or {},
        answers=answers or {},
        sentence=sentence,
        measured=next((run.comparison for run in runs if run.comparison), None),
    )
    with file_beside(path) as file:
        file.write_text(page, encoding="utf-8")
    return path


def check(runs: Sequence[Run], output: str | os.PathLike[str]) -> None:
    """What can be said before anything is measured.

    Raises:
        ValueError: the file's ending is another one, or the runs were measured on different things.
        ImportError: matplotlib is not installed.
    """
    if Path(output).suffix not in _FORMATS:
        raise ValueError(f"A report ends with .html or .md, got {Path(output).name!r}.")
    plots.check_installed()
    measured = {(c.metric, c.split, c.length): run.name for run in runs if (c := run.comparison) is not None}
    if len(measured) > 1:
        found = "; ".join(f"{name}: {split} {metric}, {n} tokens" for (metric, split, n), name in measured.items())
        raise ValueError(f"These runs were not measured alike, so make a report of each: {found}.")


def _draw(runs: Sequence[Run], likeness: Mapping[str, LayerSimilarity], folder: Path) -> dict[str, Path]:
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


def _teachers(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A line for each teacher; the same one is as good and as large in every run, but was timed in each."""
    found: dict[tuple[float | None, int], tuple[ModelFacts, list[str]]] = {}
    for run in runs:
        if run.comparison is not None:
            teacher = run.comparison.models[0]
            found.setdefault((teacher.score, teacher.parameters), (teacher, []))[1].append(run.name)
    alone = len(found) == 1
    return [
        _line("teacher" if alone else f"teacher of {', '.join(names)}", teacher, None)
        for teacher, names in found.values()
    ]


def _row(run: Run) -> dict[str, Any]:
    if run.comparison is None:
        return _line(run.name, None, None)
    teacher, student = run.comparison.models[0], run.comparison.models[-1]
    return _line(run.name, student, teacher)


def _line(name: str, model: ModelFacts | None, teacher: ModelFacts | None) -> dict[str, Any]:
    """A line of the table; what is not known is None."""
    known = model or ModelFacts(name, 0, 0)
    above = None if teacher is None else teacher.score
    return {
        "name": name,
        "score": known.score,
        "kept": known.score / above if known.score is not None and above else None,
        "parameters": known.parameters or None,
        "size": known.bytes_on_disk,
        "latency": known.latency_ms,
    }


def _inline(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _cell(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)
