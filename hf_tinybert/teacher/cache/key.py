"""What a cache belongs to: its key changes with everything that changes the teacher's outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_tinybert.teacher.cache import rows
from hf_tinybert.teacher.cache.layout import Layout
from hf_tinybert.utils.hashing import weights_digest

#: Raise it when the meaning of the files changes.
FORMAT = 1
#: Parts of a configuration that do not enter a forward pass.
_IDLE = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id", "torch_dtype", "dtype")


def contents(
    teachers: Sequence[tuple[PreTrainedModel, float]],
    dataset: Dataset,
    inputs: Iterable[str],
    layout: Layout,
    autocast: str,
) -> dict[str, Any]:
    """What the key is made of.

    Args:
        teachers: usually one, with its share of the logits; weights and configuration count, not the name, and of
            several also their labels.
        dataset: the values of its rows count, not its file.
        inputs: names of what the teacher's forward pass takes.
        layout: which layers, which type, with or without logits.
        autocast: the mixed precision in which the teacher runs.
    """
    described = [_described(teacher) for teacher, _ in teachers]
    read = [name for name in dataset.column_names if name in inputs]
    return {
        "format": FORMAT,
        "teacher": described[0],
        "data": {"columns": sorted(read), "rows": len(dataset), "values": rows.digest(dataset, read)},
        "layout": layout.as_dict(),
        "autocast": autocast,
        "matmul": _matmul_precision(),
        **({} if len(teachers) == 1 else {"several": _shares(teachers, described)}),
    }


def _described(teacher: PreTrainedModel) -> dict[str, Any]:
    config = {name: value for name, value in teacher.config.to_dict().items() if name not in _IDLE}
    return {"class": type(teacher).__name__, "weights": weights_digest(teacher), "config": config}


def _shares(
    teachers: Sequence[tuple[PreTrainedModel, float]], described: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Of several teachers each with its share of the logits, and the labels by which these are matched."""
    return [
        {"share": share, "labels": teacher.config.id2label, **known}
        for (teacher, share), known in zip(teachers, described, strict=True)
    ]


def _matmul_precision() -> str:
    """How float32 matrices are multiplied: older versions of torch have one setting, newer ones one a backend."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return torch.get_float32_matmul_precision()
    ways: list[tuple[Any, ...]] = [
        (backends.cuda.matmul, backends),
        (backends.mkldnn.matmul, backends.mkldnn, backends),
    ]
    # "none" means what is said one level above.
    said = ([level.fp32_precision for level in way if level.fp32_precision != "none"] for way in ways)
    return ", ".join(levels[0] if levels else "ieee" for levels in said)


def key_of(contents: dict[str, Any]) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()
