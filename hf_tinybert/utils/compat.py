"""The few places where transformers 4.57 and 5.x spell the same thing differently.

Features are detected, never version numbers: several minor versions lie between the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeAlias

import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import nn
from torch.types import Storage
from transformers import TrainingArguments

_Storage: TypeAlias = "Storage | torch.TypedStorage | torch.UntypedStorage"
_FIELDS = {field.name for field in dataclasses.fields(TrainingArguments)}
#: transformers 5 has `train_sampling_strategy` where 4.57 has `group_by_length`.
HAS_SAMPLING_STRATEGY = "train_sampling_strategy" in _FIELDS
#: transformers 4.57 has `warmup_ratio`; 5 has a fraction as `warmup_steps`.
HAS_WARMUP_RATIO = "warmup_ratio" in _FIELDS


def group_by_length_argument() -> dict[str, str | bool]:
    """The training argument that batches sequences of similar length together."""
    if HAS_SAMPLING_STRATEGY:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def random_order_argument() -> dict[str, str | bool]:
    """The training argument that leaves lengths alone."""
    return {"train_sampling_strategy": "random"} if HAS_SAMPLING_STRATEGY else {"group_by_length": False}


def groups_by_length(args: TrainingArguments) -> bool:
    """Whether the user asked for batches of similar length, in either spelling."""
    if HAS_SAMPLING_STRATEGY:
        return str(getattr(args, "train_sampling_strategy", "")) == "group_by_length"
    return bool(getattr(args, "group_by_length", False))


@contextmanager
def without_grouping(args: TrainingArguments) -> Iterator[None]:
    """Inside, the arguments do not ask for batches of similar length."""
    before = {name: getattr(args, name) for name in random_order_argument()}
    try:
        if groups_by_length(args):
            vars(args).update(random_order_argument())
        yield
    finally:
        vars(args).update(before)


def warmup_argument(share: float) -> dict[str, float]:
    """Warm-up over a share of the steps: `warmup_ratio` before transformers 5, a fraction after."""
    if HAS_WARMUP_RATIO:
        return {"warmup_ratio": share}
    return {"warmup_steps": share}


def compile_arguments(args: TrainingArguments) -> dict[str, str] | None:
    """The arguments of `torch.compile` that the training arguments ask for, or None for no compilation."""
    if not getattr(args, "torch_compile", False):
        return None
    given = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
    return {name: value for name, value in given.items() if value is not None}


def checkpoints_layers(model: nn.Module) -> bool:
    """Whether gradient (transformers 5: activation) checkpointing is on in a model."""
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")
    name = next((name for name in names if hasattr(type(model), name)), None)
    return name is not None and bool(getattr(model, name))


@cache
def let_cpus_have_numbers() -> None:
    """Have `torch.load` understand `map_location="cpu:1"`.

    The Trainer asks for that when it resumes in one of several processes on a CPU, and torch knows "cpu" only.
    """

    def restore(storage: _Storage, location: str) -> _Storage | None:
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(0, lambda storage: None, restore)


def connection_errors() -> tuple[type[Exception], ...]:
    """What the Hub client raises where a request got no answer: the widest error of the HTTP library below it."""
    left_out = ("huggingface_hub", "builtins")
    of_library = [c for c in HfHubHTTPError.__mro__ if c.__module__.partition(".")[0] not in left_out]
    return (*of_library[-1:], ConnectionError, TimeoutError)
