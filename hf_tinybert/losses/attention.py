"""The losses of attention scores, equation 7, and of MiniLMv2's relations."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tinybert.losses.kernels import (
    ScoreDistance,
    band,
    bias_difference,
    linear_is_cheaper,
    map_distance,
    paper_attention,
    score_distance,
    split_heads,
)
from hf_tinybert.losses.reductions import (
    Reduction,
    check_same_shape,
    full_precision,
    padding_of,
    reduced,
    reduced_rows,
)


def attention_loss(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    num_heads: int,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    form: Literal["auto", "linear", "map"] = "auto",
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    window: int | None = None,
    centred: bool = False,
) -> Tensor:
    """Mean over heads of MSE(A_S, A_T) with A = Q K^T / sqrt(d_head), before the softmax: equation 7.

    Args:
        student_query: `[B, S, h * d_s]`, the output of the student's query projection.
        student_key: `[B, S, h * d_s]`.
        teacher_query: `[B, S, h * d_t]`.
        teacher_key: `[B, S, h * d_t]`.
        num_heads: h, the same for both models.
        mask: `[B, S]` or None. A pair (query, key) counts if both are real positions.
        reduction: `"mean"` averages over heads and over the real pairs of the batch, `"sum"` averages over
            heads and sums over real pairs. `"paper"` averages over all pairs, with scores at or below -100
            after BERT's additive mask set to 0 in both maps, so that rows of padding queries stay in; it is
            always computed from the maps.
        form: with X = [Q_S / sqrt(d_s), -Q_T / sqrt(d_t)] and Y = [K_S, K_T] the loss is ||X Y^T||_F^2.
            `"map"` builds that S x S map, in O(S^2 (d_s + d_t)) time. `"linear"` uses
            sum((X^T X) * (Y^T Y)) instead, in O(S (d_s + d_t)^2). The two are equal up to float32 rounding,
            which is relative to the size of the scores: 2e-8 of a loss of order 1, 5e-3 of a loss of 2e-6.
            `"auto"` takes the one with fewer operations, gradient included: the map in short sequences, or where
            there is a bias or a window.
        student_bias: `[B, h, S, S]`, added to the student's scores (terms of relative positions), or None.
        teacher_bias: the same for the teacher.
        window: only pairs at most so many positions apart count; None: all do.
        centred: compare scores less the mean of each query's row, which the softmax ignores (not with `"paper"`).

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes do not fit each other, a width is no multiple of `num_heads`, or `form="linear"` is
            given with a bias or a window, where it does not hold.
    """
    check_same_shape("attention_loss (student's query and key)", student_query, student_key)
    check_same_shape("attention_loss (teacher's query and key)", teacher_query, teacher_key)
    if student_query.shape[:-1] != teacher_query.shape[:-1]:
        raise ValueError(
            "attention_loss: student and teacher have different positions, "
            f"{tuple(student_query.shape[:-1])} and {tuple(teacher_query.shape[:-1])}."
        )
    with full_precision(student_query):
        queries_s, keys_s = (split_heads(x.float(), num_heads) for x in (student_query, student_key))
        queries_t, keys_t = (split_heads(x, num_heads) for x in (teacher_query, teacher_key))
        if form not in ("auto", "linear", "map"):
            raise ValueError(f"attention_loss: form is 'auto', 'linear' or 'map', got {form!r}.")
        if window is not None and student_query.shape[1] <= window + 1:
            window = None
        bias = bias_difference(student_bias, teacher_bias)
        if reduction == "paper":
            return paper_attention((queries_s, keys_s, student_bias), (queries_t, keys_t, teacher_bias), mask, window)
        padding = padding_of(mask, student_query.shape[:-1])
        if bias is not None or window is not None:
            if form == "linear":
                raise ValueError("attention_loss: the linear form does not hold with a bias or a window.")
            total = map_distance(queries_s, keys_s, queries_t, keys_t, bias, padding, window, centred)
        else:
            linear = form == "linear" or (form == "auto" and linear_is_cheaper(queries_s, queries_t))
            frozen = not (queries_t.requires_grad or keys_t.requires_grad)
            distance = ScoreDistance.apply if frozen else score_distance
            total = distance(queries_s, keys_s, queries_t, keys_t, padding, linear, centred)
        if reduction == "sum":
            return total / num_heads
        real = student_query.new_ones(student_query.shape[:-1]) if mask is None else mask
        return reduced(total / num_heads, real_pairs(real, window), reduction)


def relation_loss(
    student: Tensor, teacher: Tensor, num_heads: int, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """KL divergence of self-attention relations: softmax(X X^T / sqrt(d)) of each head, teacher's against student's.

    X is a layer's queries, keys or values, re-split into `num_heads` relation heads, whatever the number of
    attention heads (Wang et al. 2021, "MiniLMv2", arXiv 2012.15828, equations 4 to 6).

    Args:
        student: `[B, S, h * d_s]`.
        teacher: `[B, S, h * d_t]`.
        num_heads: h, the number of relation heads.
        mask: `[B, S]` or None. Padding is excluded, both as rows and as positions that rows attend to.
        reduction: `"mean"` averages over heads and real rows; `"sum"` averages over heads and sums over real rows;
            `"paper"` averages over all rows.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes do not fit each other, or a width is no multiple of `num_heads`.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"relation_loss: student and teacher have different positions, {tuple(student.shape[:-1])} and "
            f"{tuple(teacher.shape[:-1])}."
        )
    with full_precision(student):
        padding = padding_of(mask, student.shape[:-1])
        maps = []
        for x in (student, teacher):
            heads = split_heads(x.float(), num_heads)
            relation = heads @ heads.mT / math.sqrt(heads.shape[-1])
            if padding is not None:
                relation = relation.masked_fill(padding[:, None, None, :], torch.finfo(relation.dtype).min)
            maps.append(F.log_softmax(relation, dim=-1))
        per_row = F.kl_div(maps[0], maps[1], reduction="none", log_target=True).sum(-1).mean(1)
        return reduced_rows(per_row, None if reduction == "paper" else mask, reduction)


def real_pairs(mask: Tensor, window: int | None = None) -> Tensor:
    """How many pairs (query, key) of real positions a batch has, at most `window` positions apart; a scalar.

    Args:
        mask: `[B, S]`, 1 for a real position.
        window: None counts all pairs.
    """
    real = mask.bool().float()
    if window is None:
        return real.sum(-1).square().sum()
    return ((real @ band(mask.shape[-1], window, mask.device).float()) * real).sum()
