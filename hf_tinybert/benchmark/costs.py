"""The cost of inference: parameters, FLOPs, file size, latency and throughput, in several runtimes.

A multiply-add counts as two FLOPs. Only matrix products are counted, as usual: in a BERT they are all but a
percent of the work.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, BertConfig, PretrainedConfig, PreTrainedModel

from hf_tinybert.benchmark.runtimes import find_runtimes, prepare
from hf_tinybert.hub.checkpoints import PROJECTIONS_NAME
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_model, load_tokenizer
from hf_tinybert.presets import PRESETS
from hf_tinybert.utils.latency import in_turns, medians, random_inputs
from hf_tinybert.utils.types import Batch, Forward

#: Architectures for comparison that need no weights: BERT-base and the presets, with BERT's vocabulary.
SHAPES: dict[str, dict[str, int]] = {
    "bert-base": {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
    },
    **PRESETS,
}
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Candidate:
    """A model to be measured.

    Attributes:
        name: its name in the table.
        path: folder or Hub id of a fine-tuned model, or None for a shape with random weights.
        shape: a name in `SHAPES` where there is no path.
    """

    name: str
    path: str | None = None
    shape: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is timed, and how.

    Attributes:
        batch_sizes: sequences in a batch.
        lengths: tokens of each sequence.
        threads: numbers of CPU threads, all else being timed with each.
        rounds: how often each model is timed for each batch size and length.
        warm_up: rounds before these, which do not count.
    """

    batch_sizes: tuple[int, ...] = (1, 32)
    lengths: tuple[int, ...] = (32, 128)
    threads: tuple[int, ...] = (1,)
    rounds: int = 30
    warm_up: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot be timed.

        Raises:
            ValueError: names the flag, what it was given and what it takes.
        """
        for flag, values in (
            ("--batch-sizes", self.batch_sizes),
            ("--lengths", self.lengths),
            ("--threads", self.threads),
        ):
            if not values or min(values) < 1 or len(set(values)) < len(values):
                given = " ".join(map(str, values)) or "nothing"
                raise ValueError(f"{flag} takes different whole numbers of at least 1, got {given}.")
        for flag, value, least in (
            ("--rounds", self.rounds, 1),
            ("--warm-up", self.warm_up, 0),
        ):
            if value < least:
                raise ValueError(f"{flag} must be at least {least}, got {value}.")


@dataclass(frozen=True)
class ModelCost:
    """What a model in a runtime costs, whatever the batch.

    Attributes:
        name: of the model.
        runtime: one of `runtimes.RUNTIMES`.
        random_weights: whether it is a shape only.
        parameters: all of them.
        flops: length in tokens -> floating-point operations of the forward pass of one such sequence; the model's,
            in whatever numbers a runtime computes.
        bytes_on_disk: size of the weight files, or None where it is not known.
        size_is_computed: whether there is no file, and the size is what it would be.
    """

    name: str
    runtime: str
    random_weights: bool
    parameters: int
    flops: dict[int, int]
    bytes_on_disk: int | None
    size_is_computed: bool

    @property
    def label(self) -> str:
        """Model and runtime, as the table has them."""
        return f"{self.name}{' (random weights)' if self.random_weights else ''}, {self.runtime}"


@dataclass(frozen=True)
class Timing:
    """How long a model takes in a runtime for one batch size and length.

    Attributes:
        name: of the model.
        runtime: one of `runtimes.RUNTIMES`.
        threads: CPU threads.
        batch_size: sequences in the batch.
        length: tokens of each.
        median_ms: median milliseconds of a batch.
        p95_ms: the milliseconds that 95 % of the batches stay below.
        sequences_per_second: throughput at the median.
        speed_up: the baseline's median over this one's.
    """

    name: str
    runtime: str
    threads: int
    batch_size: int
    length: int
    median_ms: float
    p95_ms: float
    sequences_per_second: float
    speed_up: float


@dataclass(frozen=True)
class _Contender:
    """A model in a runtime; `opened` returns the forward pass for a number of CPU threads."""

    cost: ModelCost
    opened: Callable[[int], Forward]
    config: PretrainedConfig
    special_ids: frozenset[int]


def find_candidates(models: Sequence[str], shapes: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """The models and shapes that were named, the models first.

    Args:
        models: folders or Hub ids, each as it is or as `name=path`; a folder without a name has its last part.
        shapes: names in `SHAPES`.

    Raises:
        ValueError: nothing was named, a name or path is empty, two have the same name, or there is no such shape.
    """
    candidates = []
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or os.path.isdir(text):
            name, path = os.path.basename(os.path.abspath(text)) if os.path.isdir(text) else text, text
        if not name or not path:
            raise ValueError(f"--models takes a folder, a Hub id or name=path, got {text!r}.")
        candidates.append(Candidate(name, path=path))
    for shape in shapes:
        if shape not in SHAPES:
            raise ValueError(f"Unknown shape {shape!r}; the shapes are {', '.join(SHAPES)}.")
        candidates.append(Candidate(shape, shape=shape))
    if not candidates:
        raise ValueError("Nothing to measure: give --models or --shapes.")
    names = [candidate.name for candidate in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two models are called {twice!r}; tell them apart with --models name=path.")
    return tuple(candidates)


def measure(
    candidates: Sequence[Candidate],
    plan: Plan,
    runtimes: Sequence[str] = (),
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
    baseline: str | None = None,
) -> tuple[list[ModelCost], list[Timing]]:
    """Measure models in runtimes, all of them taking turns for each number of threads, batch size and length.

    Args:
        candidates: the models.
        plan: what to time, and how.
        runtimes: names in `runtimes.RUNTIMES`; none for all that work here.
        device: where to run.
        progress: is called with a line of text before each step.
        baseline: name of the model against which speed-ups are counted, in its first runtime and with as many
            threads; the first by default.

    Returns:
        A row for each model in each runtime; and such a row for each number of threads, batch size and length.

    Raises:
        ValueError: a runtime does not work here, a model cannot be loaded, a length is beyond a model's positions, or
            the baseline is none of the models; all before anything is timed.
    """
    device = torch.device(device)
    report = progress or (lambda text: None)
    names = find_runtimes(runtimes, device)
    model_names = [candidate.name for candidate in candidates]
    if baseline is not None and baseline not in model_names:
        raise ValueError(f"--baseline must be one of the models, {', '.join(model_names)}; got {baseline!r}.")
    first = model_names.index(baseline) * len(names) if baseline else 0
    loaded = [(candidate, _load(candidate, plan.lengths, device)) for candidate in candidates]
    contenders: list[_Contender] = []
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for candidate, model in loaded:
            report(f"preparing {candidate.name}")
            contenders += _contenders(candidate, model, names, plan, scratch)
        for threads in plan.threads:
            with _threads(threads):
                forwards = [contender.opened(threads) for contender in contenders]
                for batch_size, length in product(plan.batch_sizes, plan.lengths):
                    report(f"timing batches of {batch_size}, {length} tokens, threads: {threads}")
                    times = _time(contenders, forwards, batch_size, length, plan, device)
                    shape = {"threads": threads, "batch_size": batch_size, "length": length}
                    timings += _timings(contenders, times, times[first], shape)
    return [contender.cost for contender in contenders], timings


def latency(
    models: Mapping[str, PreTrainedModel], length: int, rounds: int = 40, warm_up: int = 5
) -> dict[str, float]:
    """Median milliseconds of one sequence of `length` tokens, the models taking turns."""
    calls = {
        name: partial(_finish, model.eval(), random_inputs(model.config, 1, length, model.device))
        for name, model in models.items()
    }
    return medians(calls, rounds, warm_up)


@torch.inference_mode()
def count_flops(model: PreTrainedModel, length: int) -> int:
    """Floating-point operations of the forward pass of one sequence; a multiply-add is two."""
    inputs = random_inputs(model.config, 1, length, model.device)
    # The counter does not know every fused attention kernel (the CPU's is missing) and takes it for free.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


def bytes_on_disk(folder: str | os.PathLike[str]) -> int | None:
    """The size of a folder's weight files, or None if it is no folder or has none."""
    files = {path for pattern in _WEIGHTS for path in Path(folder).glob(pattern) if path.name != PROJECTIONS_NAME}
    return sum(path.stat().st_size for path in files) or None


def _load(candidate: Candidate, lengths: Sequence[int], device: torch.device) -> PreTrainedModel:
    """The model in eval mode on its device; refuses lengths beyond its positions."""
    if candidate.path is None:
        model = AutoModelForSequenceClassification.from_config(BertConfig(**SHAPES[str(candidate.shape)]))
    else:
        kwargs = {"dtype": torch.float32}
        try:
            model = load_model(candidate.path, AutoModelForSequenceClassification, kwargs, role="model")
        except OSError as error:
            raise ValueError(f"The model {candidate.path} cannot be loaded: {error}") from error
    try:
        limit = Encoder.from_model(model).max_length
    except ValueError:  # a family that cannot be distilled can be timed all the same
        limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and max(lengths) > limit:
        raise ValueError(f"--lengths has {max(lengths)}; the model {candidate.name} takes 1 to {limit} tokens.")
    return model.to(device).eval()


def _contenders(
    candidate: Candidate, model: PreTrainedModel, names: Sequence[str], plan: Plan, scratch: str
) -> Iterator[_Contender]:
    """The model in each runtime."""
    shape_only = candidate.path is None
    parameters = model.num_parameters()
    flops = {length: count_flops(model, length) for length in plan.lengths}
    special_ids = _special_ids(candidate.path)
    for runtime in names:
        opened, size = prepare(runtime, model, candidate.path, scratch)
        computed = runtime == "pytorch-int8" or (shape_only and runtime == "pytorch")
        if size is None:
            size = 4 * parameters if candidate.path is None else bytes_on_disk(candidate.path)
        cost = ModelCost(candidate.name, runtime, shape_only, parameters, flops, size, computed)
        yield _Contender(cost, opened, model.config, special_ids)


def _time(
    contenders: Sequence[_Contender],
    forwards: Sequence[Forward],
    batch_size: int,
    length: int,
    plan: Plan,
    device: torch.device,
) -> list[list[float]]:
    """Milliseconds of every contender."""
    calls = {}
    for index, (contender, forward) in enumerate(zip(contenders, forwards, strict=True)):
        inputs = random_inputs(contender.config, batch_size, length, device, contender.special_ids)
        calls[index] = partial(_finish, forward, inputs)
    return list(in_turns(calls, plan.rounds, plan.warm_up).values())


def _timings(
    contenders: Sequence[_Contender],
    times: Sequence[Sequence[float]],
    baseline: Sequence[float],
    shape: dict[str, int],
) -> Iterator[Timing]:
    for contender, taken in zip(contenders, times, strict=True):
        median = statistics.median(taken)
        yield Timing(
            name=contender.cost.name,
            runtime=contender.cost.runtime,
            **shape,
            median_ms=median,
            p95_ms=float(torch.tensor(taken, dtype=torch.float64).quantile(0.95)),
            sequences_per_second=shape["batch_size"] * 1000 / median,
            speed_up=statistics.median(baseline) / median,
        )


def _finish(forward: Forward, inputs: Batch) -> None:
    """Run a forward pass to its end."""
    forward(**inputs)
    if inputs["input_ids"].device.type == "cuda":
        torch.cuda.synchronize()


def _special_ids(path: str | None) -> frozenset[int]:
    """The special ids of the tokenizer that is saved with a model, if there is one."""
    if path is None:
        return frozenset()
    try:
        return frozenset(load_tokenizer(path, "model").all_special_ids)
    except (ValueError, OSError):
        return frozenset()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
