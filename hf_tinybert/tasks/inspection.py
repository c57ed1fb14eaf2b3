"""What was understood of a task's data, in words, and what may not be meant so."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hf_tinybert.tasks.task import Task, View

if TYPE_CHECKING:  # data are read without models
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

#: Rows whose lengths are measured, and classes, characters and examples that are shown.
_MEASURED, _CLASSES, _CHARACTERS, _EXAMPLES = 10_000, 12, 100, 3


@dataclass
class Inspection:
    """What a task makes of its data.

    Attributes:
        lines: what was understood.
        doubts: what may not be meant so.
    """

    lines: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """The lines, one below the other."""
        return "\n".join(self.lines)


def inspect(task: Task, tokenizer: PreTrainedTokenizerBase | None = None) -> Inspection:
    """Describe every split of a task, and look for what may not be meant so.

    Args:
        task: with its data read.
        tokenizer: of the model that will read the texts, with which those that `max_length` cuts are counted.
    """
    found, views = Inspection(), {name: task.view(name) for name in task.splits}
    for name, view in views.items():
        source = task.sources[name]
        notes = f" ({'; '.join(source.notes)})" if source.notes else ""
        found.lines.append(f"{name}: {source.name}{notes}, {len(view.texts):,} rows")
        found.lines.append(f"  {view.problem}; {', '.join(f'{role} {column!r}' for role, column in view.columns)}")
        found.lines += [f"  {note}" for note in view.notes]
        if view.classes:
            found.lines.append(f"  {_classes(view.classes)}")
        if view.numbers:
            found.lines.append(f"  numbers from {min(view.numbers):g} to {max(view.numbers):g}")
        if view.texts:
            label = f" -> {view.labels[0]}" if view.labels else ""
            found.lines.append(f"  such as {_short(' | '.join(view.texts[0]))!r}{label}")
        if tokenizer is not None and (cut := _cut(view, tokenizer, task.args.max_length)):
            found.lines.append(f"  {cut}")
        found.doubts += [f"{name}: {doubt}" for doubt in [*task.doubts[name], *_of_one_split(view, name)]]
    if "train" in views:
        for name, view in views.items():
            if name != "train":
                found.doubts += [f"{name}: {doubt}" for doubt in _beside(views["train"], view)]
    return found


def announce(task: Task, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Print what was understood, on the standard error, and log doubts as warnings; of several processes the first.

    Args:
        task: with its data read.
        tokenizer: of the model that will read the texts.
    """
    if os.environ.get("RANK", "0") != "0":  # set by torchrun and accelerate; no process group is needed yet
        return
    found = inspect(task, tokenizer)
    print(found, file=sys.stderr)
    for doubt in found.doubts:
        logger.warning(doubt)


def _classes(counts: Counter[str]) -> str:
    shown = ", ".join(f"{_short(name, 30)} {count:,}" for name, count in list(counts.items())[:_CLASSES])
    return f"{len(counts)} classes: {shown}{', ...' if len(counts) > _CLASSES else ''}"


def _short(text: str, length: int = _CHARACTERS) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _cut(view: View, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """How many texts are longer than `max_length`; empty where none is."""
    step = max(len(view.texts) // _MEASURED, 1)
    chosen = view.texts[::step]
    firsts, *seconds = zip(*chosen, strict=True)
    lengths = [len(ids) for ids in tokenizer(list(firsts), *map(list, seconds), verbose=False)["input_ids"]]
    longer = sum(length > max_length for length in lengths)
    if not longer:
        return ""
    what = f"{longer:,} of {len(chosen):,} texts" + (" looked at" if step > 1 else "")
    done = "are read in windows" if view.in_windows else "are cut"
    return f"{what} are longer than --max-length {max_length} and {done}; the longest has {max(lengths):,} tokens"


def _of_one_split(view: View, name: str) -> list[str]:
    doubts = []
    empty = [row for row, texts in enumerate(view.texts, start=1) if not all(text.strip() for text in texts)]
    if empty:
        doubts.append(f"{len(empty):,} rows have an empty text, such as row {empty[0]}")
    if name == "train" and view.classes:
        once = [label for label, count in view.classes.items() if count == 1]
        if once:
            doubts.append(f"{_count(once, 'class')} of one row: {_listed(once)}")
    rows = Counter(zip(view.texts, view.labels or [""] * len(view.texts), strict=True))
    again = len(view.texts) - len(rows)
    if again:
        (texts, _), _ = rows.most_common(1)[0]
        doubts.append(f"{again:,} rows stand there more than once, such as {_short(' | '.join(texts), 60)!r}")
    if view.labels:
        labels: dict[tuple[str, ...], str] = {}
        differing = {texts for texts, label in rows if labels.setdefault(texts, label) != label}
        if differing:
            example = _short(" | ".join(min(differing)), 60)
            doubts.append(f"{len(differing):,} texts have several labels in different rows, such as {example!r}")
    return doubts


def _beside(train: View, held_out: View) -> list[str]:
    doubts = []
    known = set(train.texts)
    seen = [texts for texts in held_out.texts if texts in known]
    if seen:
        example = _short(" | ".join(seen[0]), 60)
        doubts.append(f"{len(seen):,} rows stand in the training data as well, such as {example!r}")
    unknown = sorted(held_out.classes.keys() - train.classes.keys()) if held_out.classes and train.classes else []
    if unknown:
        doubts.append(f"{_count(unknown, 'label')} that the training data do not have: {_listed(unknown)}")
    return doubts


def _count(names: Sequence[str], what: str) -> str:
    plural = {"class": "classes", "label": "labels"}[what]
    return f"{len(names):,} {what if len(names) == 1 else plural}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_short(name, 30) for name in names[:_EXAMPLES]) + (", ..." if len(names) > _EXAMPLES else "")
