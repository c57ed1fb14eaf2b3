"""How the attention of two models is compared, with equal and with different numbers of heads.

| kind | what is compared |
| --- | --- |
| `heads` | score maps head by head: equation 7 |
| `mean` | the means over heads of the score maps |
| `mixing` | the teacher's score maps with learnt linear combinations of the student's |
| `relations` | softmax(X X^T / sqrt(d)) of queries, keys and values, re-split into the same number of relation heads |

A mean over heads, and a combination of heads, is again a product of queries and keys: with all heads side by side in
one wide head, sum over j of w_j Q_j K_j^T = [w_1 Q_1, ..., w_h Q_h] [K_1, ..., K_h]^T. So the first three are one
loss, with its exact form of linear cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hf_tinybert import losses
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.losses.kernels import band, centred_rows
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import Features
from hf_tinybert.training_args import HEAD_MATCHINGS


@dataclass(frozen=True)
class HeadMatching:
    """The attention level of two models.

    Attributes:
        kind: `heads`, `mean`, `mixing` or `relations`.
        student_heads: attention heads of the student's layers.
        teacher_heads: attention heads of the teacher's layers.
        relation_heads: number of heads into which both are re-split for `relations`.
        windows: student layer -> the largest distance of two positions within the attention of both layers; None: any.
        why: the reason for this kind.
        centred: scores are compared less the mean of each row, which the softmax ignores.
    """

    kind: str
    student_heads: int
    teacher_heads: int
    relation_heads: int = 0
    windows: Mapping[int, int | None] = field(default_factory=dict)
    why: str = ""
    centred: bool = False

    @classmethod
    def from_encoders(
        cls, kind: str, student: Encoder, teacher: Encoder, mapping: LayerMapping, centred: bool = False
    ) -> HeadMatching:
        """Resolve `auto`, and check that the kind fits the two models.

        Raises:
            ValueError: the kind is unknown, or does not fit these two models.
        """
        if kind not in HEAD_MATCHINGS:
            raise ValueError(f"head_matching must be one of {', '.join(HEAD_MATCHINGS)}, got {kind!r}.")
        student_heads, teacher_heads = student.num_heads, teacher.num_heads
        scores_known = student.known_scores and teacher.known_scores
        why = "asked for"
        if kind == "auto":
            kind, why = _choose(student_heads, teacher_heads, scores_known)
        if kind == "heads" and student_heads != teacher_heads:
            raise ValueError(
                f"head_matching='heads' compares head with head, but the teacher has {teacher_heads} heads and the "
                f"student {student_heads}: use 'mean', 'mixing' or 'relations', or make the student with "
                "`create_student`."
            )
        if kind != "relations" and not scores_known:
            raise ValueError(
                f"head_matching={kind!r} compares attention scores, and one of the models adds terms to them that are "
                "not known here (relative positions): use head_matching='relations', or set attention_weight=0."
            )
        relation_heads = _relation_heads(student, teacher) if kind == "relations" else 0
        windows = {
            layer: _narrower(student.attention[layer - 1].window, teacher.attention[teacher_layer - 1].window)
            for layer, teacher_layer in mapping.layers.items()
        }
        return cls(kind, student_heads, teacher_heads, relation_heads, windows, why, centred)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The features captured in the matched layers (see `FeatureCapture`)."""
        return ("queries", "keys", "values") if self.kind == "relations" else ("queries", "keys", "bias")

    @property
    def distinct_windows(self) -> set[int]:
        """The windows within which pairs are counted."""
        return set() if self.kind == "relations" else {w for w in self.windows.values() if w is not None}

    def count(self, layer: int, counts: BatchCounts) -> Tensor:
        """The denominator of a layer's loss: real pairs within its window, or rows for `relations`."""
        if self.kind == "relations":
            return counts.tokens
        window = self.windows.get(layer)
        return counts.pairs if window is None else counts.windowed[window]

    def start_of_mixing(self) -> Tensor:
        """Initial mixture `[h_T, h_S]`: one student head for each of the teacher's, evenly spread."""
        start = torch.zeros(self.teacher_heads, self.student_heads)
        for head in range(self.teacher_heads):
            start[head, head * self.student_heads // self.teacher_heads] = 1.0
        return start

    def teacher_scores(self, layer: int, teacher_layer: int, teacher: Features, mask: Tensor | None) -> Tensor | None:
        """The teacher's scores that a student layer's are compared with, `[n, heads]`, of real pairs in its window.

        Args:
            layer: of the student.
            teacher_layer: of the teacher.
            teacher: with `kinds` of its layer.
            mask: `[B, S]` or None.

        Returns:
            None for `relations`, which compare probabilities.
        """
        if self.kind == "relations":
            return None
        queries, keys = teacher.queries[teacher_layer], teacher.keys[teacher_layer]
        scores, heads = _Scores(queries, keys, teacher.bias.get(teacher_layer)), self.teacher_heads
        if self.kind == "mean":
            scores, heads = scores.mean(heads), 1
        query, key = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (scores.queries, scores.keys))
        maps = query @ key.mT / math.sqrt(query.shape[-1])
        if scores.bias is not None:
            maps = maps + scores.bias
        real = torch.ones(queries.shape[:-1], dtype=torch.bool, device=queries.device) if mask is None else mask.bool()
        pairs, window = real[:, :, None] & real[:, None, :], self.windows.get(layer)
        if window is not None:
            pairs = pairs & band(maps.shape[-1], window, maps.device)
        if self.centred:
            maps = centred_rows(maps, ~pairs[:, None])
        return maps.permute(0, 2, 3, 1)[pairs]

    def loss(
        self,
        layer: int,
        teacher_layer: int,
        student: Features,
        teacher: Features,
        mixing: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: losses.Reduction = "mean",
    ) -> Tensor:
        """The attention loss of a student layer and a teacher layer, a float32 scalar.

        The mean is over pairs of real positions and heads (one for `mean`, the teacher's for `mixing`); for
        `relations` over rows and relation heads, summed over queries, keys and values.

        Args:
            layer: of the student.
            teacher_layer: of the teacher.
            student: with `kinds` of the layer.
            teacher: with `kinds` of its layer.
            mixing: `[h_T, h_S]`, for `mixing`.
            mask: `[B, S]` or None.
            reduction: see `hf_tinybert.losses`.

        Raises:
            ValueError: `mixing` is missing.
        """
        if self.kind == "relations":
            pairs = [
                (student.queries[layer], teacher.queries[teacher_layer]),
                (student.keys[layer], teacher.keys[teacher_layer]),
                (student.values[layer], teacher.values[teacher_layer]),
            ]
            parts = [
                losses.relation_loss(student_x, teacher_x, self.relation_heads, mask, reduction)
                for student_x, teacher_x in pairs
            ]
            return torch.stack(parts).sum()
        student_scores = _Scores(student.queries[layer], student.keys[layer], student.bias.get(layer))
        teacher_scores = _Scores(
            teacher.queries[teacher_layer], teacher.keys[teacher_layer], teacher.bias.get(teacher_layer)
        )
        heads = self.teacher_heads
        if self.kind == "mean":
            student_scores, teacher_scores = (
                student_scores.mean(self.student_heads),
                teacher_scores.mean(self.teacher_heads),
            )
            heads = 1
        elif self.kind == "mixing":
            if mixing is None:
                raise ValueError("head_matching='mixing' needs the mixture of heads [h_T, h_S]; got None.")
            student_scores = student_scores.mixed(mixing)
        return losses.attention_loss(
            student_scores.queries,
            student_scores.keys,
            teacher_scores.queries,
            teacher_scores.keys,
            heads,
            mask=mask,
            reduction=reduction,
            student_bias=student_scores.bias,
            teacher_bias=teacher_scores.bias,
            window=self.windows.get(layer),
            centred=self.centred,
        )


@dataclass(frozen=True)
class _Scores:
    """The factors of a layer's score maps: queries and keys `[B, S, h * d]`, bias `[B, h, S, S]` or None."""

    queries: Tensor
    keys: Tensor
    bias: Tensor | None

    def mean(self, heads: int) -> _Scores:
        """The mean map as one head: sum of Q_j K_j^T / (h sqrt(d)) = Q K^T / (sqrt(h) sqrt(h d))."""
        bias = None if self.bias is None else self.bias.mean(1, keepdim=True)
        return _Scores(self.queries.float() / math.sqrt(heads), self.keys, bias)

    def mixed(self, weights: Tensor) -> _Scores:
        """One head for each row of `weights`, as wide as all of these together: sum over j of w_ij A_j."""
        mixtures, heads = weights.shape
        weights = weights.float()
        # Scores are divided by sqrt(h d), those of one head by sqrt(d).
        wide = self.queries.float().unflatten(-1, (1, heads, -1)) * (weights * math.sqrt(heads))[:, :, None]
        keys = self.keys.float().unsqueeze(2).expand(-1, -1, mixtures, -1)
        bias = None if self.bias is None else torch.einsum("ij,bjst->bist", weights, self.bias.float())
        return _Scores(wide.flatten(2), keys.flatten(2), bias)


def _choose(student_heads: int, teacher_heads: int, scores_known: bool) -> tuple[str, str]:
    """The kind for `auto`, and the reason."""
    if not scores_known:
        return "relations", "one of the models adds unknown terms to its attention scores"
    if student_heads != teacher_heads:
        return "mixing", f"the teacher has {teacher_heads} heads and the student {student_heads}"
    return "heads", f"both have {student_heads} heads"


def _relation_heads(student: Encoder, teacher: Encoder) -> int:
    """The largest number of heads, up to the teacher's, into which both models' widths can be split."""
    common = math.gcd(student.hidden_size, teacher.hidden_size)
    return max(heads for heads in range(1, teacher.num_heads + 1) if common % heads == 0)


def _narrower(student: int | None, teacher: int | None) -> int | None:
    windows = [window for window in (student, teacher) if window is not None]
    return min(windows, default=None)
