"""Writing that leaves no half-written file behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STAGING = ".partial-"


@contextmanager
def file_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write, which is then renamed to `path`: it is there whole, or as it was before."""
    target = Path(path)
    # Two machines may have a process of the same number.
    temporary = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial(path: Path) -> None:
    """Remove what killed writers left beside a file; call it only where nobody else can be writing."""
    for leftover in path.parent.glob(f"{path.name}.partial-*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def written_beside(output_dir: str | os.PathLike[str]) -> Iterator[str]:
    """A folder to write into, whose files are then renamed into `output_dir`: no file is ever half-written.

    What an interrupted earlier write left there is removed.
    """
    target = Path(output_dir)
    target.mkdir(parents=True, exist_ok=True)
    for left_over in target.glob(f"{_STAGING}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=target))
    try:
        yield str(staging)
        for source in sorted(staging.rglob("*")):
            if source.is_file():
                destination = target / source.relative_to(staging)
                destination.parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
