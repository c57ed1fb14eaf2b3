"""A student's origin, recorded in its configuration under one key that plain BERT ignores."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from hf_tinybert.configuration import PROVENANCE_KEY
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.loading import describe

_PACKAGES = ("hf-tinybert", "transformers", "torch")


def start_of(student: PreTrainedModel) -> dict[str, float]:
    """A student's fidelity to its teacher before training, by metric; empty where it is not known."""
    entries = getattr(student.config, PROVENANCE_KEY, None) or {}
    return dict(entries.get("start") or {})


def is_random(student: PreTrainedModel) -> bool:
    """Whether a student is known to have random weights, which nothing has trained."""
    entries = getattr(student.config, PROVENANCE_KEY, None) or {}
    return entries.get("init") == "random" and "phases" not in entries


def record(
    student: PreTrainedModel,
    teacher: PreTrainedModel | Sequence[PreTrainedModel],
    mapping: LayerMapping | None = None,
    phases: str | None = None,
    init: str | None = None,
    start: Mapping[str, float] | None = None,
    unmatched: Sequence[str] = (),
) -> None:
    """Record a student's origin in `student.config.tinybert`.

    Args:
        student: its configuration is changed.
        teacher: recorded by Hub id or a fingerprint of its weights, never by a local path; several as a list.
        mapping: which layers were matched.
        phases: which phases were trained.
        init: how the student's weights were initialised.
        start: fidelity before training, by metric.
        unmatched: levels that were left out because of the start.
    """
    entries = dict(getattr(student.config, PROVENANCE_KEY, None) or {})
    names = [describe(each) for each in (teacher if isinstance(teacher, Sequence) else [teacher])]
    entries["teacher"] = names[0] if len(names) == 1 else names
    if init is not None:
        entries["init"] = init
    if start is not None:
        entries["start"] = {name: round(value, 6) for name, value in start.items()}
    if mapping is not None:
        entries["layer_mapping"] = mapping.to_string()
    if phases is not None:
        entries["phases"] = phases
    entries.pop("unmatched", None)
    if unmatched:
        entries["unmatched"] = list(unmatched)
    entries["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
    setattr(student.config, PROVENANCE_KEY, entries)
