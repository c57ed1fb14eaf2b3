"""What a run of `hf-tinybert distill` left in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tinybert.benchmark.comparison import SUMMARY_NAME, Comparison
from hf_tinybert.configuration import PROVENANCE_KEY
from hf_tinybert.layer_mapping import LayerMapping

STATE_NAME = "trainer_state.json"


@dataclass(frozen=True)
class Run:
    """One student and how it came about.

    Attributes:
        name: of the folder.
        folder: where it lies.
        comparison: teacher and student side by side, where the run saved it.
        history: the Trainer's log history.
        mapping: which teacher layer each student layer learnt from; None where layers were not matched.
    """

    name: str
    folder: Path
    comparison: Comparison | None
    history: Sequence[Mapping[str, Any]]
    mapping: LayerMapping | None

    @property
    def has_losses(self) -> bool:
        """Whether losses of levels were logged."""
        return any(name.startswith("loss_") for entry in self.history for name in entry)


def read(folder: str | os.PathLike[str]) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: it is no folder of a run; says what is missing.
    """
    path = Path(folder)
    config = _json(path / "config.json")
    if not path.is_dir() or not config:
        raise ValueError(f"{folder} is no folder of a student: there is no config.json in it.")
    summary, state = _json(path / SUMMARY_NAME), _json(path / STATE_NAME)
    if not summary and not state:
        raise ValueError(
            f"{folder} has neither {SUMMARY_NAME} nor {STATE_NAME}: name the output folder of `hf-tinybert distill`, "
            "or call trainer.save_state() at the end of your script."
        )
    known = config.get(PROVENANCE_KEY) or {}
    mapping = None if known.get("phases") == "prediction" else known.get("layer_mapping")
    try:
        comparison = Comparison.from_saved(summary) if summary else None
    except (KeyError, TypeError):
        raise ValueError(f"{path / SUMMARY_NAME} is not one that `hf-tinybert distill` saved.") from None
    return Run(
        name=Path(os.path.abspath(path)).name,  # as it was called, where it is a link
        folder=path,
        comparison=comparison,
        history=state.get("log_history", []),
        mapping=LayerMapping.parse(mapping) if mapping else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds no object.")
    return found
