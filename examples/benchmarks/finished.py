"""Finished rows of a benchmark in one JSON file, which is committed: going on with the others needs no run folders."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from threading import Lock
from typing import Any

import results

from hf_tinybert.utils.files import file_beside


class FinishedRows:
    """What was measured of each row, by its name.

    Args:
        path: of the file; it is made with the first row.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, where there is one."""
        self.path = path
        self.rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
        self._lock = Lock()

    def __contains__(self, name: str) -> bool:
        """Whether a row is finished."""
        return name in self.rows

    def add(self, name: str, folder: Path, split: str, metric: str, seconds: float | None) -> None:
        """Keep what a run's folder says: score, distance from the teacher, the teacher's score, and the commit.

        Args:
            name: of the row.
            folder: of the run.
            split: that was measured.
            metric: that counts.
            seconds: that the run took, where it was not interrupted.
        """
        summary = json.loads((folder / "summary.json").read_text())
        metrics = results.measured(folder, split)
        distance = metrics.get(f"{split}_kl", metrics.get(f"{split}_teacher_mse"))
        row = {
            "score": metrics[f"{split}_{metric}"],
            "distance": distance,
            "teacher": summary["teacher"]["score"],
            "start": summary.get("start"),
            "seconds": seconds and round(seconds),
            "commit": commit(),
        }
        with self._lock:
            self.rows[name] = row
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with file_beside(self.path) as file:
                file.write_text(json.dumps(dict(sorted(self.rows.items())), indent=1) + "\n", encoding="utf-8")


def commit() -> str:
    """The commit of the code that runs, with a `+` where files were changed since."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
