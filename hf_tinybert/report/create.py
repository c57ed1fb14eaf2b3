"""One page from runs: pictures and tables, as a self-contained HTML file or as Markdown with a folder of pictures."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2

from hf_tinybert import plots
from hf_tinybert.benchmark.comparison import ModelFacts
from hf_tinybert.evaluation.error_analysis import Answers
from hf_tinybert.evaluation.layer_similarity import LayerSimilarity
from hf_tinybert.report.runs import Run
from hf_tinybert.utils import extras
from hf_tinybert.utils.files import file_beside, written_beside

_FORMATS = {".html": "page.html", ".md": "page.md"}


@dataclass(frozen=True)
class _Row:
    """A row of the table of models; None where a value was not measured."""

    name: str
    score: float | None
    retained: float | None
    parameters: int | None
    size: int | None
    latency: float | None


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
        output: an .html file (with embedded pictures) or an .md file (with pictures in the folder `NAME_pictures`).
        likeness: name of a run -> similarity of its layers to the teacher's.
        answers: name of a run -> correct predictions and mistakes, compared with the teacher's.
        sentence: input of the pictures of attention maps.

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
    """Check runs and output before anything is measured.

    Raises:
        ValueError: the file name ends differently, or the runs differ in metric, split or length.
        ImportError: matplotlib is not installed.
    """
    if Path(output).suffix not in _FORMATS:
        raise ValueError(f"The file name of a report ends with .html or .md, got {Path(output).name!r}.")
    extras.check_installed("matplotlib", "A report")
    measured = {(c.metric, c.split, c.length): run.name for run in runs if (c := run.comparison) is not None}
    if len(measured) > 1:
        settings = "; ".join(f"{name}: {split} {metric}, {n} tokens" for (metric, split, n), name in measured.items())
        raise ValueError(
            f"The runs differ in metric, split or length of their sequences; make a report of each: {settings}."
        )


def _draw(runs: Sequence[Run], likeness: Mapping[str, LayerSimilarity], folder: Path) -> dict[str, Path]:
    """The pictures, by name."""
    drawn: dict[str, Path] = {}
    compared = {run.name: run.comparison for run in runs if run.comparison is not None}
    scored = {name: c for name, c in compared.items() if None not in (c.teacher.score, c.student.score)}
    if scored:
        drawn["sizes"] = folder / "sizes.png"
        plots.sizes_picture(scored, drawn["sizes"])
    for number, run in enumerate(runs):
        if run.has_losses:
            drawn[f"losses {run.name}"] = folder / f"losses_{number}.png"
            plots.curves_picture(run.history, drawn[f"losses {run.name}"])
        similarity = likeness.get(run.name)
        if similarity is not None:
            drawn[f"layers {run.name}"] = folder / f"layers_{number}.png"
            plots.layers_picture(similarity.hidden, run.mapping or {}, drawn[f"layers {run.name}"])
            if similarity.maps:
                drawn[f"attention {run.name}"] = folder / f"attention_{number}.png"
                plots.attention_picture(similarity.tokens, similarity.maps, drawn[f"attention {run.name}"])
    return drawn


def _teachers(runs: Sequence[Run]) -> list[_Row]:
    """A row for each teacher: the same teacher has one score and size in all runs, and a latency in each."""
    teachers: dict[tuple[float | None, int], tuple[ModelFacts, list[str]]] = {}
    for run in runs:
        if run.comparison is not None:
            teacher = run.comparison.teacher
            teachers.setdefault((teacher.score, teacher.parameters), (teacher, []))[1].append(run.name)
    single = len(teachers) == 1
    return [
        _row_of("teacher" if single else f"teacher of {', '.join(names)}", teacher, None)
        for teacher, names in teachers.values()
    ]


def _row(run: Run) -> _Row:
    if run.comparison is None:
        return _Row(run.name, None, None, None, None, None)
    return _row_of(run.name, run.comparison.student, run.comparison.teacher.score)


def _row_of(name: str, model: ModelFacts, teacher_score: float | None) -> _Row:
    retained = model.score / teacher_score if model.score is not None and teacher_score else None
    return _Row(name, model.score, retained, model.parameters or None, model.bytes_on_disk, model.latency_ms)


def _inline(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _cell(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)
