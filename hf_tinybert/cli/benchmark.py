"""`hf-tinybert benchmark`: size and speed of models, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hf_tinybert.benchmark import comparison, costs
from hf_tinybert.benchmark.runtimes import RUNTIMES
from hf_tinybert.cli import arguments

RESULT_NAME = "benchmark.json"


@dataclass
class BenchmarkArguments:
    """What to measure."""

    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders or Hub ids of fine-tuned models, each with a name if wanted: name=path."},
    )
    shapes: list[str] = field(
        default_factory=list,
        metadata={"help": f"Architectures with random weights to compare with: {', '.join(costs.SHAPES)}."},
    )
    runtimes: list[str] = field(
        default_factory=list,
        metadata={"help": f"Some of {', '.join(RUNTIMES)}; all that work here if not given."},
    )
    batch_sizes: list[int] = field(default_factory=lambda: [1, 32], metadata={"help": "Sequences in a batch."})
    lengths: list[int] = field(default_factory=lambda: [32, 128], metadata={"help": "Tokens of each sequence."})
    threads: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of CPU threads; torch's own number if not given."}
    )
    baseline: str | None = field(
        default=None, metadata={"help": "Model against which speed-ups are counted; the first by default."}
    )
    rounds: int = field(default=30, metadata={"help": "Batches timed of each model, all models taking turns."})
    warm_up: int = field(default=5, metadata={"help": "Rounds before these, which do not count."})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even if a GPU is available."})
    output_dir: str | None = field(default=None, metadata={"help": f"Folder for {RESULT_NAME}; made if missing."})


def run(argv: Sequence[str]) -> None:
    """Print parameters, FLOPs, file size, latency and throughput of every model in every runtime."""
    (args,) = arguments.parse(
        "benchmark", "Measure the size and speed of models, side by side.", (BenchmarkArguments,), argv
    )
    plan = costs.Plan(
        batch_sizes=tuple(args.batch_sizes),
        lengths=tuple(args.lengths),
        threads=tuple(args.threads) or (torch.get_num_threads(),),
        rounds=args.rounds,
        warm_up=args.warm_up,
    )
    candidates = costs.find_candidates(args.models, args.shapes)
    if args.output_dir is not None:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
    result = comparison.benchmark(candidates, plan, args.runtimes, device, _progress, args.baseline)
    print(result)
    if args.output_dir is not None:
        result.save(Path(args.output_dir) / RESULT_NAME)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
