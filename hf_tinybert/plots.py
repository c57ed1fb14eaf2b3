"""Pictures of a comparison, drawn with matplotlib (the `plots` extra)."""

from __future__ import annotations

import os
from typing import Any

from hf_tinybert.comparison import Comparison
from hf_tinybert.saving import file_beside

_TEACHER, _STUDENT, _INK, _FAINT = "#8d99ae", "#d1495b", "#22223b", "#e6e8ee"


def comparison_picture(comparison: Comparison, path: str | os.PathLike[str], title: str) -> None:
    """Draw score, file size and latency of the models side by side into a PNG.

    Args:
        comparison: its first model is the teacher.
        path: where the picture goes.
        title: the headline.

    Raises:
        ImportError: matplotlib is not installed; says which extra brings it.
    """
    plt = _pyplot()
    models = comparison.models
    sizes = [None if m.bytes_on_disk is None else m.bytes_on_disk / 1e6 for m in models]
    panels = [
        (f"{comparison.split} {comparison.metric}", [m.score for m in models], "{:.1%}", "kept"),
        ("file size (MB)", sizes, "{:.0f}", "smaller"),
        (f"latency (ms, {comparison.length} tokens)", [m.latency_ms for m in models], "{:.1f}", "faster"),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 3.6), layout="constrained")
    figure.suptitle(title, color=_INK, fontsize=13, fontweight="bold")
    colours = [_TEACHER] + [_STUDENT] * (len(models) - 1)
    for axis, (label, values, form, word) in zip(axes, panels, strict=True):
        known = [0.0 if value is None else value for value in values]
        bars = axis.bar([m.name for m in models], known, color=colours, width=0.6)
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
        axis.set_ylim(0, max([*known, 1e-9]) * 1.18)
        axis.set_yticks([])
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_color(_FAINT)
        axis.tick_params(length=0, colors=_INK)
    with file_beside(path) as file:
        figure.savefig(file, dpi=150, format="png")
    plt.close(figure)


def _change(values: list[float | None], word: str) -> str:
    """What the last model is against the first, in words."""
    first, last = values[0], values[-1]
    if not first or not last:
        return ""
    return f"\n{last / first:.1%} {word}" if word == "kept" else f"\n{first / last:.1f} times {word}"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ImportError("Pictures need matplotlib: pip install 'hf-tinybert[plots]'.") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
