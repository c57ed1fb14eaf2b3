"""How alike teacher and student are inside, layer by layer, whatever their widths.

Hidden states are compared by linear centred kernel alignment (Kornblith et al., "Similarity of Neural Network
Representations Revisited", 2019): 1 where one is a rotation and scaling of the other, 0 on average where they have
nothing in common. The plain estimate is far above 0 for unrelated layers that are wider than there are tokens, so
this is the unbiased one (Song et al., "Feature Selection via Dependence Maximization", 2012, equation 5; it can fall a
little below 0). It needs no projection: layers that were never matched can be compared, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.evaluation.attention_maps import attention_maps, maps_of
from hf_tinybert.layer_mapping import LayerMapping

#: Positions that hidden states are compared at; with more, nothing changes but the cost.
_POSITIONS = 1500
#: Examples whose attention is compared.
_EXAMPLES = 32


@dataclass(frozen=True)
class LayerSimilarity:
    """Teacher and student on some examples.

    Attributes:
        hidden: `[M + 1, N + 1]`, alignment of every student layer with every teacher layer; 0 is the embedding output.
        attention: student layer -> mean share of its attention that lies where the mapped teacher layer's lies (the
            sum of the smaller of both at every key, means over heads; 1 where they are equal).
        tokens: of the sentence that is shown.
        maps: (student layer, teacher layer) -> attention of student and teacher on it, `[S, S]`.
    """

    hidden: Tensor
    attention: dict[int, float] = field(default_factory=dict)
    tokens: Sequence[str] = ()
    maps: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)


def measure(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Sequence[int]]],
    mapping: LayerMapping | None,
    sentence: str,
) -> LayerSimilarity:
    """Compare two models.

    Args:
        student: in eval mode.
        teacher: in eval mode.
        tokenizer: of both.
        rows: examples as it makes them, no longer than either model takes.
        mapping: of the student's layers; None: attention is not compared.
        sentence: whose attention is shown.
    """
    own, theirs = hidden_states(student, tokenizer, rows), hidden_states(teacher, tokenizer, rows)
    some = torch.randperm(len(own[0]), generator=torch.Generator().manual_seed(0))[:_POSITIONS]
    mine, above = ([_centred_gram(states[some]) for states in layers] for layers in (own, theirs))
    hidden = torch.stack([torch.stack([_cosine(x, y) for y in above]) for x in mine])
    if mapping is None or not any(mapping):
        return LayerSimilarity(hidden)
    shares: dict[int, list[float]] = {}
    for row in rows[:_EXAMPLES]:
        inputs = {name: torch.tensor([row[name]]) for name in tokenizer.model_input_names if name in row}
        for (layer, _), (ours, other) in maps_of(student, teacher, mapping, inputs).items():
            shares.setdefault(layer, []).append(float(torch.minimum(ours, other).sum(-1).mean()))
    tokens, shown = attention_maps(student, teacher, mapping, tokenizer, sentence)
    return LayerSimilarity(hidden, {layer: sum(found) / len(found) for layer, found in shares.items()}, tokens, shown)


@torch.no_grad()
def hidden_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Sequence[int]]],
    batch_size: int = 16,
) -> list[Tensor]:
    """Hidden states of all tokens, `[tokens, d]` for each layer, embedding output first; padding left out."""
    takes = inspect.signature(model.base_model.forward).parameters
    layers: list[list[Tensor]] = []
    for start in range(0, len(rows), batch_size):
        wanted = [
            {name: row[name] for name in tokenizer.model_input_names if name in row}
            for row in rows[start : start + batch_size]
        ]
        batch: Any = tokenizer.pad(wanted, return_tensors="pt")
        inputs = {name: value.to(model.device) for name, value in batch.items() if name in takes}
        real = batch["attention_mask"].bool()
        states = model.base_model(**inputs, output_hidden_states=True, return_dict=True).hidden_states
        layers = layers or [[] for _ in states]
        for found, state in zip(layers, states, strict=True):
            found.append(state.cpu()[real].float())
    return [torch.cat(found) for found in layers]


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased linear centred kernel alignment of `[n, d1]` and `[n, d2]`, n at least 4, in float64."""
    return _cosine(_centred_gram(x), _centred_gram(y))


def _centred_gram(states: Tensor) -> Tensor:
    """The Gram matrix `[n, n]`, centred so that inner products of two are unbiased (U-centring), diagonal 0."""
    x = states.double()
    gram = (x @ x.T).fill_diagonal_(0)
    n = len(x)
    rows = gram.sum(1) / (n - 2)
    centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() / (x.norm() * y.norm())
