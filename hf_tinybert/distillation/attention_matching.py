"""How the attention of two models is compared, where their heads are as many, and where they are not.

| kind | what is compared |
| --- | --- |
| `heads` | score maps head by head: equation 7 |
| `mean` | the means over heads of the score maps |
| `mixing` | the teacher's score maps with learnt linear combinations of the student's |
| `relations` | softmax(X X^T / sqrt(d)) of queries, keys and values, split anew into as many relation heads in both |

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
        relation_heads: heads into which both are split anew for `relations`.
        windows: student layer -> how far apart two positions may be that both layers look at; None: any.
        why: why this kind was chosen.
    """

    kind: str
    student_heads: int
    teacher_heads: int
    relation_heads: int = 0
    windows: Mapping[int, int | None] = field(default_factory=dict)
    why: str = ""

    @classmethod
    def from_encoders(cls, kind: str, student: Encoder, teacher: Encoder, mapping: LayerMapping) -> HeadMatching:
        """Choose, where `kind` is `auto`, and check that it can be.

        Raises:
            ValueError: the kind is unknown, or these two models cannot be compared so.
        """
        if kind not in HEAD_MATCHINGS:
            raise ValueError(f"head_matching must be one of {', '.join(HEAD_MATCHINGS)}, got {kind!r}.")
        ours, theirs = student.num_heads, teacher.num_heads
        known = student.known_scores and teacher.known_scores
        why = "asked for"
        if kind == "auto":
            kind, why = _choose(ours, theirs, known)
        if kind == "heads" and ours != theirs:
            raise ValueError(
                f"head_matching='heads' compares head with head, but the teacher has {theirs} heads and the student "
                f"{ours}: use 'mean', 'mixing' or 'relations', or make the student with `create_student`."
            )
        if kind != "relations" and not known:
            raise ValueError(
                f"head_matching={kind!r} compares attention scores, and one of the models adds terms to them that are "
                "not known here (relative positions): use head_matching='relations', or set attention_weight=0."
            )
        relation_heads = _relation_heads(student, teacher) if kind == "relations" else 0
        windows = {
            layer: _narrower(student.attention[layer - 1].window, teacher.attention[above - 1].window)
            for layer, above in mapping.layers.items()
        }
        return cls(kind, ours, theirs, relation_heads, windows, why)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is wanted of the matched layers (see `FeatureCapture`)."""
        return ("queries", "keys", "values") if self.kind == "relations" else ("queries", "keys", "bias")

    @property
    def distinct_windows(self) -> set[int]:
        """The windows that pairs must be counted for."""
        return set() if self.kind == "relations" else {w for w in self.windows.values() if w is not None}

    def count(self, layer: int, counts: BatchCounts) -> Tensor:
        """What the loss of a layer is a mean over: real pairs within its window, or rows for `relations`."""
        if self.kind == "relations":
            return counts.tokens
        window = self.windows.get(layer)
        return counts.pairs if window is None else counts.windowed[window]

    def start_of_mixing(self) -> Tensor:
        """Each of the teacher's heads begins with one of the student's, evenly spread; `[h_T, h_S]`."""
        start = torch.zeros(self.teacher_heads, self.student_heads)
        for head in range(self.teacher_heads):
            start[head, head * self.student_heads // self.teacher_heads] = 1.0
        return start

    def loss(
        self,
        layer: int,
        above: int,
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
            above: of the teacher.
            student: with `kinds` of the layer.
            teacher: with `kinds` of its layer.
            mixing: `[h_T, h_S]`, for `mixing`.
            mask: `[B, S]` or None.
            reduction: see `hf_tinybert.losses`.
        """
        if self.kind == "relations":
            pairs = [
                (getattr(student, kind)[layer], getattr(teacher, kind)[above])
                for kind in ("queries", "keys", "values")
            ]
            parts = [
                losses.relation_loss(ours, theirs, self.relation_heads, mask, reduction) for ours, theirs in pairs
            ]
            return torch.stack(parts).sum()
        ours = _Scores(student.queries[layer], student.keys[layer], student.bias.get(layer))
        theirs = _Scores(teacher.queries[above], teacher.keys[above], teacher.bias.get(above))
        heads = self.teacher_heads
        if self.kind == "mean":
            ours, theirs, heads = ours.mean(self.student_heads), theirs.mean(self.teacher_heads), 1
        elif self.kind == "mixing":
            assert mixing is not None
            ours = ours.mixed(mixing)
        return losses.attention_loss(
            ours.queries,
            ours.keys,
            theirs.queries,
            theirs.keys,
            heads,
            mask=mask,
            reduction=reduction,
            student_bias=ours.bias,
            teacher_bias=theirs.bias,
            window=self.windows.get(layer),
        )


@dataclass(frozen=True)
class _Scores:
    """What a layer's score maps are made of: queries and keys `[B, S, h * d]`, bias `[B, h, S, S]` or None."""

    queries: Tensor
    keys: Tensor
    bias: Tensor | None

    def mean(self, heads: int) -> _Scores:
        """The mean map as one head: sum of Q_j K_j^T / (h sqrt(d)) = Q K^T / (sqrt(h) sqrt(h d))."""
        bias = None if self.bias is None else self.bias.mean(1, keepdim=True)
        return _Scores(self.queries.float() / math.sqrt(heads), self.keys, bias)

    def mixed(self, weights: Tensor) -> _Scores:
        """As many heads as `weights` has rows, each as wide as all of these together: sum over j of w_ij A_j."""
        into, heads = weights.shape
        weights = weights.float()
        # Scores are divided by sqrt(h d) where one head's are divided by sqrt(d).
        wide = self.queries.float().unflatten(-1, (1, heads, -1)) * (weights * math.sqrt(heads))[:, :, None]
        keys = self.keys.float().unsqueeze(2).expand(-1, -1, into, -1)
        bias = None if self.bias is None else torch.einsum("ij,bjst->bist", weights, self.bias.float())
        return _Scores(wide.flatten(2), keys.flatten(2), bias)


def _choose(ours: int, theirs: int, known: bool) -> tuple[str, str]:
    if not known:
        return "relations", "one of the models adds unknown terms to its attention scores"
    if ours != theirs:
        return "mixing", f"the teacher has {theirs} heads and the student {ours}"
    return "heads", f"both have {ours} heads"


def _relation_heads(student: Encoder, teacher: Encoder) -> int:
    """The largest number of heads, up to the teacher's, into which both models' widths can be split."""
    common = math.gcd(student.hidden_size, teacher.hidden_size)
    return max(heads for heads in range(1, teacher.num_heads + 1) if common % heads == 0)


def _narrower(ours: int | None, theirs: int | None) -> int | None:
    windows = [window for window in (ours, theirs) if window is not None]
    return min(windows, default=None)
