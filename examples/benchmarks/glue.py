"""GLUE's files as they are distributed: tabs, no quoting, here and there a byte-order mark."""

from __future__ import annotations

import csv
from pathlib import Path


def rows(data: Path, task: str, split: str = "train") -> list[dict[str, str]]:
    """The rows of `data/glue/TASK/SPLIT.tsv`, by the names of their columns."""
    with (data / "glue" / task / f"{split}.tsv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def pair(row: dict[str, str]) -> dict[str, object]:
    """A row of MRPC under usual names."""
    return {"sentence1": row["#1 String"], "sentence2": row["#2 String"], "label": int(row["Quality"])}
