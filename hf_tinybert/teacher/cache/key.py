"""The key of a cache: it changes with everything that changes the teacher's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_tinybert.teacher.cache import rows
from hf_tinybert.teacher.cache.layout import Layout
from hf_tinybert.utils.hashing import json_digest, weights_digest

#: To be raised when the meaning of the files changes.
FORMAT = 1
#: Parts of a configuration that do not enter a forward pass.
_IDLE = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id", "torch_dtype", "dtype")


def contents(
    teachers: Sequence[tuple[PreTrainedModel, float]],
    dataset: Dataset,
    inputs: Iterable[str],
    layout: Layout,
    autocast: str,
) -> dict[str, object]:
    """The values from which the key is computed.

    Args:
        teachers: usually one, with its share of the logits. Weights and configuration count, the name does not; of
            several teachers the labels count, too.
        dataset: the values of its rows count, its file does not.
        inputs: names of the arguments of the teacher's forward pass.
        layout: layers, type, and whether logits are stored.
        autocast: the mixed precision in which the teacher runs.
    """
    descriptions = [_description(teacher) for teacher, _ in teachers]
    columns = [name for name in dataset.column_names if name in inputs]
    return {
        "format": FORMAT,
        "teacher": descriptions[0],
        "data": {"columns": sorted(columns), "rows": len(dataset), "values": rows.digest(dataset, columns)},
        "layout": layout.as_dict(),
        "autocast": autocast,
        "matmul": _matmul_precision(),
        **({} if len(teachers) == 1 else {"several": _shares(teachers, descriptions)}),
    }


def _description(teacher: PreTrainedModel) -> dict[str, object]:
    config = {name: value for name, value in teacher.config.to_dict().items() if name not in _IDLE}
    return {"class": type(teacher).__name__, "weights": weights_digest(teacher), "config": config}


def _shares(
    teachers: Sequence[tuple[PreTrainedModel, float]], descriptions: Sequence[dict[str, object]]
) -> list[dict[str, object]]:
    """The description of each of several teachers, with its share of the logits and its labels."""
    return [
        {"share": share, "labels": teacher.config.id2label, **description}
        for (teacher, share), description in zip(teachers, descriptions, strict=True)
    ]


def _matmul_precision() -> str:
    """The precision of float32 matrix products: one setting in older versions of torch, in newer ones two."""
    backends: ModuleType = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return torch.get_float32_matmul_precision()
    hierarchies = [(backends.cuda.matmul, backends), (backends.mkldnn.matmul, backends.mkldnn, backends)]
    # "none" stands for the setting one level above.
    settings = ([level.fp32_precision for level in levels if level.fp32_precision != "none"] for levels in hierarchies)
    return ", ".join(precisions[0] if precisions else "ieee" for precisions in settings)


def key_of(contents: dict[str, object]) -> str:
    """The key: 64 hexadecimal digits."""
    return json_digest(contents)
