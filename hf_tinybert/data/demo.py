"""Real sentences that come with the package, for when nobody gives any."""

from __future__ import annotations

import csv
from importlib import resources


def demo_requests(count: int = 32) -> list[str]:
    """Household requests of different lengths, held out of the demo's training."""
    text = (resources.files("hf_tinybert.data") / "demo_data" / "test.csv").read_text(encoding="utf-8")
    return [row["text"] for row in csv.DictReader(text.splitlines())][:count]
