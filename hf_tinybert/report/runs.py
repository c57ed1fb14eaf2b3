"""The files of a run of `hf-tinybert distill`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hf_tinybert.benchmark.comparison import SUMMARY_NAME, Comparison
from hf_tinybert.configuration import PROVENANCE_KEY
from hf_tinybert.layer_mapping import LayerMapping

STATE_NAME = "trainer_state.json"
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One student and its training.

    Attributes:
        name: of the folder.
        folder: of the student.
        comparison: of teacher and student, if the run saved it.
        history: the Trainer's log history.
        mapping: student layer -> teacher layer; None if no layers were matched.
    """

    name: str
    folder: Path
    comparison: Comparison | None
    history: Sequence[Mapping[str, float]]
    mapping: LayerMapping | None

    @property
    def has_losses(self) -> bool:
        """Whether the losses of levels were logged."""
        return any(name.startswith("loss_") for entry in self.history for name in entry)


def read(folder: str | os.PathLike[str]) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: it is not the folder of a run; the message names what is missing.
    """
    path = Path(folder)
    config = _json(path / "config.json")
    if not path.is_dir() or not config:
        raise ValueError(f"{folder} is not the folder of a student: it has no config.json.")
    summary, state = _json(path / SUMMARY_NAME), _json(path / STATE_NAME)
    if not summary and not state:
        raise ValueError(
            f"{folder} has neither {SUMMARY_NAME} nor {STATE_NAME}: name the output folder of `hf-tinybert distill`, "
            "or call trainer.save_state() at the end of your script."
        )
    provenance = config.get(PROVENANCE_KEY) or {}
    mapping = None if provenance.get("phases") == "prediction" else provenance.get("layer_mapping")
    try:
        comparison = Comparison.from_saved(summary) if summary else None
    except (KeyError, TypeError):
        raise ValueError(
            f"{path / SUMMARY_NAME} is not one that this version of `hf-tinybert distill` saved: distil again, or "
            "delete the file for a report without scores."
        ) from None
    return Run(
        name=Path(os.path.abspath(path)).name,  # of the link, if it is one
        folder=path,
        comparison=comparison,
        history=state.get("log_history", []),
        mapping=LayerMapping.parse(mapping) if mapping else None,
    )


def read_all(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Read several runs, which get different names: their paths, where two folders share a name.

    Raises:
        ValueError: as `read`; or a run is named twice.
    """
    runs = [read(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        runs = [dataclasses.replace(run, name=str(run.folder)) for run in runs]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError("The same run is named twice.")
    return runs


def _json(path: Path) -> Json:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, got {type(content).__name__}.")
    return content
