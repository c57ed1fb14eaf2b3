"""Teacher and student side by side: metric, parameters, file size, latency, share kept."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hf_tinybert.checkpoints import PROJECTIONS_NAME
from hf_tinybert.families import locate

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


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
    """

    metric: str
    split: str
    length: int
    threads: int
    models: tuple[ModelFacts, ...]

    def __str__(self) -> str:
        """A table with a column for each model and the factors between them."""
        first = self.models[0]
        header = ["", *(facts.name for facts in self.models)]
        rows = [header]
        score = f"{self.split} {self.metric}"
        rows.append([score, *(_number(m.score, "{:.4f}") for m in self.models)])
        rows.append(["share kept", *(_ratio(m.score, first.score, "{:.1%}") for m in self.models)])
        rows.append(["parameters", *(_millions(m.parameters, first.parameters) for m in self.models)])
        rows.append(["  in the layers", *(_millions(m.layer_parameters, first.layer_parameters) for m in self.models)])
        rows.append(["file size", *(_number(m.bytes_on_disk, "{:.1f} MB", 1e-6) for m in self.models)])
        latency = f"latency ({self.length} tokens)"
        rows.append([latency, *(_number(m.latency_ms, "{:.2f} ms") for m in self.models)])
        rows.append(["speed-up", *(_ratio(first.latency_ms, m.latency_ms, "{:.1f}x") for m in self.models)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        temporary = Path(f"{path}.partial")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)


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
        folders: name -> folder or Hub id; the file size is known for folders only.
        metric: name of the score.
        split: which data the scores are of.
        length: tokens of the sequence to time.
    """
    latencies = latency(models, length)
    facts = tuple(
        ModelFacts(
            name=name,
            parameters=model.num_parameters(),
            layer_parameters=sum(p.numel() for layer in locate(model).layers for p in layer.parameters()),
            bytes_on_disk=bytes_on_disk(folders[name]),
            latency_ms=latencies[name],
            score=scores.get(name),
        )
        for name, model in models.items()
    )
    return Comparison(metric, split, length, torch.get_num_threads(), facts)


@torch.inference_mode()
def latency(
    models: Mapping[str, PreTrainedModel], length: int, rounds: int = 40, warm_up: int = 5
) -> dict[str, float]:
    """Median milliseconds of one sequence of `length` tokens, the models taking turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.eval()
    for turn in range(warm_up + rounds):
        for name, model in models.items():
            ids = torch.full((1, length), 1, device=model.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            start = time.perf_counter()
            model(**inputs)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= warm_up:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def bytes_on_disk(folder: str | os.PathLike[str]) -> int | None:
    """The size of a folder's weight files, or None if it is no folder or has none."""
    files = {path for pattern in _WEIGHTS for path in Path(folder).glob(pattern) if path.name != PROJECTIONS_NAME}
    return sum(path.stat().st_size for path in files) or None


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "-" if value is None else form.format(value * factor)


def _ratio(value: float | None, by: float | None, form: str) -> str:
    return "-" if value is None or not by else form.format(value / by)


def _millions(value: int, first: int) -> str:
    text = f"{value / 1e6:.1f}M"
    return text if value == first else f"{text} (1/{first / value:.1f})"
