"""A process that does what it is told, JSON lines in and JSON lines out: the side that asks, and the one that answers.

The answering side imports nothing of the package, so that a Python without it can serve too.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def asked(python: str, script: Path, environment: Mapping[str, str], cwd: Path | None = None) -> Iterator[Callable]:
    """Asks a process of that Python, which runs `serve`, until the end of the block."""
    process = subprocess.Popen(
        [python, str(script)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def ask(do: str, **arguments: Any) -> dict[str, Any]:
        process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        process.stdin.flush()
        while not (line := process.stdout.readline()).startswith("ANSWER"):
            assert line, f"{script.name} has ended"
        return json.loads(line.removeprefix("ANSWER"))

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def serve(actions: Mapping[str, Callable[..., Any]]) -> None:
    """Answer every line of standard input by the action that it names."""
    for line in sys.stdin:
        given = json.loads(line)
        try:
            answer = {"result": actions[given.pop("do")](**given)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        print("ANSWER", json.dumps(answer), flush=True)
