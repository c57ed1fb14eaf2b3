"""Rows that cannot be used: refused at the first one, or left out and counted."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

_SHOWN = 5


class InvalidRows:
    """What is wrong with the rows of one file.

    Args:
        source: the file or data set, for messages.
        skip: leave invalid rows out (`--skip-invalid-rows`); without, the first one is an error.
    """

    def __init__(self, source: Path | str, skip: bool) -> None:
        """Start without any."""
        self.source = source
        self.skip = skip
        self.reasons: list[str] = []

    def found(self, place: str, why: str) -> None:
        """Note a row.

        Args:
            place: such as `row 5` (a header is none) or `line 6` (it is the first).
            why: such as `it has no label`.

        Raises:
            ValueError: invalid rows are not left out.
        """
        if not self.skip:
            raise ValueError(
                f"{self.source}, {place}: {why}. Correct it, or leave out such rows with --skip-invalid-rows."
            )
        self.reasons.append(f"{place}: {why}")

    def say(self) -> None:
        """Warn of what was left out: how many, and the first five."""
        if self.reasons:
            shown = "; ".join(self.reasons[:_SHOWN]) + ("; ..." if len(self.reasons) > _SHOWN else "")
            logger.warning(f"{self.source}: {len(self.reasons)} invalid row(s) are left out: {shown}.")
