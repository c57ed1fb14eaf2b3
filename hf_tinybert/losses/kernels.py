"""Kernels of the layers' losses: squared distances whose gradients are computed in the forward pass."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

#: The additive mask of BERT's original implementation, and the threshold at or below which the authors' code
#: treats a score as masked.
_PAPER_MASK_VALUE = -10000.0
_PAPER_MASKED_BELOW = -100.0


class _Context(Protocol):
    """The context of an autograd function, as far as it is used here."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors for the backward pass."""


def band(positions: int, window: int, device: torch.device) -> Tensor:
    """`[S, S]`, True for pairs at most `window` positions apart."""
    index = torch.arange(positions, device=device)
    return (index[:, None] - index[None, :]).abs() <= window


class SquaredDistance(torch.autograd.Function):
    """||student - teacher||^2 over real positions; only the difference is kept for the backward pass."""

    @staticmethod
    def forward(ctx: _Context, student: Tensor, teacher: Tensor, padding: Tensor | None) -> Tensor:
        """The distance of `[B, S, d]`, with `padding` `[B, S]`."""
        difference = student - teacher
        if padding is not None:
            difference.masked_fill_(padding.unsqueeze(-1), 0.0)
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, dim=-1).square().sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Twice the difference."""
        (difference,) = ctx.saved_tensors
        of_student = difference * (2.0 * gradient)
        return of_student, -of_student if ctx.needs_input_grad[1] else None, None


def score_distance(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, padding: Tensor | None, linear: bool, centred: bool
) -> Tensor:
    """||A_S - A_T||_F^2 over real pairs, summed over heads and sequences; both forms of `attention_loss`."""
    x, y = torch.cat([q_s, q_t.float()], dim=-1) * _scale(q_s, q_t), torch.cat([k_s, k_t.float()], dim=-1)
    if padding is not None:
        x, y = (z.masked_fill(padding[:, None, :, None], 0.0) for z in (x, y))
    if centred:
        y = _centred_keys(y, padding)
    return ((x.mT @ x) * (y.mT @ y)).sum() if linear else (x @ y.mT).square().sum()


class ScoreDistance(torch.autograd.Function):
    """`score_distance` for a frozen teacher, with its gradient computed in the forward pass.

    With D = X Y^T the gradients in X and Y are 2 D Y and 2 D^T X; with G = X^T X and H = Y^T Y they are 2 X H and
    2 Y G. Only the student's columns of them are computed and kept for the backward pass: no map, and no tensor of the
    teacher's width. With centred keys the rows of D sum to 0, and the gradients are the same.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        q_s: Tensor,
        k_s: Tensor,
        q_t: Tensor,
        k_t: Tensor,
        padding: Tensor | None,
        linear: bool,
        centred: bool,
    ) -> Tensor:
        """The distance; arguments as of `score_distance`."""
        width, wanted = q_s.shape[-1], any(ctx.needs_input_grad)
        x, y = _side_by_side(q_s, q_t, padding).mul_(_scale(q_s, q_t)), _side_by_side(k_s, k_t, padding)
        if centred:
            y = _centred_keys(y, padding)
        for_query, for_key = 2.0 / math.sqrt(width), 2.0
        if linear:
            g, h = x.mT @ x, y.mT @ y
            total = (g * h).sum()
            if wanted:
                of_query = x @ (h[..., :width] * for_query)
                ctx.save_for_backward(of_query, y @ (g[..., :width] * for_key))
        else:
            difference = x @ y.mT
            total = torch.linalg.vector_norm(difference, dim=-1).square().sum()
            if wanted:
                of_query = difference @ (y[..., :width] * for_query)
                ctx.save_for_backward(of_query, difference.mT @ (x[..., :width] * for_key))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that the forward pass has kept."""
        of_query, of_key = ctx.saved_tensors
        return gradient * of_query, gradient * of_key, None, None, None, None, None


def map_distance(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor,
    k_t: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    window: int | None,
    centred: bool,
) -> Tensor:
    """||A_S - A_T||_F^2 over the real pairs within the window, from the maps: for scores with a bias or a window."""
    difference = q_s / math.sqrt(q_s.shape[-1]) @ k_s.mT - q_t.float() / math.sqrt(q_t.shape[-1]) @ k_t.float().mT
    if bias is not None:
        difference = difference + bias
    left_out = None if padding is None else padding[:, None, :, None] | padding[:, None, None, :]
    if window is not None:
        outside = ~band(difference.shape[-1], window, difference.device)
        left_out = outside if left_out is None else left_out | outside
    if centred:
        difference = centred_rows(difference, left_out)
    elif left_out is not None:
        difference = difference.masked_fill(left_out, 0.0)
    return difference.square().sum()


def centred_rows(scores: Tensor, left_out: Tensor | None) -> Tensor:
    """Scores `[B, h, S, S]` less the mean of each row, which a softmax ignores.

    Args:
        scores: of queries (rows) and keys.
        left_out: True for pairs that do not count, which become 0, broadcast to the scores; or None.
    """
    if left_out is None:
        return scores - scores.mean(dim=-1, keepdim=True)
    count = (~left_out).sum(dim=-1, keepdim=True).clamp(min=1)
    mean = scores.masked_fill(left_out, 0.0).sum(dim=-1, keepdim=True) / count
    return (scores - mean).masked_fill(left_out, 0.0)


def _centred_keys(keys: Tensor, padding: Tensor | None) -> Tensor:
    """Keys `[B, h, S, d]`, 0 at padding, less their mean: scores with them are centred in each row."""
    if padding is None:
        return keys - keys.mean(dim=-2, keepdim=True)
    real = ~padding[:, None, :, None]
    return (keys - keys.sum(dim=-2, keepdim=True) / real.sum(dim=-2, keepdim=True).clamp(min=1)) * real


def bias_difference(student: Tensor | None, teacher: Tensor | None) -> Tensor | None:
    """The student's bias minus the teacher's, in float32; None if neither has one."""
    if student is None:
        return None if teacher is None else -teacher.float()
    return student.float() if teacher is None else student.float() - teacher.float()


def _side_by_side(student: Tensor, teacher: Tensor, padding: Tensor | None) -> Tensor:
    """`[B, h, S, d_s + d_t]`, float32, contiguous, padded rows zeroed, in one pass over both inputs."""
    width = student.shape[-1]
    both = student.new_empty(*student.shape[:-1], width + teacher.shape[-1])
    both[..., :width] = student
    both[..., width:] = teacher
    return both if padding is None else both.masked_fill_(padding[:, None, :, None], 0.0)


def linear_is_cheaper(student: Tensor, teacher: Tensor) -> bool:
    """Whether two d x d products and their gradients take fewer operations than an S x S map and its gradients."""
    positions, narrow = student.shape[-2:]
    wide = narrow + teacher.shape[-1]
    return bool(positions * (wide + 2 * narrow) >= 2 * wide * (wide + narrow))


def _scale(student: Tensor, teacher: Tensor) -> Tensor:
    """`[d_s + d_t]`, the factors that turn [Q_S, Q_T] into X: 1 / sqrt(d_s) and -1 / sqrt(d_t)."""
    widths = student.shape[-1], teacher.shape[-1]
    factors = [sign / math.sqrt(width) for sign, width in zip((1.0, -1.0), widths, strict=True)]
    return torch.cat([student.new_full((width,), factor) for width, factor in zip(widths, factors, strict=True)])


def paper_attention(
    student: tuple[Tensor, Tensor, Tensor | None],
    teacher: tuple[Tensor, Tensor, Tensor | None],
    mask: Tensor | None,
    window: int | None,
) -> Tensor:
    """The authors' loss: squared error of masked maps, scores at or below the threshold set to 0, padding included."""
    maps = []
    for queries, keys, bias in (student, teacher):
        scores = queries.float() / math.sqrt(queries.shape[-1]) @ keys.float().mT
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            scores = scores + (1.0 - mask[:, None, None, :].float()) * _PAPER_MASK_VALUE
        if window is not None:
            scores = scores.masked_fill(~band(scores.shape[-1], window, scores.device), _PAPER_MASK_VALUE)
        maps.append(torch.where(scores <= _PAPER_MASKED_BELOW, torch.zeros_like(scores), scores))
    return F.mse_loss(maps[0], maps[1])


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`[B, S, h * d]` to `[B, h, S, d]`."""
    if x.dim() != 3 or x.shape[-1] % num_heads:
        raise ValueError(
            f"attention_loss: queries and keys are [batch, positions, heads * head_size] with "
            f"{num_heads} heads, got {tuple(x.shape)}."
        )
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
