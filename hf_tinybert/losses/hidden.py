"""The losses of hidden states and embeddings: equations 8 and 9."""

from __future__ import annotations

from torch import Tensor

from hf_tinybert.losses.kernels import SquaredDistance
from hf_tinybert.losses.reductions import (
    Reduction,
    check_same_shape,
    count_of,
    full_precision,
    padding_of,
    reduced,
)


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Mean squared error between two sequences of vectors: MSE(H_S W_h, H_T), equation 8.

    Args:
        student: `[B, S, d]`, the student's hidden states, already projected to the teacher's width.
        teacher: `[B, S, d]`.
        mask: `[B, S]` or None.
        reduction: `"mean"` averages over features and real positions, `"sum"` averages over features and
            sums over real positions, `"paper"` averages over all positions, padding included.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the two shapes differ, or the mask does not fit them.
    """
    check_same_shape("hidden_loss", student, teacher)
    with full_precision(student):
        student, teacher = student.float(), teacher.float()
        if reduction == "paper":
            return (student - teacher).square().mean()
        total = SquaredDistance.apply(student, teacher, padding_of(mask, student.shape[:-1]))
        return reduced(total / student.shape[-1], count_of(mask, student[..., 0]), reduction)


def embedding_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared error of the embedding blocks' outputs: MSE(E_S W_e, E_T), equation 9.

    E is the output of the embedding block, after its LayerNorm, not a row of the lookup table. Shapes,
    reductions and errors are those of `hidden_loss`.
    """
    return hidden_loss(student, teacher, mask, reduction)
