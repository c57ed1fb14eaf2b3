"""Models side by side.

`Comparison` is of teacher and student: metric, parameters, file size, latency, score retained. `Benchmark` is of any
models in any runtimes: parameters, FLOPs, file size, latency, throughput.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Protocol

import torch
import transformers
from transformers import PreTrainedModel, TrainingArguments

from hf_tinybert.benchmark.costs import Candidate, ModelCost, Plan, Timing, bytes_on_disk, latency, measure
from hf_tinybert.models import peft
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.student import provenance
from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.latency import machine_name
from hf_tinybert.utils.types import AnyDataset

#: Tokens of the sequence that is timed, where nothing else is asked for.
LENGTH = 32
#: Where a run saves its comparison of teacher and student.
SUMMARY_NAME = "summary.json"


@dataclass(frozen=True)
class ModelFacts:
    """Measurements of one model; None where it was not measured.

    Attributes:
        name: its name in the table.
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


class ModelPair(Protocol):
    """The two models of a `DistillationTrainer`."""

    args: TrainingArguments
    student: PreTrainedModel
    teacher: PreTrainedModel
    is_fsdp_enabled: bool


class ComparedTrainer(ModelPair, Protocol):
    """What is used of a `DistillationTrainer`."""

    def evaluate(self, eval_dataset: AnyDataset, *, metric_key_prefix: str) -> dict[str, float]:
        """The student's metrics."""

    def evaluate_teacher(self, eval_dataset: AnyDataset) -> dict[str, float]:
        """The teacher's metrics, with the prefix `teacher_`."""

    def save_metrics(self, split: str, metrics: Mapping[str, float]) -> None:
        """Write the metrics into the output folder."""

    def is_world_process_zero(self) -> bool:
        """Whether this process writes."""


@dataclass(frozen=True)
class Comparison:
    """Teacher and student side by side.

    Attributes:
        metric: name of the score; empty where none was measured.
        split: data that the score was measured on.
        length: tokens of the sequence whose latency was measured.
        threads: CPU threads.
        teacher: measurements of the teacher.
        student: measurements of the student.
        machine: processor that both were timed on.
        start: the student's fidelity to its teacher before training, by metric; empty where it is not known.
    """

    metric: str
    split: str
    length: int
    threads: int
    teacher: ModelFacts
    student: ModelFacts
    machine: str = ""
    start: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """A table with a column for each model, and the factors between them."""
        return table([self.teacher, self.student], self.metric, self.split, self.length)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        _save_json(path, asdict(self))

    @classmethod
    def from_saved(cls, saved: dict[str, Any]) -> Comparison:
        """From what `save` wrote, read as JSON.

        Raises:
            KeyError, TypeError: it is not one.
        """
        teacher, student = ModelFacts(**saved["teacher"]), ModelFacts(**saved["student"])
        return cls(**{**saved, "teacher": teacher, "student": student})


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
        timings = [t for t in self.timings if (t.threads, t.batch_size, t.length) == shape]
        for cost, timing in zip(self.costs, timings, strict=True):
            times = [f"{timing.median_ms:.2f} ms", f"{timing.p95_ms:.2f} ms"]
            rows.append([cost.label, *times, f"{timing.sequences_per_second:,.1f}", f"{timing.speed_up:.1f}x"])
        return _aligned(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        _save_json(path, asdict(self))


def compare(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    scores: tuple[float | None, float | None] = (None, None),
    folders: tuple[str, str] = ("", ""),
    metric: str = "",
    split: str = "",
    length: int = LENGTH,
) -> Comparison:
    """Measure the sizes and latencies of teacher and student, in turns.

    Args:
        teacher: on its device.
        student: on its device.
        scores: of teacher and student, where they were measured.
        folders: of both; the file size is known of folders only.
        metric: name of the scores.
        split: data that the scores were measured on.
        length: tokens of the sequence to time.
    """
    models = {"teacher": teacher, "student": student}
    of_teacher, of_student = measure_models(
        models, dict(zip(models, scores, strict=True)), dict(zip(models, folders, strict=True)), length
    )
    threads, machine = torch.get_num_threads(), machine_name(teacher.device)
    start = provenance.start_of(student)
    return Comparison(metric, split, length, threads, of_teacher, of_student, machine, start)


def compare_trained(
    trainer: ComparedTrainer, dataset: AnyDataset | None = None, metric: str = "", split: str = "test"
) -> Comparison | None:
    """Evaluate a trainer's student and teacher on held-out data, and measure what both models cost.

    Call it in every process; the metrics are also saved as `Trainer.save_metrics` does.

    Args:
        trainer: a `DistillationTrainer` whose student was saved to its `output_dir`.
        dataset: tokenised examples; without, sizes and latencies alone are compared.
        metric: the metric of `compute_metrics` that is compared, such as `"accuracy"`.
        split: name of the data, the prefix of the saved metrics.

    Returns:
        The comparison; None in all processes but the first, and of a model that FSDP has sharded.

    Raises:
        ValueError: `compute_metrics` gives no such metric.
    """
    scores: tuple[float | None, float | None] = (None, None)
    if dataset is not None:
        measured = trainer.evaluate(dataset, metric_key_prefix=split)
        trainer.save_metrics(split, measured)
        if f"{split}_{metric}" not in measured:
            names = ", ".join(name.removeprefix(f"{split}_") for name in measured)
            raise ValueError(f"compute_metrics gives no {metric!r}; it gives {names}.")
        scores = trainer.evaluate_teacher(dataset)[f"teacher_{metric}"], measured[f"{split}_{metric}"]
    else:
        metric = split = ""
    return compare_pair(trainer, scores, metric, split) if trainer.is_world_process_zero() else None


def compare_pair(
    trainer: ModelPair, scores: tuple[float | None, float | None] = (None, None), metric: str = "", split: str = ""
) -> Comparison | None:
    """Measure the sizes and latencies of a trainer's teacher and student; None of a model that FSDP has sharded.

    Args:
        trainer: a `DistillationTrainer`, in the main process.
        scores: of teacher and student, where they were measured.
        metric: name of the scores.
        split: data that the scores were measured on.
    """
    if trainer.is_fsdp_enabled:
        return None
    student_folder = "" if peft.has_adapter(trainer.student) else str(trainer.args.output_dir)
    folders = (getattr(trainer.teacher.config, "_name_or_path", "") or "", student_folder)
    return compare(trainer.teacher, trainer.student, scores, folders, metric, split)


def measure_models(
    models: Mapping[str, PreTrainedModel],
    scores: Mapping[str, float | None],
    folders: Mapping[str, str],
    length: int = LENGTH,
) -> list[ModelFacts]:
    """Size and latency of models, which take turns while they are timed.

    Args:
        models: name -> model.
        scores: name -> metric, where it was measured.
        folders: name -> folder or Hub id, or nothing; the file size is known of folders only.
        length: tokens of the sequence to time.
    """
    latencies = latency(models, length)
    return [
        ModelFacts(
            name=name,
            parameters=model.num_parameters(),
            layer_parameters=sum(p.numel() for layer in Encoder.from_model(model).layers for p in layer.parameters()),
            bytes_on_disk=bytes_on_disk(folders[name]) if folders[name] else None,
            latency_ms=latencies[name],
            score=scores.get(name),
        )
        for name, model in models.items()
    ]


def table(models: Sequence[ModelFacts], metric: str, split: str, length: int) -> str:
    """A column for each model; of several, the factors against the first.

    Args:
        models: the columns.
        metric: name of the scores.
        split: data that they were measured on.
        length: tokens of the sequence that was timed.
    """
    first, several = models[0], len(models) > 1
    rows = [["", *(facts.name for facts in models)]]
    rows.append([f"{split} {metric}" if metric else "score", *(_number(m.score, "{:.4f}") for m in models)])
    if several:
        rows.append(["score retained", *(_ratio(m.score, first.score, "{:.1%}") for m in models)])
    rows.append(["parameters", *(_millions(m.parameters, first.parameters) for m in models)])
    rows.append(["  in the layers", *(_millions(m.layer_parameters, first.layer_parameters) for m in models)])
    rows.append(["file size", *(_number(m.bytes_on_disk, "{:.1f} MB", 1e-6) for m in models)])
    rows.append([f"latency ({length} tokens)", *(_number(m.latency_ms, "{:.2f} ms") for m in models)])
    if several:
        rows.append(["speed-up", *(_ratio(first.latency_ms, m.latency_ms, "{:.1f}x") for m in models)])
    return "\n".join(_aligned(rows))


def benchmark(
    candidates: Sequence[Candidate],
    plan: Plan,
    runtimes: Sequence[str] = (),
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
    baseline: str | None = None,
) -> Benchmark:
    """Measure models in runtimes; the arguments and errors are those of `costs.measure`."""
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


def _save_json(path: str | os.PathLike[str], value: object) -> None:
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
