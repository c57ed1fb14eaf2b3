"""How alike teacher and student are inside, layer by layer, whatever their widths.

Hidden states are compared by linear centred kernel alignment (Kornblith et al., "Similarity of Neural Network
Representations Revisited", 2019, equation 6): 1 where one is a rotation and scaling of the other, near 0 where they
have nothing in common. It needs no projection, so layers that were never matched can be compared, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.card.pictures import attention_maps
from hf_tinybert.families import locate
from hf_tinybert.layer_mapping import LayerMapping


@dataclass(frozen=True)
class Likeness:
    """Teacher and student on some texts.

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
    texts: Sequence[str],
    mapping: LayerMapping | None,
    sentence: str,
) -> Likeness:
    """Compare two models on texts.

    Args:
        student: in eval mode.
        teacher: in eval mode.
        tokenizer: of both.
        texts: at least one.
        mapping: of the student's layers; None: attention is not compared.
        sentence: whose attention is shown.
    """
    own, theirs = hidden_states(student, tokenizer, texts), hidden_states(teacher, tokenizer, texts)
    hidden = torch.stack([torch.stack([alignment(x, y) for y in theirs]) for x in own])
    if mapping is None or not any(mapping):
        return Likeness(hidden)
    shares: dict[int, list[float]] = {}
    for text in texts:
        _, maps = attention_maps(student, teacher, mapping, tokenizer, text)
        for (layer, _), (mine, other) in maps.items():
            shares.setdefault(layer, []).append(float(torch.minimum(mine, other).sum(-1).mean()))
    tokens, shown = attention_maps(student, teacher, mapping, tokenizer, sentence)
    return Likeness(hidden, {layer: sum(found) / len(found) for layer, found in shares.items()}, tokens, shown)


@torch.no_grad()
def hidden_states(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 16
) -> list[Tensor]:
    """Hidden states of all tokens, `[tokens, d]` for each layer, embedding output first; padding left out."""
    takes = inspect.signature(model.base_model.forward).parameters
    longest = locate(model).max_length
    layers: list[list[Tensor]] = []
    for start in range(0, len(texts), batch_size):
        some = list(texts[start : start + batch_size])
        batch = tokenizer(some, padding=True, truncation=longest is not None, max_length=longest, return_tensors="pt")
        inputs = {name: value.to(model.device) for name, value in batch.items() if name in takes}
        real = inputs["attention_mask"].bool()
        states = model.base_model(**inputs, output_hidden_states=True, return_dict=True).hidden_states
        layers = layers or [[] for _ in states]
        for found, state in zip(layers, states, strict=True):
            found.append(state[real].float().cpu())
    return [torch.cat(found) for found in layers]


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of `[n, d1]` and `[n, d2]`, in float64."""
    x, y = (states.double() - states.double().mean(0) for states in (x, y))
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
