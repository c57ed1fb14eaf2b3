"""The cost of one training step: time, peak memory and tokens per second, ours and others'.

    python examples/benchmarks/training_step.py
    python examples/benchmarks/training_step.py --lengths 128 512 --variants floor ours plain --steps 10
    python examples/benchmarks/training_step.py --table runs/training_step/results.json

A teacher of BERT-base's shape and a `tinybert-4l-312d` student, both random: weights do not change the cost of a
step. All variants of a length live in one process and see the same batch of full-length sequences. Every round
runs each of them once, in a new order, so that whatever else the machine does meets all alike.

Alike in all: a student of its own with dropout of hidden states, a teacher in eval mode without gradients, the base
models where layers are matched (a head of two classes costs nothing), a fused AdamW over student and projections, no
clipping, no schedule. They differ in what happens between the two forward passes and the student's backward pass:

- floor: nothing happens. Backward starts from a fixed random gradient at the student's last hidden state.
- ours: what `DistillationTrainer` does in the intermediate phase.
- joint: what it does in every step of its default: the intermediate levels and the prediction, heads included.
- bf16-teacher: as ours, with `teacher_mixed_precision="bf16"`, the student as before.
- in-memory: the same with the teacher's features already there; cached: with the features read from disk.
- plain: what a home-made `compute_loss` does with `output_attentions` and `output_hidden_states`. Such maps are
  probabilities (transformers gives no others), and need eager attention. plain-bf16-teacher: the same with bf16
  autocast around the teacher.
- textbrewer: its `GeneralDistiller` on the same outputs, without its logging and its checkpoints.
- authors: the scores before the softmax as maps, scores of masked keys set to 0, one projection for all levels.
- logits-live, logits-known, logits-cached: the prediction phase, with a live teacher, with logits that are already
  there and with logits read from disk; fine-tuning: the same student on gold labels.

Peak memory is what a step takes above what lies in memory between steps (weights, optimiser, batch); it is measured
in a process of its own for each variant and length. On a GPU the same runs under bf16 autocast.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, default_data_collator

from hf_tinybert import TinyBertConfig, create_student
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig, Step, Weights
from hf_tinybert.distillation.phases import LEVELS, Phase
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import Features
from hf_tinybert.models.loading import freeze
from hf_tinybert.teacher.cache import open_source
from hf_tinybert.teacher.cache.policy import Request
from hf_tinybert.teacher.source import OnlineTeacher
from hf_tinybert.utils.files import file_beside

BATCH_SIZES = {64: 32, 128: 32, 256: 16, 512: 4}
TOKENS_PER_BATCH = 4096
SMOKE_BATCH_SIZES = {8: 4, 16: 2}
SMOKE_TEACHER = {
    "vocab_size": 200,
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
}
SMOKE_STUDENT = {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 48}


class Unavailable(Exception):
    """A variant cannot run here; the message says why."""


# What a step is


class Bench:
    """Two models and one batch, of which every variant takes what it needs.

    Args:
        length: tokens in each sequence.
        batch_size: sequences.
        device: where everything lies.
        bf16: run the forward passes under bf16 autocast.
        smoke: tiny models, to try the script.
    """

    def __init__(self, length: int, batch_size: int, device: torch.device, bf16: bool, smoke: bool) -> None:
        torch.manual_seed(0)
        self.device, self.bf16, self.smoke = device, bf16, smoke
        self.config = BertConfig(num_labels=2, **(SMOKE_TEACHER if smoke else {}))
        low = min(1000, self.config.vocab_size // 2)  # BERT's vocabulary begins with unused and special tokens
        ids = torch.randint(low, self.config.vocab_size, (batch_size, length)).to(device)
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        self.labels = torch.randint(2, (batch_size,)).to(device)

    @cached_property
    def teacher(self) -> PreTrainedModel:
        torch.manual_seed(1)
        return freeze(AutoModelForSequenceClassification.from_config(self.config).to(self.device))

    @cached_property
    def _new_student(self) -> PreTrainedModel:
        torch.manual_seed(2)
        overrides = SMOKE_STUDENT if self.smoke else {}
        config = TinyBertConfig.from_teacher(self.config, "tinybert-4l-312d", **overrides)
        return create_student(self.teacher, config, init="random").to(self.device).train()

    def student(self) -> PreTrainedModel:
        """A student of one's own; all start from the same weights."""
        return copy.deepcopy(self._new_student)

    @cached_property
    def mapping(self) -> LayerMapping:
        return LayerMapping.uniform(self._new_student.config.num_hidden_layers, self.config.num_hidden_layers)

    def linears(self, number: int) -> nn.ModuleList:
        """Projections from the student's width to the teacher's."""
        widths = self._new_student.config.hidden_size, self.config.hidden_size
        return nn.ModuleList([nn.Linear(*widths) for _ in range(number)]).to(self.device)

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()


@dataclass
class Variant:
    """One way to take a training step.

    Attributes:
        bench: models and batch.
        student: what is trained.
        loss: forward passes and loss.
        projections: trained with the student.
        gradient: where `loss` returns no scalar: the gradient that its result gets.
    """

    bench: Bench
    student: nn.Module
    loss: Callable[[], Tensor]
    projections: Iterable[nn.Module] = ()
    gradient: Tensor | None = None

    def __post_init__(self) -> None:
        parameters = [p for module in (self.student, *self.projections) for p in module.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=5e-5, fused=True)

    def step(self) -> None:
        with self.bench.autocast():
            loss = self.loss()
        loss.backward(self.gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()


# Ours: what the package's trainer does in one step. A cache is one more source of features here.


def distilling(bench: Bench, phase: Phase, features: Callable[[], Features]) -> Variant:
    """A step of `DistillationTrainer.compute_loss`, with the teacher's features from anywhere."""
    student = bench.student()
    weights = Weights(dict.fromkeys(("embedding", "hidden", "attention", "prediction"), 1.0))
    encoder = Encoder.from_model(student)
    heads = HeadMatching("heads", encoder.num_heads, encoder.num_heads)
    settings = ObjectiveConfig(bench.mapping, weights, heads)
    projections = Projections(
        encoder.hidden_size, bench.config.hidden_size, settings.hidden_layers, shared=False, seed=3
    ).to(bench.device)
    objective = DistillationObjective(student, encoder, projections, settings).train()
    inputs = bench.batch | {"labels": bench.labels}

    def loss() -> Tensor:
        counts = BatchCounts.from_batches([inputs], bench.device, longest=encoder.max_length)
        return objective(**inputs, step=Step(features(), LEVELS[phase], counts))[0]

    # In the prediction phase the projections stay without gradients, as in a run of both phases.
    return Variant(bench, student, loss, [projections])


def live_teacher(bench: Bench, phase: Phase, autocast: Callable[[], Any] = nullcontext) -> Callable[[], Features]:
    signal = teacher_signal(bench, autocast)
    wanted = {"intermediate": phase != "prediction", "prediction": phase != "intermediate"}
    return lambda: signal.features(bench.batch, **wanted)


def teacher_signal(bench: Bench, autocast: Callable[[], Any] = nullcontext) -> OnlineTeacher:
    layers = list(bench.mapping.values())
    return OnlineTeacher(bench.teacher, layers, [layer for layer in layers if layer], autocast)


def from_cache(bench: Bench, phase: Phase) -> Callable[[], Features]:
    """The batch is collated from its rows in every step, with what the cache knows of them, as in training."""
    columns = bench.batch | {"labels": bench.labels}
    dataset = Dataset.from_dict({name: values.tolist() for name, values in columns.items()})
    folder = tempfile.TemporaryDirectory()
    request = Request(
        choice="features" if phase == "intermediate" else "logits",
        folder=Path(folder.name),
        dtype="float16",
        dataset=dataset,
        collator=default_data_collator,
        intermediate_passes=int(phase == "intermediate"),
        prediction_passes=int(phase == "prediction"),
        joint=False,
        batch_size=len(dataset),
        device=bench.device,
        autocast="bf16" if bench.bf16 else "no",
    )
    signal = open_source(teacher_signal(bench), request)
    signal.start_phase(phase == "intermediate")
    numbered, collator = signal.data(dataset, default_data_collator)
    wanted = {"intermediate": phase == "intermediate", "prediction": phase == "prediction"}

    def features() -> Features:
        with torch.autocast(bench.device.type, enabled=False):  # a trainer's batches are made outside of it
            batch = send_to_device(collator([numbered[row] for row in range(len(numbered))]), bench.device)
        return signal.features(batch, **wanted)

    with bench.autocast():
        features()  # the first pass over the data, which fills the table of logits
    features.folder = folder  # type: ignore[attr-defined]  # removed when the variant goes
    return features


def captured(bench: Bench, phase: Phase) -> Callable[[], Features]:
    with bench.autocast():
        features = live_teacher(bench, phase)()
    # A step lets go of what it was given: each gets tables of its own.
    return lambda: Features(features.logits, dict(features.hidden), dict(features.queries), dict(features.keys))


def ours(bench: Bench) -> Variant:
    return distilling(bench, "intermediate", live_teacher(bench, "intermediate"))


def joint(bench: Bench) -> Variant:
    return distilling(bench, "joint", live_teacher(bench, "joint"))


def bf16_teacher(bench: Bench) -> Variant:
    return distilling(bench, "intermediate", live_teacher(bench, "intermediate", bf16_of(bench)))


def bf16_of(bench: Bench) -> Callable[[], Any]:
    return partial(torch.autocast, bench.device.type, torch.bfloat16)


def in_memory(bench: Bench) -> Variant:
    return distilling(bench, "intermediate", captured(bench, "intermediate"))


def cached(bench: Bench) -> Variant:
    return distilling(bench, "intermediate", from_cache(bench, "intermediate"))


def logits_live(bench: Bench) -> Variant:
    return distilling(bench, "prediction", live_teacher(bench, "prediction"))


def logits_known(bench: Bench) -> Variant:
    return distilling(bench, "prediction", captured(bench, "prediction"))


def logits_cached(bench: Bench) -> Variant:
    return distilling(bench, "prediction", from_cache(bench, "prediction"))


# What ours is compared with


def floor(bench: Bench) -> Variant:
    student = bench.student()
    rows, length = bench.batch["input_ids"].shape
    torch.manual_seed(4)
    gradient = torch.randn(rows, length, student.config.hidden_size).to(bench.device) / (rows * length)

    def hidden() -> Tensor:
        with torch.inference_mode():
            bench.teacher.base_model(**bench.batch)
        return student.base_model(**bench.batch).last_hidden_state.float()

    return Variant(bench, student, hidden, gradient=gradient)


def plain(bench: Bench, autocast: Callable[[], Any] = nullcontext) -> Variant:
    teacher, student = with_eager_attention(bench.teacher), with_eager_attention(bench.student())
    projections = bench.linears(len(bench.mapping))
    everything = {"output_attentions": True, "output_hidden_states": True}

    def loss() -> Tensor:
        with torch.no_grad(), autocast():
            above = teacher.base_model(**bench.batch, **everything)
        below = student.base_model(**bench.batch, **everything)
        total = torch.zeros((), device=bench.device)
        for projection, (m, g) in zip(projections, bench.mapping.items(), strict=True):
            total = total + F.mse_loss(projection(below.hidden_states[m]), above.hidden_states[g])
        for m, g in bench.mapping.layers.items():
            total = total + F.mse_loss(below.attentions[m - 1], above.attentions[g - 1].float())
        return total

    return Variant(bench, student, loss, [projections])


def plain_bf16_teacher(bench: Bench) -> Variant:
    return plain(bench, bf16_of(bench))


def textbrewer(bench: Bench) -> Variant:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    except ImportError as error:
        raise Unavailable(f"TextBrewer cannot be imported ({error}); it is on PyPI as `textbrewer`") from None
    teacher, student = with_eager_attention(bench.teacher), with_eager_attention(bench.student())
    projection = ["linear", student.config.hidden_size, bench.config.hidden_size]
    matches = [
        {"layer_T": g, "layer_S": m, "feature": "hidden", "loss": "hidden_mse", "weight": 1, "proj": [*projection]}
        for m, g in bench.mapping.items()
    ]
    # Layers are places in the list of what the adaptor returns: there is no attention map of the embeddings.
    matches += [
        {"layer_T": g - 1, "layer_S": m - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
        for m, g in bench.mapping.layers.items()
    ]

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        mask = batch["attention_mask"]
        return {"hidden": outputs.hidden_states, "attention": outputs.attentions, "inputs_mask": mask}

    with tempfile.TemporaryDirectory() as folder:  # it makes the folder of its checkpoints
        training = TrainingConfig(device=bench.device, output_dir=folder, log_dir=None)
    distillation = DistillationConfig(intermediate_matches=matches)
    bases = teacher.base_model, student.base_model
    distiller = GeneralDistiller(training, distillation, *bases, adaptor, adaptor)
    everything = {"output_attentions": True, "output_hidden_states": True}

    def loss() -> Tensor:
        return distiller.train_on_batch(bench.batch, everything)[0]

    return Variant(bench, student, loss, [p for p in distiller.projs if p is not None])


def authors(bench: Bench) -> Variant:
    teacher, student = with_eager_attention(bench.teacher), with_eager_attention(bench.student())
    scores_above, scores_below = keep_scores(teacher), keep_scores(student)
    projections = bench.linears(1)

    def unmasked(scores: Tensor) -> Tensor:
        return torch.where(scores <= -1e2, torch.zeros_like(scores), scores)

    def loss() -> Tensor:
        with torch.no_grad():
            above = teacher.base_model(**bench.batch, output_hidden_states=True).hidden_states
        below = student.base_model(**bench.batch, output_hidden_states=True).hidden_states
        total = torch.zeros((), device=bench.device)
        for m, g in bench.mapping.items():
            total = total + F.mse_loss(projections[0](below[m]), above[g])
        for m, g in bench.mapping.layers.items():
            total = total + F.mse_loss(unmasked(scores_below[m - 1]), unmasked(scores_above[g - 1]))
        scores_above.clear()
        scores_below.clear()
        return total

    return Variant(bench, student, loss, [projections])


def fine_tuning(bench: Bench) -> Variant:
    student = bench.student()
    return Variant(bench, student, lambda: student(**bench.batch, labels=bench.labels).loss)


def with_eager_attention(model: PreTrainedModel) -> PreTrainedModel:
    """The same model with its attention maps written out; it shares the weights."""
    config = copy.deepcopy(model.config)
    twin = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").to(model.device)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.train(model.training)


def keep_scores(model: PreTrainedModel) -> list[Tensor]:
    """Make an eager BERT leave the scores of every layer, before the softmax, in the returned list."""
    kept: list[Tensor] = []
    for layer in Encoder.from_model(model).layers:
        layer.attention.self = ScoreKeepingAttention(layer.attention.self, kept)
    return kept


class ScoreKeepingAttention(nn.Module):
    """BERT's attention as a forward pass that keeps its scores, like the authors' own model code."""

    def __init__(self, attention: nn.Module, kept: list[Tensor]) -> None:
        super().__init__()
        self.query, self.key, self.value = attention.query, attention.key, attention.value
        self.dropout, self.heads, self.kept = attention.dropout, attention.num_attention_heads, kept

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Any:
        query, key, value = (
            linear(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if attention_mask is not None:
            scores = scores + attention_mask
        self.kept.append(scores)
        context = self.dropout(scores.softmax(-1)) @ value
        return context.transpose(1, 2).flatten(2), None


@dataclass(frozen=True)
class Kind:
    """How a variant is made, what its time is a multiple of, and its colour in the picture."""

    make: Callable[[Bench], Variant]
    reference: str
    colour: str


VARIANTS = {
    "floor": Kind(floor, "floor", "#c4cad6"),
    "ours": Kind(ours, "floor", "#d1495b"),
    "joint": Kind(joint, "floor", "#7a1f2b"),
    "bf16-teacher": Kind(bf16_teacher, "floor", "#9d4edd"),
    "in-memory": Kind(in_memory, "floor", "#f4bcb6"),
    "cached": Kind(cached, "floor", "#e8838f"),
    "plain": Kind(plain, "floor", "#3d5a80"),
    "plain-bf16-teacher": Kind(plain_bf16_teacher, "floor", "#98a9c9"),
    "textbrewer": Kind(textbrewer, "floor", "#6a994e"),
    "authors": Kind(authors, "floor", "#e09f3e"),
    "logits-live": Kind(logits_live, "fine-tuning", "#d1495b"),
    "logits-known": Kind(logits_known, "fine-tuning", "#f4bcb6"),
    "logits-cached": Kind(logits_cached, "fine-tuning", "#e8838f"),
    "fine-tuning": Kind(fine_tuning, "fine-tuning", "#c4cad6"),
}


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio of two variants' median times, or of their peak memories."""

    above: str
    below: str
    bound: float
    lengths: tuple[int, ...] = ()  # all that were measured
    quantity: str = "seconds"
    at_least: bool = False
    aim: str = ""


GOALS = (
    Goal("ours", "floor", 1.10, (128, 512), aim=", aim 1.05"),
    Goal("plain", "ours", 1.15, (128,), at_least=True),
    Goal("plain", "ours", 1.30, (512,), at_least=True),
    Goal("plain-bf16-teacher", "bf16-teacher", 1.15, (128,), at_least=True),
    Goal("plain-bf16-teacher", "bf16-teacher", 1.30, (512,), at_least=True),
    Goal("textbrewer", "ours", 1.00, at_least=True),
    Goal("ours", "plain", 0.50, (512,), quantity="peak_bytes"),
    Goal("cached", "in-memory", 1.15, (128,)),
    Goal("cached", "ours", 0.60, (128,)),
    Goal("logits-cached", "fine-tuning", 1.10),
)


# Measuring


def main() -> None:
    options = parse()
    if options.table:
        report(json.loads(options.table.read_text(encoding="utf-8")), options.table)
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(peak_of(options)))
        return
    saved: dict[str, Any] = {"machine": machine(options.device), "settings": settings_of(options)}
    saved |= {"left_out": {}, "measurements": []}
    for length, batch_size in zip(options.lengths, options.batch_sizes, strict=True):
        times, saved["left_out"] = time_steps(length, batch_size, options)
        gc.collect()  # models with hooks are cycles
        for name, seconds in times.items():
            row = {"variant": name, "length": length, "batch_size": batch_size, "seconds": seconds}
            if name in options.memory:
                progress(f"length {length}: peak memory of {name}")
                row["peak_bytes"] = measure_peak(name, length, batch_size, options)
            saved["measurements"].append(row)
        if "textbrewer" in sys.modules:
            saved["machine"]["textbrewer"] = sys.modules["textbrewer"].__version__
        write(options.output, json.dumps(saved, indent=1).encode())
    report(saved, options.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens in a sequence (64 128 256 512)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="one for each length (32 32 16 4)")
    every = list(VARIANTS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=every, metavar="V", help=", ".join(every))
    parser.add_argument("--memory", nargs="*", choices=VARIANTS, metavar="V", help="peak memory of these alone")
    parser.add_argument("--steps", type=int, default=20, help="timed rounds at each length")
    parser.add_argument("--warmup", type=int, default=3, help="rounds before them")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU when one is there")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--output", type=Path, default=Path("runs/training_step/results.json"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="measure nothing: report a saved run again")
    parser.add_argument("--smoke", action="store_true", help="tiny models, to try the script; no goals")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SMOKE_BATCH_SIZES if options.smoke else BATCH_SIZES
    options.lengths = options.lengths or list(sizes)
    if options.batch_sizes is None:
        options.batch_sizes = [sizes.get(n) or max(1, TOKENS_PER_BATCH // n) for n in options.lengths]
    if len(options.batch_sizes) != len(options.lengths):
        parser.error(f"{len(options.lengths)} lengths and {len(options.batch_sizes)} batch sizes")
    longest = SMOKE_TEACHER["max_position_embeddings"] if options.smoke else BertConfig().max_position_embeddings
    if not all(0 < length <= longest for length in options.lengths):
        parser.error(f"the models take 1 to {longest} tokens")
    if options.steps < 1 or options.warmup < 0:
        parser.error("--steps is at least 1 and --warmup at least 0")
    if options.memory is None:
        options.memory = ["ours"] if options.smoke else options.variants
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    names = ("lengths", "batch_sizes", "variants", "steps", "warmup", "device", "precision", "smoke")
    return {name: getattr(options, name) for name in names}


def bench_of(length: int, batch_size: int, options: argparse.Namespace) -> Bench:
    return Bench(length, batch_size, torch.device(options.device), options.precision == "bf16", options.smoke)


def time_steps(
    length: int, batch_size: int, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of every step of every variant, and why variants were left out."""
    bench = bench_of(length, batch_size, options)
    variants, left_out = {}, {}
    for name in options.variants:
        try:
            variants[name] = VARIANTS[name].make(bench)
        except Unavailable as why:
            left_out[name] = str(why)
            progress(f"{name} is left out: {why}")
    times: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0).shuffle
    for number in range(-options.warmup, options.steps):
        progress(f"length {length}: " + ("warm-up" if number < 0 else f"round {number + 1} of {options.steps}"))
        shuffle(order)
        for name in order:
            synchronise(bench.device)
            start = time.perf_counter()
            variants[name].step()
            synchronise(bench.device)
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times, left_out


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peak(name: str, length: int, batch_size: int, options: argparse.Namespace) -> int | None:
    """Bytes that a step takes above what stays, measured in another process; None where that failed."""
    command = [sys.executable, __file__, "--memory-of", name, "--lengths", str(length)]
    command += ["--batch-sizes", str(batch_size), "--device", options.device, "--precision", options.precision]
    command += ["--threads", str(torch.get_num_threads()), *(["--smoke"] if options.smoke else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        progress(f"length {length}: the peak memory of {name} was not measured\n{done.stderr}")
        return None
    peak: int | None = json.loads(done.stdout.splitlines()[-1])
    return peak


def peak_of(options: argparse.Namespace) -> int | None:
    """The peak of two steps after a first one, which makes the optimiser's state."""
    bench = bench_of(options.lengths[0], options.batch_sizes[0], options)
    variant = VARIANTS[options.memory_of].make(bench)
    variant.step()
    gc.collect()
    if bench.device.type == "cuda":
        synchronise(bench.device)
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
        variant.step()
        variant.step()
        return torch.cuda.max_memory_allocated(bench.device) - before
    if not Path("/proc/self/status").is_file():
        return None
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts from here
    except OSError:
        return sampled_peak(variant) - before
    variant.step()
    variant.step()
    return status("VmHWM") - before


def sampled_peak(variant: Variant) -> int:
    """The highest of many looks at the resident memory, where the kernel's peak cannot be reset."""
    seen, done = [status("VmRSS")], threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            seen.append(status("VmRSS"))

    thread = threading.Thread(target=look)
    thread.start()
    variant.step()
    variant.step()
    done.set()
    thread.join()
    return max(seen)


def status(key: str) -> int:
    """Bytes, from the kernel's account of this process."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def machine(device: str) -> dict[str, Any]:
    try:
        names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    described = {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    if device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    return described


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Reporting


def report(saved: dict[str, Any], path: Path) -> None:
    """Print tables and goals, and draw the picture beside the saved run."""
    print(tables(saved))
    if not saved["settings"]["smoke"]:
        print(goals(saved))
    try:
        picture(saved, path.with_suffix(".png"))
        progress(f"{path} and {path.with_suffix('.png')}")
    except ImportError:
        progress(f"{path}; the picture needs matplotlib: pip install 'hf-tinybert[plots]'.")


def by_length(saved: dict[str, Any]) -> dict[int, dict[str, dict[str, Any]]]:
    """length -> variant -> measurement."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row in saved["measurements"]:
        found.setdefault(row["length"], {})[row["variant"]] = row
    return found


def value(rows: dict[str, dict[str, Any]], variant: str, quantity: str) -> float | None:
    """A variant's median seconds or its peak bytes, or None where it was not measured."""
    known = rows.get(variant, {}).get(quantity)
    return statistics.median(known) if isinstance(known, list) else known


def ratio(rows: dict[str, dict[str, Any]], above: str, below: str, quantity: str = "seconds") -> float | None:
    values = value(rows, above, quantity), value(rows, below, quantity)
    return values[0] / values[1] if None not in values and values[1] else None


def tables(saved: dict[str, Any]) -> str:
    """Markdown: one table a phase, one row a length and variant."""
    described, settings = saved["machine"], saved["settings"]
    where = described.get("gpu") or f"{described['cpu']}, {described['threads']} of {described['cores']} cores"
    names = ("torch", "transformers", "textbrewer")
    lines = [f"{where}, {settings['precision']}; " + ", ".join(f"{n} {described[n]}" for n in names if n in described)]
    lines += [f"{settings['steps']} interleaved steps of each variant after {settings['warmup']} warm-up rounds"]
    for reference in ("floor", "fine-tuning"):
        lines += ["", f"| length x batch | variant | median ms | quartiles | x {reference} | tokens/s | peak MiB |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        for length, rows in by_length(saved).items():
            for name, kind in VARIANTS.items():
                if kind.reference == reference and name in rows:
                    lines.append(table_row(length, rows, name, reference))
    lines += [""] * bool(saved["left_out"])
    lines += [f"{name} is left out: {why}" for name, why in saved["left_out"].items()]
    return "\n".join(lines)


def table_row(length: int, rows: dict[str, dict[str, Any]], name: str, reference: str) -> str:
    row, seconds = rows[name], rows[name]["seconds"]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if seconds[1:] else seconds * 3
    times, peak = ratio(rows, name, reference), row.get("peak_bytes")
    cells = [f"{length} x {row['batch_size']}", name, f"{1e3 * middle:.1f}", f"{1e3 * low:.1f} to {1e3 * high:.1f}"]
    cells += ["-" if times is None else f"{times:.2f}", f"{length * row['batch_size'] / middle:.0f}"]
    cells += ["-" if peak is None else f"{peak / 2**20:.0f}"]
    return f"| {' | '.join(cells)} |"


def goals(saved: dict[str, Any]) -> str:
    """One line a goal and length: pass, miss or not measured."""
    measured = by_length(saved)
    lines = [""]
    for goal in GOALS:
        for length in goal.lengths or measured:
            found = ratio(measured.get(length, {}), goal.above, goal.below, goal.quantity)
            if found is None:
                verdict = "not measured"
            else:
                verdict = "pass" if (found >= goal.bound if goal.at_least else found <= goal.bound) else "MISS"
            quantity = "time" if goal.quantity == "seconds" else "peak memory"
            bound = f"{'at least' if goal.at_least else 'at most'} {goal.bound:.2f}{goal.aim}"
            shown = "" if found is None else f"{found:.2f}, "
            lines.append(f"- {verdict}: {quantity} of {goal.above} / {goal.below} at {length}: {shown}goal {bound}")
    return "\n".join(lines)


def picture(saved: dict[str, Any], path: Path) -> None:
    """Time in multiples of each phase's reference and peak memory, by length, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(15, 7), width_ratios=(2, 1), layout="constrained")
    titles = {"floor": "intermediate phase", "fine-tuning": "prediction phase"}
    for column, (reference, title) in zip(axes.T, titles.items(), strict=True):
        draw(column[0], saved, reference, lambda rows, name, to=reference: ratio(rows, name, to), "{:.2f}")
        draw(column[1], saved, reference, mebibytes, "{:.0f}")
        column[0].set_title(f"{title}: time of a step / {reference}", fontsize=10)
        column[1].set_title(f"{title}: peak memory above what stays (MiB)", fontsize=10)
        for axis in column:
            axis.set_xlabel("tokens in a sequence", fontsize=9)
        if column[0].patches:
            column[0].legend(frameon=False, fontsize=8, ncols=4, loc="upper left")
    where = saved["machine"].get("gpu") or saved["machine"]["cpu"]
    figure.suptitle(f"One training step, BERT-base to TinyBERT-4 ({where}, {saved['settings']['precision']})")
    with file_beside(path) as file:
        figure.savefig(file, dpi=150, format="png")
    plt.close(figure)


def mebibytes(rows: dict[str, dict[str, Any]], name: str) -> float | None:
    peak = value(rows, name, "peak_bytes")
    return None if peak is None else peak / 2**20


def draw(axis: Any, saved: dict[str, Any], reference: str, height: Callable[..., float | None], form: str) -> None:
    """Grouped bars: a group a length, a bar a variant that was measured."""
    groups = list(by_length(saved).values())
    names = [name for name, kind in VARIANTS.items() if kind.reference == reference]
    heights = {name: [height(rows, name) for rows in groups] for name in names}
    heights = {name: values for name, values in heights.items() if any(values)}
    width = 0.85 / max(len(heights), 1)
    for place, (name, values) in enumerate(heights.items()):
        at = [group + (place - (len(heights) - 1) / 2) * width for group in range(len(groups))]
        bars = axis.bar(at, [v or 0.0 for v in values], width, label=name, color=VARIANTS[name].colour)
        axis.bar_label(bars, ["" if v is None else form.format(v) for v in values], fontsize=6, padding=2)
    axis.set_xticks(range(len(groups)), [str(length) for length in by_length(saved)])
    axis.margins(y=0.3)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.set_visible(bool(heights))


def write(path: Path, content: bytes) -> None:
    """Written beside and renamed: what was there stays whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_beside(path) as file:
        file.write_bytes(content)


if __name__ == "__main__":
    main()
