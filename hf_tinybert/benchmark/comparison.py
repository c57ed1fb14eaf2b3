"""Models side by side.

`Comparison` is of teacher and student: metric, parameters, file size, latency, share kept. `Benchmark` is of any
models in any runtimes: parameters, FLOPs, file size, latency, throughput.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from hf_tinybert.benchmark.costs import Candidate, ModelCost, Plan, Timing, bytes_on_disk, latency, measure
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.latency import machine_name

#: Where a run saves its comparison of teacher and student.
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class ModelFacts:
    """What is known of one model; None where it was not measured.

    Attributes:
        name: how the table calls it.
        parameters: all of them.
        layer_parameters: those of the transformer layers, without embeddings and head.
        bytes_on_disk: size of its weight files.
        latency_ms: median milliseconds of one sequence, batch 1.
        score: the task's metric.
    """

    name: str
    parameters: int
    layer_parameters: int
    bytes_on_disk: int | None = None
    latency_ms: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Models side by side; the first is the teacher, against which the others are measured.

    Attributes:
        metric: name of the score.
        split: which data the score is of.
        length: tokens of the sequence whose latency was measured.
        threads: CPU threads that were used.
        models: the rows.
        machine: what it was measured on.
    """

    metric: str
    split: str
    length: int
    threads: int
    models: tuple[ModelFacts, ...]
    machine: str = ""

    def __str__(self) -> str:
        """A table with a column for each model and, where there are several, the factors between them."""
        first, several = self.models[0], len(self.models) > 1
        header = ["", *(facts.name for facts in self.models)]
        rows = [header]
        score = f"{self.split} {self.metric}"
        rows.append([score, *(_number(m.score, "{:.4f}") for m in self.models)])
        if several:
            rows.append(["share kept", *(_ratio(m.score, first.score, "{:.1%}") for m in self.models)])
        rows.append(["parameters", *(_millions(m.parameters, first.parameters) for m in self.models)])
        rows.append(["  in the layers", *(_millions(m.layer_parameters, first.layer_parameters) for m in self.models)])
        rows.append(["file size", *(_number(m.bytes_on_disk, "{:.1f} MB", 1e-6) for m in self.models)])
        latency = f"latency ({self.length} tokens)"
        rows.append([latency, *(_number(m.latency_ms, "{:.2f} ms") for m in self.models)])
        if several:
            rows.append(["speed-up", *(_ratio(first.latency_ms, m.latency_ms, "{:.1f}x") for m in self.models)])
        return "\n".join(_aligned(rows))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        _save_json(path, asdict(self))

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> Comparison:
        """From what `save` wrote, read as JSON."""
        return cls(**{**saved, "models": tuple(ModelFacts(**model) for model in saved["models"])})


@dataclass(frozen=True)
class Benchmark:
    """Models and runtimes side by side.

    Attributes:
        device: what they ran on.
        torch_version: of the installed torch.
        transformers_version: of the installed transformers.
        plan: what was timed, and how.
        costs: a row for each model in each runtime.
        timings: such a row for each number of threads, batch size and length.
        baseline: label of the row that speed-ups are against.
    """

    device: str
    torch_version: str
    transformers_version: str
    plan: Plan
    costs: tuple[ModelCost, ...]
    timings: tuple[Timing, ...]
    baseline: str

    def __str__(self) -> str:
        """A header, a table of costs, and a table of times for each batch size and length."""
        plan = self.plan
        versions = f"torch {self.torch_version}, transformers {self.transformers_version}"
        lines = [
            f"{self.device}, {versions}, float32",
            f"{plan.rounds} rounds in turns after {plan.warm_up} of warm-up; speed-up against {self.baseline}",
            "",
            *self._cost_table(),
        ]
        if any(cost.size_is_computed for cost in self.costs):
            lines.append("* computed: there is no such file")
        for shape in product(plan.threads, plan.batch_sizes, plan.lengths):
            lines += ["", *self._time_table(*shape)]
        return "\n".join(lines)

    def _cost_table(self) -> list[str]:
        counted = [f"FLOPs ({length} tokens)" for length in self.plan.lengths]
        rows = [["", "parameters", *counted, "file size"]]
        for cost in self.costs:
            flops = [f"{cost.flops[length] / 1e6:,.1f} M" for length in self.plan.lengths]
            size = "-" if cost.bytes_on_disk is None else f"{cost.bytes_on_disk / 1e6:.1f} MB"
            mark = "*" if cost.size_is_computed else " "
            rows.append([cost.label, f"{cost.parameters / 1e6:.1f} M", *flops, size + mark])
        rows[0][-1] += " "
        return _aligned(rows)

    def _time_table(self, threads: int, batch_size: int, length: int) -> list[str]:
        title = f"{threads} thread{'s' if threads > 1 else ''}, batch of {batch_size}, {length} tokens"
        rows = [[title, "median", "p95", "sequences/s", "speed-up"]]
        shape = (threads, batch_size, length)
        found = [t for t in self.timings if (t.threads, t.batch_size, t.length) == shape]
        for cost, timing in zip(self.costs, found, strict=True):
            times = [f"{timing.median_ms:.2f} ms", f"{timing.p95_ms:.2f} ms"]
            rows.append([cost.label, *times, f"{timing.sequences_per_second:,.1f}", f"{timing.speed_up:.1f}x"])
        return _aligned(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        _save_json(path, asdict(self))


def compare(
    models: Mapping[str, PreTrainedModel],
    scores: Mapping[str, float | None],
    folders: Mapping[str, str],
    metric: str,
    split: str,
    length: int = 32,
) -> Comparison:
    """Measure models side by side.

    Args:
        models: name -> model; the first is the one the others are measured against.
        scores: name -> metric.
        folders: name -> folder or Hub id, or nothing; the file size is known for folders only.
        metric: name of the score.
        split: which data the scores are of.
        length: tokens of the sequence to time.
    """
    latencies = latency(models, length)
    facts = tuple(
        ModelFacts(
            name=name,
            parameters=model.num_parameters(),
            layer_parameters=sum(p.numel() for layer in Encoder.from_model(model).layers for p in layer.parameters()),
            bytes_on_disk=bytes_on_disk(folders[name]) if folders[name] else None,
            latency_ms=latencies[name],
            score=scores.get(name),
        )
        for name, model in models.items()
    )
    device = next(iter(models.values())).device
    return Comparison(metric, split, length, torch.get_num_threads(), facts, machine_name(device))


def benchmark(
    candidates: Sequence[Candidate],
    plan: Plan,
    runtimes: Sequence[str] = (),
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
    baseline: str | None = None,
) -> Benchmark:
    """Measure models in runtimes; the arguments and errors are those of `inference.measure`."""
    costs, timings = measure(candidates, plan, runtimes, device, progress, baseline)
    return Benchmark(
        device=machine_name(device),
        torch_version=torch.__version__,
        transformers_version=transformers.__version__,
        plan=plan,
        costs=tuple(costs),
        timings=tuple(timings),
        baseline=next(cost.label for cost in costs if baseline is None or cost.name == baseline),
    )


def _save_json(path: str | os.PathLike[str], value: Any) -> None:
    """Whole or not at all."""
    with file_beside(path) as file:
        file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right, a rule below the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)


def _ratio(value: float | None, by: float | None, form: str) -> str:
    return "-" if value is None or not by else form.format(value / by)


def _millions(value: int, first: int) -> str:
    text = f"{value / 1e6:.1f}M"
    return text if value == first else f"{text} (1/{first / value:.1f})"
