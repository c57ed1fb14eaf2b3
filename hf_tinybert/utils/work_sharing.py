"""Work that several processes share, and where what they keep of it lies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub.constants import HF_HOME

_WAIT_SECONDS = 0.2


def default_folder(name: str) -> Path:
    """Beside the Hub's own caches, where `HF_HOME` says."""
    return Path(HF_HOME) / "hf_tinybert" / name


def share(numbers: Iterable[int], folder: Path, do: Callable[[int], None]) -> None:
    """Do each number's work under a lock of its own, whichever is free first, until all of it has been seen done.

    Every process calls `do` for every number, which therefore looks first whether the work is there. A killed
    process's lock is free again.

    Args:
        numbers: of the parts of the work.
        folder: of the work; the locks lie in it.
        do: does a part, or takes what is there.
    """
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    waiting = list(numbers)
    while waiting:
        for number in list(waiting):
            try:
                with FileLock(str(locks / f"{number}.lock"), timeout=0):
                    do(number)
            except Timeout:
                continue
            waiting.remove(number)
        if waiting:
            time.sleep(_WAIT_SECONDS)
