"""Timing that is fair to models of different sizes: in turns, on the same random tokens, on a machine with a name."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig

_SPECIAL = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")
_SEED = 0
_Key = TypeVar("_Key")


@torch.inference_mode()
def in_turns(calls: Mapping[_Key, Callable[[], object]], rounds: int, warm_up: int) -> dict[_Key, list[float]]:
    """Milliseconds of each call in each round.

    In a round every call has one turn, so that what else the machine does hits all alike. A turn is two calls, of
    which the second is timed: the first brings the model's weights back into the processor's caches, out of which the
    models before it have pushed them. A model that answers one request after another has them there.

    Args:
        calls: each returns when its work is done.
        rounds: turns of each call that count.
        warm_up: turns of each call before these.
    """
    times: dict[_Key, list[float]] = {key: [] for key in calls}
    for turn in range(warm_up + rounds):
        for key, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            taken = time.perf_counter() - start
            if turn >= warm_up:
                times[key].append(taken * 1000)
    return times


def medians(calls: Mapping[_Key, Callable[[], object]], rounds: int, warm_up: int) -> dict[_Key, float]:
    """Median milliseconds of each call; the arguments are those of `in_turns`."""
    return {key: statistics.median(times) for key, times in in_turns(calls, rounds, warm_up).items()}


def random_inputs(
    config: PretrainedConfig,
    batch_size: int,
    length: int,
    device: str | torch.device = "cpu",
    special_ids: frozenset[int] = frozenset(),
) -> dict[str, Tensor]:
    """Random ordinary tokens without padding, the same at every call.

    Args:
        config: says how large the vocabulary is and names special ids.
        batch_size: B.
        length: S.
        device: where the tensors shall be.
        special_ids: further ids to leave out.

    Returns:
        `input_ids` and `attention_mask`, `[B, S]`.
    """
    left_out = special_ids | {getattr(config, f"{name}_token_id", None) for name in _SPECIAL}
    ordinary = torch.tensor([token for token in range(config.vocab_size) if token not in left_out])
    chosen = torch.randint(len(ordinary), (batch_size, length), generator=torch.Generator().manual_seed(_SEED))
    ids = ordinary[chosen].to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def machine_name(device: str | torch.device) -> str:
    """What a device is called: the GPU's or the CPU's name, as its driver or the system says."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine() or "cpu"
