"""The losses of outputs: equation 10, its variants for other output types, and gold labels."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tinybert.losses.hidden import hidden_loss
from hf_tinybert.losses.reductions import Reduction, check_same_shape, check_temperature, full_precision, reduced_rows


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Soft cross-entropy of softmax(z_T / t) against log_softmax(z_S / t), equation 10.

    Args:
        student_logits: `[B, C]`, or `[B, S, C]` for token-level tasks.
        teacher_logits: the same shape.
        temperature: t > 0; the paper uses 1.
        mask: `[B]` or `[B, S]`, the shape of the logits without C, or None.
        reduction: `"mean"` sums over classes and averages over real rows, times t^2 so that the size of the
            gradient does not depend on t (Hinton et al. 2015, section 2.1); `"sum"` sums over real rows
            instead. `"paper"` averages over rows and classes, without t^2.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    check_same_shape("soft_cross_entropy", student_logits, teacher_logits)
    check_temperature("soft_cross_entropy", temperature)
    with full_precision(student_logits):
        per_row = _soft_rows(student_logits.float() / temperature, teacher_logits.float() / temperature)
        if reduction == "paper":
            return per_row.mean() / student_logits.shape[-1]
        return reduced_rows(per_row * temperature**2, mask, reduction)


def soft_binary_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross-entropy of sigmoid(z_S / t) against sigmoid(z_T / t): equation 10 for each class separately.

    Args:
        student_logits: `[B, C]` of a multi-label task.
        teacher_logits: the same shape.
        temperature: t > 0.
        reduction: `"mean"` averages over classes and rows, times t^2 as in `soft_cross_entropy`; `"sum"` averages over
            classes and sums over rows; `"paper"` is the mean without t^2.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    check_same_shape("soft_binary_cross_entropy", student_logits, teacher_logits)
    check_temperature("soft_binary_cross_entropy", temperature)
    with full_precision(student_logits):
        target = torch.sigmoid(teacher_logits.float() / temperature)
        per_row = F.binary_cross_entropy_with_logits(student_logits.float() / temperature, target, reduction="none")
        scale = 1.0 if reduction == "paper" else temperature**2
        return reduced_rows(per_row.mean(-1) * scale, None, reduction)


def span_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Equation 10 for the start and the end of a span; the classes are the real positions of the sequence.

    Args:
        student_logits: `[B, S, 2]`, start and end.
        teacher_logits: the same shape.
        temperature: t > 0.
        mask: `[B, S]` or None; padding positions are no classes.
        reduction: `"mean"` averages over start and end and over rows, times t^2; `"sum"` sums over rows instead;
            `"paper"` is the mean without t^2.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    check_same_shape("span_cross_entropy", student_logits, teacher_logits)
    check_temperature("span_cross_entropy", temperature)
    with full_precision(student_logits):
        scores = (_positions(logits.float() / temperature, mask) for logits in (student_logits, teacher_logits))
        scale = 1.0 if reduction == "paper" else temperature**2
        per_row = _soft_rows(*scores).mean(-1) * scale
        return reduced_rows(per_row, None, reduction)


def span_label_loss(
    logits: Tensor,
    start: Tensor,
    end: Tensor,
    mask: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Cross-entropy of gold start and end positions, averaged over the two.

    Args:
        logits: `[B, S, 2]`.
        start: `[B]`; a position outside the sequence is ignored.
        end: `[B]`.
        mask: `[B, S]` or None; padding positions are no classes.
        label_smoothing: share of the target spread over all real positions.
        reduction: `"mean"` over rows, or `"sum"`.
    """
    with full_precision(logits):
        log_probability = F.log_softmax(_positions(logits, mask), dim=-1)
        gold = torch.stack((start, end), dim=1)
        inside = (gold >= 0) & (gold < logits.shape[1])
        chosen = log_probability.gather(-1, gold.clamp(0, logits.shape[1] - 1).unsqueeze(-1)).squeeze(-1)
        loss = -(1.0 - label_smoothing) * chosen
        if label_smoothing:
            real = torch.ones_like(logits[..., 0]) if mask is None else mask.float()
            spread = (log_probability * real.unsqueeze(1)).sum(-1) / real.sum(-1, keepdim=True)
            loss = loss - label_smoothing * spread
        return reduced_rows(loss.masked_fill(~inside, 0.0).mean(-1), None, reduction)


def regression_loss(
    student_logits: Tensor, target: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared error of predicted values, the prediction level of a regression task.

    Args:
        student_logits: `[B, C]`, C predicted values for each sequence (usually one).
        target: `[B, C]` or, for C = 1, `[B]`: the teacher's output, or the gold values as in the authors'
            code.
        mask: `[B]` or None.
        reduction: as in `hidden_loss`; `"paper"` is the plain mean.

    Raises:
        ValueError: the shapes differ.
    """
    if target.dim() == student_logits.dim() - 1 and student_logits.shape[-1] == 1:
        target = target.unsqueeze(-1)
    return hidden_loss(student_logits, target, mask, reduction)


def vector_loss(student: Tensor, teacher: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared distance of two vectors of length 1, which is 2 - 2 cos: the prediction level of a sentence encoder.

    Args:
        student: `[B, d]`, pooled vectors of any length, in the teacher's width.
        teacher: `[B, d]`.
        reduction: `"mean"` over texts (as does `"paper"`), or `"sum"`.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the two shapes differ.
    """
    check_same_shape("vector_loss", student, teacher)
    with full_precision(student):
        student_x, teacher_x = (F.normalize(x.float(), dim=-1) for x in (student, teacher))
        return reduced_rows((student_x - teacher_x).square().sum(dim=-1), None, reduction)


def hard_label_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str = "single_label_classification",
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """The ordinary task loss on gold labels, which may be mixed into the prediction level.

    Args:
        logits: `[B, C]` or `[B, S, C]`.
        labels: class ids `[B]` or `[B, S]` with -100 for ignored positions; 0/1 values `[B, C]` for
            multi-label classification; values `[B]` or `[B, C]` for regression.
        problem_type: transformers' names: `"single_label_classification"` (cross-entropy),
            `"multi_label_classification"` (binary cross-entropy, mean over classes), `"regression"` (MSE).
        label_smoothing: share of the target spread over all classes (single-label only).
        reduction: `"mean"` over labelled rows, or `"sum"`.

    Raises:
        ValueError: the problem type is unknown.
    """
    with full_precision(logits):
        logits = logits.float()
        if problem_type == "regression":
            return regression_loss(logits, labels.float(), None, reduction)
        if problem_type == "multi_label_classification":
            per_row = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
            return reduced_rows(per_row, None, reduction)
        if problem_type == "single_label_classification":
            labels = labels.view(logits.shape[:-1])
            per_row = F.cross_entropy(
                logits.flatten(0, -2),
                labels.flatten(),
                ignore_index=-100,
                reduction="none",
                label_smoothing=label_smoothing,
            )
            return reduced_rows(per_row, labels.flatten() != -100, reduction)
    raise ValueError(
        f"hard_label_loss: unknown problem_type {problem_type!r}, expected 'single_label_classification', "
        f"'multi_label_classification' or 'regression'."
    )


def _soft_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of softmax(teacher) against log_softmax(student) over the last dimension."""
    return -(F.softmax(teacher, dim=-1) * F.log_softmax(student, dim=-1)).sum(dim=-1)


def _positions(logits: Tensor, mask: Tensor | None) -> Tensor:
    """`[B, S, 2]` to `[B, 2, S]` in float32, padding at the lowest score."""
    scores = logits.float().mT
    if mask is None:
        return scores
    return scores.masked_fill(~mask.bool().unsqueeze(1), torch.finfo(scores.dtype).min)
