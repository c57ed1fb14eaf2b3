"""A student's layer from a teacher's: projected to the student's space, then fitted to the teacher's states.

The maps of the teacher's layer in the student's space are where each fit begins. The layer reads what the student's
layers below produce, and is fitted to what the teacher's layer returns; so an error below is corrected as far as least
squares can. A student of the teacher's size that reads what the teacher reads keeps the teacher's maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_tinybert.models.features import states_of
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.linear_fit import Affine, fit_layer_norm, refit, refit_validated
from hf_tinybert.student.teacher_trace import LayerActivations, LayerWeights, TeacherTrace, watching

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertAttention, BertLayer


#: Standard deviation of random weights, BERT's own.
_SPREAD = 0.02


@dataclass(frozen=True)
class StudentSpace:
    """The student's hidden space in the teacher's: a state h of the teacher is about basis @ h' + its mean's offset.

    Attributes:
        basis: `[d, d']`, orthonormal columns.
        shift: in place of the offset, where the two are no projection of each other.
        is_whole: the student's space is the teacher's.
    """

    basis: Tensor
    shift: Tensor | None = None
    is_whole: bool = False

    @classmethod
    def from_states(cls, states: Sequence[Tensor], size: int) -> StudentSpace:
        """The leading principal components of states `[n, d]`; the teacher's space itself at its width."""
        width = states[0].shape[1]
        if width == size:
            return cls(torch.eye(size, device=states[0].device), is_whole=True)
        together = torch.cat(list(states))
        centred = together - together.mean(dim=0)
        _, vectors = torch.linalg.eigh((centred.T @ centred).double())
        return cls(vectors[:, -size:].flip(-1).to(together.dtype))

    @classmethod
    def from_pair(cls, student: Tensor, teacher: Tensor) -> StudentSpace:
        """The best linear map from a student's states `[n, d']` to a teacher's `[n, d]`, whatever the student."""
        fit = refit_validated(Affine.zero(teacher.shape[1], student), student, teacher)
        return cls(fit.weight, fit.bias)

    def offset(self, mean: Tensor) -> Tensor:
        """The part of a mean state outside the space."""
        return mean - self.basis @ (self.basis.T @ mean)

    def __call__(self, states: Tensor) -> Tensor:
        """`[n, d]` to `[n, d']`."""
        return states @ self.basis

    def reading(self, linear: Affine, states: Tensor) -> Affine:
        """A map of the teacher's states, of the student's instead."""
        return linear.after(self.basis, self.offset(states.mean(dim=0)) if self.shift is None else self.shift)


def init_layer(
    layer: BertLayer, trace: TeacherTrace, teacher_layer: int, space: StudentSpace, states: Sequence[Tensor]
) -> list[Tensor]:
    """Set a student's layer.

    Args:
        layer: is changed.
        trace: of the teacher.
        teacher_layer: the layer of the teacher.
        space: of the student.
        states: what the student's layer reads, `[B, S, d']` of each chunk.

    Returns:
        What the student's layer returns.
    """
    texts, weights, activations = trace.texts, trace.weights(teacher_layer), trace.activations(teacher_layer)
    if space.is_whole:
        _copy_norms(layer, weights)
    _draw(layer.attention.self.query, layer.attention.self.value, layer.intermediate.dense)
    entering = texts.pack(states)
    _set_attention(layer.attention, weights, activations, space, entering, trace.encoder.num_heads)
    dense, pairs = layer.attention.output.dense, additive_pairs(states, texts)
    contexts = texts.pack([input_of(dense, layer.attention, *pair) for pair in pairs])
    refit(Affine.from_linear(dense), contexts, space(activations.attention_sum) - entering).write(dense)
    middle = fit_layer_norm(layer.attention.output.LayerNorm, entering + dense(contexts), space(activations.middle))
    _set_feed_forward(layer, weights, activations, space, middle)
    neurons, dense = layer.intermediate(middle), layer.output.dense
    refit(Affine.from_linear(dense), neurons, space(activations.output_sum) - middle).write(dense)
    fit_layer_norm(layer.output.LayerNorm, middle + dense(neurons), space(trace.states[teacher_layer]))
    return run_layer(layer, states, texts)


def _copy_norms(layer: BertLayer, weights: LayerWeights) -> None:
    """The teacher's LayerNorms, where they stand in the same places."""
    pairs = ((layer.attention.output.LayerNorm, weights.attention_norm), (layer.output.LayerNorm, weights.output_norm))
    for norm, given in pairs:
        if given is not None:
            norm.load_state_dict(given.state_dict())


def run_layer(layer: BertLayer, states: Sequence[Tensor], texts: CalibrationTexts) -> list[Tensor]:
    """What a student's layer returns for the states `[B, S, d']` of each chunk."""
    return [states_of(layer(*pair)) for pair in additive_pairs(states, texts)]


def _draw(*layers: nn.Linear) -> None:
    """Random weights that are the same for every random state, for rows that the teacher's layer has no match for."""
    generator = torch.Generator().manual_seed(0)
    for linear in layers:
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * _SPREAD)
        linear.bias.zero_()


def additive_pairs(states: Sequence[Tensor], texts: CalibrationTexts) -> list[tuple[Tensor, Tensor]]:
    """The states of each chunk with the mask that is added to attention scores."""
    lowest = torch.finfo(states[0].dtype).min
    return [
        (state, (~mask[:, None, None, :]).to(state.dtype) * lowest)
        for state, mask in zip(states, texts.masks, strict=True)
    ]


def input_of(inner: nn.Module, outer: nn.Module, *args: Tensor, **kwargs: Tensor) -> Tensor:
    """What a module reads in a call of the module that it is a part of."""
    with watching({"input": (inner, True)}) as seen:
        outer(*args, **kwargs)
    return seen["input"]


def _set_attention(
    attention: BertAttention,
    weights: LayerWeights,
    activations: LayerActivations,
    space: StudentSpace,
    entering: Tensor,
    heads: int,
) -> None:
    """Queries, keys, values and output projection of each head, the best that its size allows.

    Queries and keys approximate the head's score matrix, values and output projection their product. Further heads
    and rows of the student begin without an effect, and can learn one: their keys and outgoing weights are 0.
    """
    names = ("query", "key", "value")
    wanted = dict(zip(names, (activations.queries, activations.keys, activations.values), strict=True))
    readers = {
        name: refit(space.reading(linear, activations.entering), entering, wanted[name])
        for name, linear in zip(names, (weights.queries, weights.keys, weights.values), strict=True)
    }
    output, dense = weights.attention_output.then(space.basis.T), attention.output.dense
    size, small = len(weights.queries.weight) // heads, attention.self.attention_head_size
    for linear in (attention.self.key, dense):
        linear.weight.zero_()
        linear.bias.zero_()
    dense.bias.copy_(output.bias)
    for head in range(min(heads, attention.self.num_attention_heads)):
        rows, at = slice(head * size, (head + 1) * size), head * small
        reading = {name: reader.rows(rows) for name, reader in readers.items()}
        outgoing = output.weight[:, rows].T
        if size != small:
            seen = {name: values[:, rows] for name, values in wanted.items()}
            reading, outgoing = _reduced(reading, outgoing, seen, min(size, small), (small / size) ** 0.25)
        for name, reader in reading.items():
            linear, into = getattr(attention.self, name), slice(at, at + len(reader.weight))
            linear.weight[into], linear.bias[into] = reader.weight, reader.bias
        dense.weight[:, at : at + len(outgoing)] = outgoing.T


def _reduced(
    reading: dict[str, Affine], outgoing: Tensor, seen: dict[str, Tensor], rank: int, scale: float
) -> tuple[dict[str, Affine], Tensor]:
    """The maps of a head of another size: the best approximation of its scores and of its values' effect.

    Args:
        reading: `query`, `key` and `value`, each to `[head_size]`.
        outgoing: `[head_size, d']`.
        seen: the teacher's activations of the three, `[n, head_size]`.
        rank: the smaller of both sizes.
        scale: factor on queries and keys, because scores are divided by the root of the head's size.
    """
    roots = {name: _root(values) for name, values in seen.items()}
    left, middle, right = torch.linalg.svd(roots["query"] @ roots["key"].T)
    strength = middle[:rank].sqrt() * scale
    changes = {
        "query": torch.linalg.solve(roots["query"], left[:, :rank]) * strength,
        "key": torch.linalg.solve(roots["key"], right.T[:, :rank]) * strength,
    }
    left, middle, right = torch.linalg.svd(roots["value"] @ outgoing, full_matrices=False)
    changes["value"] = torch.linalg.solve(roots["value"], left[:, :rank])
    return {name: reading[name].then(change.T) for name, change in changes.items()}, middle[:rank, None] * right[:rank]


def _root(activations: Tensor) -> Tensor:
    """R with R^T R the second moment of the activations, slightly regularised so that it can be inverted."""
    moment = activations.T @ activations / len(activations)
    ridge = 1e-4 * moment.diagonal().mean().clamp(min=1e-8)
    return torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), device=moment.device)).T


def _set_feed_forward(
    layer: BertLayer, weights: LayerWeights, activations: LayerActivations, space: StudentSpace, middle: Tensor
) -> None:
    """The neurons that contribute most, reading the student's states, with their outgoing weights.

    A gated block's neurons are products act(a) g. Their place is taken by those of a, a + g and a - g.
    """
    inner, outer = layer.intermediate.dense, layer.output.dense
    outgoing = weights.feed_forward_output.then(space.basis.T)
    reading = space.reading(weights.neurons, activations.middle)
    outer.weight.zero_()
    if len(reading.weight) == outgoing.weight.shape[1]:
        chosen = strongest(activations.neurons, weights.feed_forward_output.weight, inner.out_features)
        reading.rows(chosen).write(inner)
        Affine(outgoing.weight[:, chosen], outgoing.bias).write(outer)
        return
    size = len(reading.weight) // 2
    plain, gate = reading.rows(slice(size)), reading.rows(slice(size, None))
    count = max(inner.out_features // 3, 1)
    chosen = strongest(activations.neurons, weights.feed_forward_output.weight, count)
    parts = [
        Affine(plain.weight[chosen] + sign * gate.weight[chosen], plain.bias[chosen] + sign * gate.bias[chosen])
        for sign in (0.0, 1.0, -1.0)
    ]
    Affine(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])).rows(
        slice(inner.out_features)
    ).write(inner)
    outer.bias.copy_(outgoing.bias)


def strongest(neurons: Tensor, out: Tensor, count: int) -> Tensor:
    """The neurons whose outputs carry the most, in their old order.

    Args:
        neurons: activations `[n, f]`.
        out: outgoing weights `[d, f]`.
        count: so many at most.
    """
    strength = neurons.square().mean(dim=0) * out.square().sum(dim=0)
    return strength.topk(min(count, len(strength))).indices.sort().values
