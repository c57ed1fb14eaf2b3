"""The distillation losses of TinyBERT (Jiao et al. 2020, arXiv 1909.10351), as pure functions of tensors.

Every function works in float32 whatever the input's type and whether or not autocast is on, and takes a
`reduction`:

- `"mean"` (default): the mean over real positions. A position with mask 0 changes neither the loss nor any
  gradient, so padding a batch further changes nothing.
- `"sum"`: the same without the division, so that several micro-batches and processes can be added up and
  divided by their common count (see `hf_tinybert.distillation.objective`).
- `"paper"`: what the authors' code computes, padding included; it differs from the paper's equations and is
  meant for numerical comparison. Each function's docstring says how.

Shapes: B sequences, S positions, d features, h heads, C classes. A mask is `[B, S]`, 1 (or True) for a real
position and 0 for padding; without a mask every position is real.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "paper"]

#: The additive mask of BERT's original implementation, and the threshold below which the authors' code
#: takes a score for a masked one.
_PAPER_MASK_VALUE = -10000.0
_PAPER_MASKED_BELOW = -100.0


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
    _check_same_shape("hidden_loss", student, teacher)
    with _full_precision(student):
        student, teacher = student.float(), teacher.float()
        if reduction == "paper":
            return (student - teacher).square().mean()
        total = _SquaredDistance.apply(student, teacher, _padding(mask, student.shape[:-1]))
        return _reduce(total / student.shape[-1], _count(mask, student[..., 0]), reduction)


def embedding_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared error of the embedding blocks' outputs: MSE(E_S W_e, E_T), equation 9.

    E is the output of the embedding block, after its LayerNorm, not a row of the lookup table. Shapes,
    reductions and errors are those of `hidden_loss`.
    """
    return hidden_loss(student, teacher, mask, reduction)


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

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes do not fit each other, a width is no multiple of `num_heads`, or the linear form is
            asked for with a bias or a window, where it does not hold.
    """
    _check_same_shape("attention_loss (student's query and key)", student_query, student_key)
    _check_same_shape("attention_loss (teacher's query and key)", teacher_query, teacher_key)
    if student_query.shape[:-1] != teacher_query.shape[:-1]:
        raise ValueError(
            f"attention_loss: student and teacher see different positions, "
            f"{tuple(student_query.shape[:-1])} and {tuple(teacher_query.shape[:-1])}."
        )
    with _full_precision(student_query):
        queries_s, keys_s = (_split_heads(x.float(), num_heads) for x in (student_query, student_key))
        queries_t, keys_t = (_split_heads(x, num_heads) for x in (teacher_query, teacher_key))
        if form not in ("auto", "linear", "map"):
            raise ValueError(f"attention_loss: form is 'auto', 'linear' or 'map', got {form!r}.")
        if window is not None and student_query.shape[1] <= window + 1:
            window = None
        bias = _bias_difference(student_bias, teacher_bias)
        if reduction == "paper":
            return _paper_attention((queries_s, keys_s, student_bias), (queries_t, keys_t, teacher_bias), mask, window)
        padding = _padding(mask, student_query.shape[:-1])
        if bias is not None or window is not None:
            if form == "linear":
                raise ValueError("attention_loss: the linear form does not hold with a bias or a window.")
            total = _map_distance(queries_s, keys_s, queries_t, keys_t, bias, padding, window)
        else:
            linear = form == "linear" or (form == "auto" and _linear_is_cheaper(queries_s, queries_t))
            frozen = not (queries_t.requires_grad or keys_t.requires_grad)
            distance = _ScoreDistance.apply if frozen else _score_distance
            total = distance(queries_s, keys_s, queries_t, keys_t, padding, linear)
        if reduction == "sum":
            return total / num_heads
        real = student_query.new_ones(student_query.shape[:-1]) if mask is None else mask
        return _reduce(total / num_heads, real_pairs(real, window), reduction)


def relation_loss(
    student: Tensor, teacher: Tensor, num_heads: int, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """KL divergence of self-attention relations: softmax(X X^T / sqrt(d)) of each head, teacher's against student's.

    X is a layer's queries, keys or values, split anew into `num_heads` relation heads, whatever the number of
    attention heads (Wang et al. 2021, "MiniLMv2", arXiv 2012.15828, equations 4 to 6).

    Args:
        student: `[B, S, h * d_s]`.
        teacher: `[B, S, h * d_t]`.
        num_heads: h, the number of relation heads.
        mask: `[B, S]` or None. Padding takes no part, neither as a row nor as what rows attend to.
        reduction: `"mean"` averages over heads and real rows; `"sum"` averages over heads and sums over real rows;
            `"paper"` averages over all rows.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: the shapes do not fit each other, or a width is no multiple of `num_heads`.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"relation_loss: student and teacher see different positions, {tuple(student.shape[:-1])} and "
            f"{tuple(teacher.shape[:-1])}."
        )
    with _full_precision(student):
        padding = _padding(mask, student.shape[:-1])
        maps = []
        for side in (student, teacher):
            heads = _split_heads(side.float(), num_heads)
            relation = heads @ heads.mT / math.sqrt(heads.shape[-1])
            if padding is not None:
                relation = relation.masked_fill(padding[:, None, None, :], torch.finfo(relation.dtype).min)
            maps.append(F.log_softmax(relation, dim=-1))
        per_row = F.kl_div(maps[0], maps[1], reduction="none", log_target=True).sum(-1).mean(1)
        return _reduce_rows(per_row, None if reduction == "paper" else mask, reduction)


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
    _check_same_shape("soft_cross_entropy", student_logits, teacher_logits)
    _check_temperature("soft_cross_entropy", temperature)
    with _full_precision(student_logits):
        per_row = _soft_rows(student_logits.float() / temperature, teacher_logits.float() / temperature)
        if reduction == "paper":
            return per_row.mean() / student_logits.shape[-1]
        return _reduce_rows(per_row * temperature**2, mask, reduction)


def soft_binary_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """Binary cross-entropy of sigmoid(z_S / t) against sigmoid(z_T / t): equation 10 for each class by itself.

    Args:
        student_logits: `[B, C]` of a multi-label task.
        teacher_logits: the same shape.
        temperature: t > 0.
        reduction: `"mean"` averages over classes and rows, times t^2 as in `soft_cross_entropy`; `"sum"` averages over
            classes and sums over rows; `"paper"` is the mean without t^2.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    _check_same_shape("soft_binary_cross_entropy", student_logits, teacher_logits)
    _check_temperature("soft_binary_cross_entropy", temperature)
    with _full_precision(student_logits):
        target = torch.sigmoid(teacher_logits.float() / temperature)
        per_row = F.binary_cross_entropy_with_logits(student_logits.float() / temperature, target, reduction="none")
        scale = 1.0 if reduction == "paper" else temperature**2
        return _reduce_rows(per_row.mean(-1) * scale, None, reduction)


def span_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Equation 10 for the start and the end of a span, where the classes are the real positions of the sequence.

    Args:
        student_logits: `[B, S, 2]`, start and end.
        teacher_logits: the same shape.
        temperature: t > 0.
        mask: `[B, S]` or None; padding is no class.
        reduction: `"mean"` averages over start and end and over rows, times t^2; `"sum"` sums over rows instead;
            `"paper"` is the mean without t^2.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.
    """
    _check_same_shape("span_cross_entropy", student_logits, teacher_logits)
    _check_temperature("span_cross_entropy", temperature)
    with _full_precision(student_logits):
        scores = (_positions(logits.float() / temperature, mask) for logits in (student_logits, teacher_logits))
        scale = 1.0 if reduction == "paper" else temperature**2
        per_row = _soft_rows(*scores).mean(-1) * scale
        return _reduce_rows(per_row, None, reduction)


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
        start: `[B]`; a position outside the sequence does not count.
        end: `[B]`.
        mask: `[B, S]` or None; padding is no class.
        label_smoothing: share of the target spread over all real positions.
        reduction: `"mean"` over rows, or `"sum"`.
    """
    with _full_precision(logits):
        log_probability = F.log_softmax(_positions(logits, mask), dim=-1)
        gold = torch.stack((start, end), dim=1)
        inside = (gold >= 0) & (gold < logits.shape[1])
        chosen = log_probability.gather(-1, gold.clamp(0, logits.shape[1] - 1).unsqueeze(-1)).squeeze(-1)
        loss = -(1.0 - label_smoothing) * chosen
        if label_smoothing:
            real = torch.ones_like(logits[..., 0]) if mask is None else mask.float()
            spread = (log_probability * real.unsqueeze(1)).sum(-1) / real.sum(-1, keepdim=True)
            loss = loss - label_smoothing * spread
        return _reduce_rows(loss.masked_fill(~inside, 0.0).mean(-1), None, reduction)


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
    _check_same_shape("vector_loss", student, teacher)
    with _full_precision(student):
        ours, theirs = (F.normalize(x.float(), dim=-1) for x in (student, teacher))
        return _reduce_rows((ours - theirs).square().sum(dim=-1), None, reduction)


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
    with _full_precision(logits):
        logits = logits.float()
        if problem_type == "regression":
            return regression_loss(logits, labels.float(), None, reduction)
        if problem_type == "multi_label_classification":
            per_row = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
            return _reduce_rows(per_row, None, reduction)
        if problem_type == "single_label_classification":
            labels = labels.view(logits.shape[:-1])
            per_row = F.cross_entropy(
                logits.flatten(0, -2),
                labels.flatten(),
                ignore_index=-100,
                reduction="none",
                label_smoothing=label_smoothing,
            )
            return _reduce_rows(per_row, labels.flatten() != -100, reduction)
    raise ValueError(
        f"hard_label_loss: unknown problem_type {problem_type!r}, expected 'single_label_classification', "
        f"'multi_label_classification' or 'regression'."
    )


def band(positions: int, window: int, device: torch.device) -> Tensor:
    """`[S, S]`, True for pairs at most `window` positions apart."""
    places = torch.arange(positions, device=device)
    return (places[:, None] - places[None, :]).abs() <= window


class _SquaredDistance(torch.autograd.Function):
    """||student - teacher||^2 over real positions: one difference, kept for the backward pass, and nothing else."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, padding: Tensor | None) -> Tensor:
        difference = student - teacher
        if padding is not None:
            difference.masked_fill_(padding.unsqueeze(-1), 0.0)
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, dim=-1).square().sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (difference,) = ctx.saved_tensors
        of_student = difference * (2.0 * gradient)
        return of_student, -of_student if ctx.needs_input_grad[1] else None, None


def _score_distance(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, padding: Tensor | None, linear: bool
) -> Tensor:
    """||A_S - A_T||_F^2 over real pairs, summed over heads and sequences; both forms of `attention_loss`."""
    x, y = torch.cat([q_s, q_t.float()], dim=-1) * _scale(q_s, q_t), torch.cat([k_s, k_t.float()], dim=-1)
    if padding is not None:
        x, y = (z.masked_fill(padding[:, None, :, None], 0.0) for z in (x, y))
    return ((x.mT @ x) * (y.mT @ y)).sum() if linear else (x @ y.mT).square().sum()


class _ScoreDistance(torch.autograd.Function):
    """`_score_distance` for a frozen teacher, with its gradient found on the way forward.

    With D = X Y^T the gradients in X and Y are 2 D Y and 2 D^T X; with G = X^T X and H = Y^T Y they are 2 X H and
    2 Y G. Only the student's columns of them are computed, and only these are kept for the backward pass: no map, and
    nothing of the teacher's width.
    """

    @staticmethod
    def forward(
        ctx: Any, q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, padding: Tensor | None, linear: bool
    ) -> Tensor:
        width, wanted = q_s.shape[-1], any(ctx.needs_input_grad)
        x, y = _side_by_side(q_s, q_t, padding).mul_(_scale(q_s, q_t)), _side_by_side(k_s, k_t, padding)
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_query, of_key = ctx.saved_tensors
        return gradient * of_query, gradient * of_key, None, None, None, None


def _map_distance(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor,
    k_t: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    window: int | None,
) -> Tensor:
    """||A_S - A_T||_F^2 over the pairs that count, from the maps: for scores that are more than Q K^T."""
    difference = q_s / math.sqrt(q_s.shape[-1]) @ k_s.mT - q_t.float() / math.sqrt(q_t.shape[-1]) @ k_t.float().mT
    if bias is not None:
        difference = difference + bias
    if padding is not None:
        difference = difference.masked_fill(padding[:, None, :, None] | padding[:, None, None, :], 0.0)
    if window is not None:
        difference = difference.masked_fill(~band(difference.shape[-1], window, difference.device), 0.0)
    return difference.square().sum()


def _bias_difference(student: Tensor | None, teacher: Tensor | None) -> Tensor | None:
    if student is None:
        return None if teacher is None else -teacher.float()
    return student.float() if teacher is None else student.float() - teacher.float()


def _side_by_side(student: Tensor, teacher: Tensor, padding: Tensor | None) -> Tensor:
    """`[B, h, S, d_s + d_t]`, float32, contiguous, padded rows zeroed: one pass over what the models gave."""
    width = student.shape[-1]
    both = student.new_empty(*student.shape[:-1], width + teacher.shape[-1])
    both[..., :width] = student
    both[..., width:] = teacher
    return both if padding is None else both.masked_fill_(padding[:, None, :, None], 0.0)


def _linear_is_cheaper(student: Tensor, teacher: Tensor) -> bool:
    """Whether two d x d products and their gradients take fewer operations than an S x S map and its gradients."""
    positions, narrow = student.shape[-2:]
    wide = narrow + teacher.shape[-1]
    return bool(positions * (wide + 2 * narrow) >= 2 * wide * (wide + narrow))


def _scale(student: Tensor, teacher: Tensor) -> Tensor:
    """`[d_s + d_t]`, the factors that make [Q_S, Q_T] into X: 1 / sqrt(d_s) and -1 / sqrt(d_t)."""
    widths = student.shape[-1], teacher.shape[-1]
    factors = [sign / math.sqrt(width) for sign, width in zip((1.0, -1.0), widths, strict=True)]
    return torch.cat([student.new_full((width,), factor) for width, factor in zip(widths, factors, strict=True)])


def _paper_attention(
    student: tuple[Tensor, Tensor, Tensor | None],
    teacher: tuple[Tensor, Tensor, Tensor | None],
    mask: Tensor | None,
    window: int | None,
) -> Tensor:
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


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`[B, S, h * d]` to `[B, h, S, d]`."""
    if x.dim() != 3 or x.shape[-1] % num_heads:
        raise ValueError(
            f"attention_loss: queries and keys are [batch, positions, heads * head_size] with "
            f"{num_heads} heads, got {tuple(x.shape)}."
        )
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(device_type=like.device.type, enabled=False)


def _padding(mask: Tensor | None, shape: tuple[int, ...] | torch.Size) -> Tensor | None:
    """True where a position is padding; None where nothing is, as far as that is known without a wait."""
    if mask is None:
        return None
    if mask.shape != torch.Size(shape):
        raise ValueError(f"The mask's shape {tuple(mask.shape)} does not fit the positions {tuple(shape)}.")
    real = mask.bool()
    return None if real.device.type == "cpu" and not torch.compiler.is_compiling() and real.all() else ~real


def _count(mask: Tensor | None, per_position: Tensor) -> Tensor:
    if mask is None:
        return torch.full((), float(per_position.numel()), device=per_position.device)
    return mask.bool().sum().float()


def _reduce_rows(per_row: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    padding = _padding(mask, per_row.shape)
    if padding is not None:
        per_row = per_row.masked_fill(padding, 0.0)
    return _reduce(per_row.sum(), _count(mask, per_row), reduction)


def _reduce(total: Tensor, count: Tensor, reduction: str) -> Tensor:
    if reduction == "sum":
        return total
    if reduction in ("mean", "paper"):
        return total / count.clamp(min=1.0)
    raise ValueError(f"reduction is 'mean', 'sum' or 'paper', got {reduction!r}.")


def _soft_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of softmax(teacher) against log_softmax(student) over the last dimension."""
    return -(F.softmax(teacher, dim=-1) * F.log_softmax(student, dim=-1)).sum(dim=-1)


def _positions(logits: Tensor, mask: Tensor | None) -> Tensor:
    """`[B, S, 2]` to `[B, 2, S]` in float32, padding as improbable as can be."""
    scores = logits.float().mT
    if mask is None:
        return scores
    return scores.masked_fill(~mask.bool().unsqueeze(1), torch.finfo(scores.dtype).min)


def _check_temperature(name: str, temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"{name}: the temperature must be positive, got {temperature}.")


def _check_same_shape(name: str, a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name}: the shapes must be the same, got {tuple(a.shape)} and {tuple(b.shape)}.")
