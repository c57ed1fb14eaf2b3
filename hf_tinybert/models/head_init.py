"""New heads of multi-label models start at the labels' frequencies.

With many labels, each of few texts, every answer of a new head is first driven far below one half. At usual learning
rates that is done through the features, which end up alike for all texts, and nothing more is learnt. A bias that
already says how frequent each label is leaves the features alone (RetinaNet, Lin et al. 2017, section 4.1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def output_bias(model: PreTrainedModel) -> tuple[str, nn.Parameter] | None:
    """The bias of a classifier's last linear layer, and its name; None where it has none."""
    found = None
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Linear)
            and module.out_features == model.config.num_labels
            and module.bias is not None
        ):
            found = (f"{name}.bias", module.bias)
    return found


def start_at_frequencies(model: PreTrainedModel, missing: Collection[str], rows: Sequence[Sequence[int]]) -> None:
    """Set the bias of a new multi-label head to the log-odds of its labels.

    Args:
        model: just loaded.
        missing: names of weights that the checkpoint did not have.
        rows: class ids of every training example.
    """
    found = output_bias(model)
    if found is None or found[0] not in missing or not rows:
        return
    counts = torch.zeros(model.config.num_labels)
    for row in rows:
        counts[list(set(row))] += 1
    share = (counts + 1) / (len(rows) + 2)
    _set(found[1], share.logit())


def start_at_teachers(student: PreTrainedModel, missing: Collection[str], teacher: PreTrainedModel) -> None:
    """Set the bias of a new multi-label head to the teacher's; both have the same labels in the same order."""
    own, theirs = output_bias(student), output_bias(teacher)
    if own is not None and theirs is not None and own[0] in missing and own[1].shape == theirs[1].shape:
        _set(own[1], theirs[1])


def _set(bias: nn.Parameter, values: Tensor) -> None:
    with torch.no_grad():
        bias.copy_(values)
