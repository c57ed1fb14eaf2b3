"""Similarity of the layers of teacher and student, of any widths.

Hidden states are compared by linear centred kernel alignment (Kornblith et al., "Similarity of Neural Network
Representations Revisited", 2019): 1 if one is a rotation and scaling of the other, 0 on average if they are
independent. The plain estimate is far above 0 for independent layers with more dimensions than tokens, so this is the
unbiased one (Song et al., "Feature Selection via Dependence Maximization", 2012, equation 5; it can be slightly
negative). It needs no projection, so layers that were never matched can be compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.evaluation.attention_maps import attention_maps, maps_of
from hf_tinybert.layer_mapping import LayerMapping

#: Number of positions at which hidden states are compared; more change the cost and not the result.
_POSITIONS = 1500
#: Number of examples on which attention is compared.
_EXAMPLES = 32


@dataclass(frozen=True)
class LayerSimilarity:
    """Similarity of teacher and student on some examples.

    Attributes:
        hidden: `[M + 1, N + 1]`, linear CKA of student layers with teacher layers; 0 is the embedding output.
        attention: student layer -> overlap of its attention with the mapped teacher layer's (the sum over keys of the
            smaller of both probabilities, from means over heads; 1 if they are equal).
        tokens: of the sentence that is shown.
        maps: (student layer, teacher layer) -> attention of student and teacher on this sentence, `[S, S]`.
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
        rows: examples as the tokenizer makes them, no longer than the maximum length of either model.
        mapping: of the student's layers; None: attention is not compared.
        sentence: the text whose attention is shown.
    """
    student_states, teacher_states = (hidden_states(model, tokenizer, rows) for model in (student, teacher))
    sample = torch.randperm(len(student_states[0]), generator=torch.Generator().manual_seed(0))[:_POSITIONS]
    student_grams, teacher_grams = (
        [_centred_gram(states[sample]) for states in layers] for layers in (student_states, teacher_states)
    )
    hidden = torch.stack([torch.stack([_cosine(x, y) for y in teacher_grams]) for x in student_grams])
    if mapping is None or not any(mapping):
        return LayerSimilarity(hidden)
    overlaps: dict[int, list[float]] = {}
    for row in rows[:_EXAMPLES]:
        inputs = {name: torch.tensor([row[name]]) for name in tokenizer.model_input_names if name in row}
        for (layer, _), (student_map, teacher_map) in maps_of(student, teacher, mapping, inputs).items():
            overlaps.setdefault(layer, []).append(float(torch.minimum(student_map, teacher_map).sum(-1).mean()))
    attention = {layer: sum(values) / len(values) for layer, values in overlaps.items()}
    tokens, shown = attention_maps(student, teacher, mapping, tokenizer, sentence)
    return LayerSimilarity(hidden, attention, tokens, shown)


@torch.no_grad()
def hidden_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Sequence[int]]],
    batch_size: int = 16,
) -> list[Tensor]:
    """Hidden states of all tokens, `[tokens, d]` for each layer, embedding output first, without padding."""
    accepted = inspect.signature(model.base_model.forward).parameters
    layers: list[list[Tensor]] = []
    for start in range(0, len(rows), batch_size):
        examples = [
            {name: row[name] for name in tokenizer.model_input_names if name in row}
            for row in rows[start : start + batch_size]
        ]
        batch = tokenizer.pad(examples, return_tensors="pt")
        inputs = {name: value.to(model.device) for name, value in batch.items() if name in accepted}
        real = batch["attention_mask"].bool()
        states = model.base_model(**inputs, output_hidden_states=True, return_dict=True).hidden_states
        layers = layers or [[] for _ in states]
        for batches, state in zip(layers, states, strict=True):
            batches.append(state.cpu()[real].float())
    return [torch.cat(batches) for batches in layers]


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
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
