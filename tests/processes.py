"""Processes of their own that start in a blink: forked from a server that has imported everything once.

`Processes` takes the arguments that `python` takes (a script, `-m` and a module, or `-c` and code), and runs them in
a child with its own environment, folder and output, which may be killed like any other. What a library reads of the
environment while it is imported (`HF_HOME`, `HF_ENDPOINT`) is as it was when the server started: a test of that gives
its own `Processes` the environment, or starts a Python of its own.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from multiprocessing import forkserver, util
from multiprocessing.process import BaseProcess
from pathlib import Path

TESTS = Path(__file__).parent
PATHS = [str(TESTS.parent), str(TESTS)]
#: What nearly every child needs; all of the package comes with it.
PRELOAD = [
    "cache_worker",
    "hf_tinybert.cli.distill",
    "peft",
    "torch.distributed.elastic",
    "matplotlib.backends.backend_agg",
]


class Child:
    """A running process, with the attributes of `subprocess.Popen` that tests use."""

    def __init__(self, process: BaseProcess, output: Path, errors: Path) -> None:
        self.process, self._output, self._errors = process, output, errors

    @property
    def pid(self) -> int:
        return int(self.process.pid or 0)

    def poll(self) -> int | None:
        return self.process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._errors.read_text(encoding="utf-8", errors="replace")

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def wait(self, timeout: float = 120) -> Child:
        """Until it has ended; one that takes longer is killed, and fails the test."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} seconds\n{self.output[-4000:]}")
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Processes:
    """Starts children; everything that still runs is killed at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, []
        at_import = {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
        with _environment(**at_import, HF_DATASETS_CACHE=str(folder / "datasets")):
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(PRELOAD)
            forkserver.ensure_running()
        self.run("-c", "")  # what the server imports belongs to no test's time

    @property
    def context(self):
        """For jobs that are functions: `context.Process(target=...)`."""
        return self._context

    def start(self, *argv: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Child:
        """Begin a process; `env` is put over this process's own environment."""
        output, errors = (self._folder / f"{len(self._started)}.{name}" for name in ("out", "err"))
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | (env or {})
        process = self._context.Process(
            target=_child, args=([str(word) for word in argv], environment, str(cwd or os.getcwd()), output, errors)
        )
        for path in (output, errors):
            path.touch()
        process.start()
        child = Child(process, output, errors)
        self._started.append(child)
        return child

    def run(self, *argv: object, timeout: float = 120, **where) -> Child:
        """Start a process and wait until it has ended."""
        return self.start(*argv, **where).wait(timeout)

    def start_ranks(self, count: int, *argv: object, env: dict[str, str] | None = None, **where) -> list[Child]:
        """As `torchrun --nproc-per-node` does: one process for each rank."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [
            self.start(
                *argv, env=(env or {}) | _words(shared | {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}), **where
            )
            for rank in range(count)
        ]

    def run_ranks(self, count: int, *argv: object, timeout: float = 180, **where) -> list[Child]:
        """Start them and wait; as with `torchrun`, where one fails the others are ended."""
        ranks, deadline = self.start_ranks(count, *argv, **where), time.monotonic() + timeout
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            assert time.monotonic() < deadline, "\n".join(rank.output[-2000:] for rank in ranks)
            time.sleep(0.01)
        if any(rank.poll() for rank in ranks):
            grace = time.monotonic() + 5
            while any(rank.poll() is None for rank in ranks) and time.monotonic() < grace:
                time.sleep(0.01)
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
        return ranks

    def close(self) -> None:
        """Kill what is left, and the server; its folder, which multiprocessing would keep until exit, goes as well."""
        for child in self._started:
            if child.poll() is None:
                child.kill()
        forkserver._forkserver._stop()
        for finalizer in list(util._finalizer_registry.values()):
            if finalizer._callback is util._remove_temp_dir:
                finalizer()


def _words(values: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


@contextlib.contextmanager
def _environment(**changes: str):
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _child(argv: list[str], environment: dict[str, str], cwd: str, output: Path, errors: Path) -> None:
    """What `python *argv` would do, in a forked process."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    for path, stream in ((output, sys.stdout), (errors, sys.stderr)):
        stream.flush()
        with path.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1 if stream is sys.stdout else 2)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2)
    )
    torch.set_num_threads(1)
    gc.freeze()  # the Trainer collects garbage again and again, and what was imported is none
    code = 0
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        elif argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = list(argv)
            sys.path.insert(0, str(Path(argv[0]).parent))
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
