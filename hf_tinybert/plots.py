"""Pictures, drawn with matplotlib (the `plots` extra): teacher and student, losses, layers, attention."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hf_tinybert.distillation.levels import Level
from hf_tinybert.utils import extras
from hf_tinybert.utils.files import file_beside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hf_tinybert.benchmark.comparison import Comparison

_TEACHER, _STUDENT, _INK, _FAINT = "#8d99ae", "#d1495b", "#22223b", "#e6e8ee"
#: Inches; the text of a wider picture is too small on a phone's screen.
_WIDTH = 6.4


def comparison_picture(comparison: Comparison, path: str | os.PathLike[str], title: str) -> None:
    """Draw score, file size and latency of teacher and student as bars into a PNG.

    Args:
        comparison: of teacher and student.
        path: of the PNG file.
        title: of the picture.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra that installs it.
    """
    new = _figure()
    models = (comparison.teacher, comparison.student)
    sizes = [None if m.bytes_on_disk is None else m.bytes_on_disk / 1e6 for m in models]
    panels = [
        (_score_name(comparison), [m.score for m in models], "{:.1%}", "retained"),
        ("file size (MB)", sizes, "{:.0f}", "smaller"),
        (f"latency (ms, {comparison.length} tokens)", [m.latency_ms for m in models], "{:.1f}", "faster"),
    ]
    figure = new(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels))
    figure.suptitle(title, color=_INK, fontsize=13, fontweight="bold")
    for axis, (label, values, form, word) in zip(axes, panels, strict=True):
        heights = [0.0 if value is None else value for value in values]
        bars = axis.bar([m.name for m in models], heights, color=[_TEACHER, _STUDENT], width=0.6)
        for bar, value in zip(bars, values, strict=True):
            text = "not measured" if value is None else form.format(value)
            axis.annotate(
                text,
                (bar.get_x() + bar.get_width() / 2, bar.get_height()),
                ha="center",
                va="bottom",
                xytext=(0, 3),
                textcoords="offset points",
                color=_INK,
            )
        axis.set_title(label + _change(values, word), fontsize=10, color=_INK)
        axis.set_ylim(0, max([*heights, 1e-9]) * 1.18)
        axis.set_yticks([])
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(_FAINT)
        axis.tick_params(length=0, colors=_INK)
    with file_beside(path) as file:
        figure.savefig(file, dpi=150, format="png")


def curves_picture(history: Sequence[Mapping[str, float]], path: str | os.PathLike[str]) -> None:
    """Draw the training losses by step into a PNG: one panel for each kind of level, one line for each layer.

    Args:
        history: the Trainer's log history.
        path: of the PNG file.
    """
    new = _figure()
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name.startswith("loss_") and "step" in entry:
                series.setdefault(name.removeprefix("loss_"), []).append((entry["step"], value))
    panels: dict[str, dict[int | None, list[tuple[float, float]]]] = {}
    for name, points in series.items():
        panel, layer = _panel_and_layer(name)
        panels.setdefault(panel, {})[layer] = points
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = new(figsize=(_WIDTH * columns / 2, 2.6 * rows))
    figure.set_layout_engine("constrained", h_pad=0.12)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    from matplotlib import colormaps

    colours = colormaps["viridis"]
    for axis, (panel, layers) in zip(axes, panels.items(), strict=False):
        for number, (layer, points) in enumerate(layers.items()):
            colour = _STUDENT if len(layers) == 1 else colours(0.85 * number / max(len(layers) - 1, 1))
            steps, values = zip(*points, strict=True)
            label = None if layer is None else f"layer {layer}"
            axis.plot(steps, values, color=colour, label=label, linewidth=1.6, marker="." if len(steps) < 9 else None)
        axis.set_title(panel.replace("_", " "), fontsize=11, color=_INK)
        axis.set_xlabel("step", fontsize=10, color=_INK)
        highest = max(value for points in layers.values() for _, value in points)
        axis.set_ylim(0, 1.08 * highest or None)  # room for the marker of the highest point
        _plain(axis)
        if any(layer is not None for layer in layers):
            # Below the panel, so that the legend of many layers does not cover the curves.
            per_row = 2 if len(layers) <= 4 else 3
            axis.legend(frameon=False, fontsize=9, ncols=per_row, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    with file_beside(path) as file:
        figure.savefig(file, dpi=130, format="png")


def attention_picture(
    tokens: Sequence[str], maps: Mapping[tuple[int, int], tuple[Tensor, Tensor]], path: str | os.PathLike[str]
) -> None:
    """Draw the attention maps of teacher and student side by side into a PNG, a row for each pair of layers.

    Args:
        tokens: the S input tokens.
        maps: (student layer, teacher layer) -> two maps `[S, S]` of probabilities, the student's first.
        path: of the PNG file.
    """
    new = _figure()
    size = max(_WIDTH / 2, 0.2 * len(tokens))
    figure = new(figsize=(size * 2, size * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), 2, squeeze=False)
    for row, ((student_layer, teacher_layer), (student, teacher)) in enumerate(maps.items()):
        brightest = max(float(student.max()), float(teacher.max()))
        sides = ((f"teacher, layer {teacher_layer}", teacher), (f"student, layer {student_layer}", student))
        for column, (title, values) in enumerate(sides):
            axis = axes[row][column]
            axis.imshow(values.float().numpy(), cmap="magma", vmin=0, vmax=brightest)
            axis.set_title(title, fontsize=11, color=_INK)
            axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
            axis.set_yticks(range(len(tokens)), tokens if column == 0 else [""] * len(tokens), fontsize=8)
            axis.tick_params(length=0, colors=_INK)
            for side in axis.spines.values():
                side.set_visible(False)
    with file_beside(path) as file:
        figure.savefig(file, dpi=130, format="png")


def sizes_picture(comparisons: Mapping[str, Comparison], path: str | os.PathLike[str]) -> None:
    """Draw the metric against file size and against latency into a PNG, a point for each model.

    Args:
        comparisons: name of a student -> the comparison with its teacher; both models have a score.
        path: of the PNG file.
    """
    new = _figure()
    figure = new(figsize=(_WIDTH, 3.2), layout="constrained")
    panels = (("bytes_on_disk", 1e-6, "file size (MB)"), ("latency_ms", 1.0, "latency (ms)"))
    first = next(iter(comparisons.values()))
    for axis, (attribute, factor, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        points: dict[tuple[float, float], tuple[str, str]] = {}
        for name, comparison in comparisons.items():
            for model, colour in ((comparison.teacher, _TEACHER), (comparison.student, _STUDENT)):
                value = getattr(model, attribute)
                if value is not None and model.score is not None:
                    point = (value * factor, model.score)
                    points.setdefault(point, ("teacher" if colour == _TEACHER else name, colour))
        labelled: set[str] = set()
        for number, ((x, y), (name, colour)) in enumerate(sorted(points.items())):
            axis.scatter([x], [y], color=colour, s=60, zorder=3)
            if name in labelled:  # the same teacher, timed with another student
                continue
            labelled.add(name)
            above = number % 2 == 0  # labels of neighbours alternate above and below
            axis.annotate(
                name,
                (x, y),
                xytext=(0, 9 if above else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=9,
                color=_INK,
            )
        axis.set_xlabel(label, fontsize=10, color=_INK)
        axis.margins(y=0.25)
        if points:
            axis.set_xlim(0, 1.2 * max(x for x, _ in points))
        _plain(axis)
    figure.axes[0].set_ylabel(_score_name(first), fontsize=10, color=_INK)
    with file_beside(path) as file:
        figure.savefig(file, dpi=130, format="png")


def layers_picture(alike: Tensor, mapping: Mapping[int, int], path: str | os.PathLike[str]) -> None:
    """Draw the similarity of all layers of two models into a PNG, with rings around the matched layers.

    Args:
        alike: `[M + 1, N + 1]`, similarities from 0 to 1: student layers in rows, teacher layers in columns.
        mapping: student layer -> teacher layer.
        path: of the PNG file.
    """
    new = _figure()
    rows, columns = alike.shape
    figure = new(figsize=(1.6 + 0.62 * columns, 1.2 + 0.5 * rows), layout="constrained")
    axis = figure.subplots()
    axis.imshow(alike.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(rows):
        for column in range(columns):
            value = float(alike[row, column])
            ink = "white" if value > 0.6 else _INK
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=ink)
    for student, teacher in mapping.items():
        axis.scatter([teacher], [student], s=620, facecolors="none", edgecolors=_STUDENT, linewidths=1.8)
    axis.set_xticks(range(columns), ["emb", *map(str, range(1, columns))])
    axis.set_yticks(range(rows), ["emb", *map(str, range(1, rows))])
    axis.set_xlabel("teacher's layer", fontsize=10, color=_INK)
    axis.set_ylabel("student's layer", fontsize=10, color=_INK)
    axis.tick_params(length=0, colors=_INK, labelsize=9)
    for side in axis.spines.values():
        side.set_visible(False)
    with file_beside(path) as file:
        figure.savefig(file, dpi=130, format="png")


def _score_name(comparison: Comparison) -> str:
    return f"{comparison.split} {comparison.metric}" if comparison.metric else "score"


def _panel_and_layer(name: str) -> tuple[str, int | None]:
    """The panel of a loss and its layer; a loss that a user's callback logged has a panel of its own."""
    try:
        level = Level.parse(name)
    except ValueError:
        return name, None
    return level.kind, level.layer


def _plain(axis: Axes) -> None:
    axis.grid(color=_FAINT)
    axis.tick_params(length=0, colors=_INK, labelsize=9)
    for side in axis.spines.values():
        side.set_visible(False)


def _change(values: Sequence[float | None], word: str) -> str:
    """The student's value relative to the teacher's, in words."""
    teacher, student = values
    if not teacher or not student:
        return ""
    return f"\n{student / teacher:.1%} {word}" if word == "retained" else f"\n{teacher / student:.1f} times {word}"


def _figure() -> type[Figure]:
    """The class of figures, without pyplot: a notebook's own figures are not affected."""
    figure: type[Figure] = extras.required("matplotlib.figure", "A picture").Figure
    return figure
