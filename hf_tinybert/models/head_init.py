"""Initial bias of new multi-label heads: the labels' frequencies.

With many rare labels, training first drives every output of a new head far below one half. At usual learning rates it
does so through the features, which become alike for all texts, and learning stops. A bias that starts at the labels'
frequencies avoids this (RetinaNet, Lin et al. 2017, section 4.1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def output_bias(model: PreTrainedModel) -> tuple[str, nn.Parameter] | None:
    """The bias of a classifier's last linear layer, and its name; None where it has none."""
    bias = None
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Linear)
            and module.out_features == model.config.num_labels
            and module.bias is not None
        ):
            bias = (f"{name}.bias", module.bias)
    return bias


def start_at_frequencies(model: PreTrainedModel, missing: Collection[str], rows: Sequence[Sequence[int]]) -> None:
    """Set the bias of a new multi-label head to the log-odds of its labels.

    Args:
        model: just loaded.
        missing: names of the weights that the checkpoint lacks.
        rows: class ids of every training example.
    """
    bias = output_bias(model)
    if bias is None or bias[0] not in missing or not rows:
        return
    counts = torch.zeros(model.config.num_labels)
    for row in rows:
        counts[list(set(row))] += 1
    share = (counts + 1) / (len(rows) + 2)
    _set(bias[1], share.logit())


def start_at_teachers(student: PreTrainedModel, missing: Collection[str], teacher: PreTrainedModel) -> None:
    """Set the bias of a new multi-label head to the teacher's; both have the same labels in the same order."""
    student_bias, teacher_bias = output_bias(student), output_bias(teacher)
    if student_bias is None or teacher_bias is None or student_bias[0] not in missing:
        return
    if student_bias[1].shape == teacher_bias[1].shape:
        _set(student_bias[1], teacher_bias[1])


def _set(bias: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        bias.copy_(values)
