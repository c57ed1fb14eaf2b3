"""Attention distributions of teacher and student."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert import losses
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models import peft
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features


@torch.no_grad()
def attention_maps(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mapping: LayerMapping,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
) -> tuple[list[str], dict[tuple[int, int], tuple[Tensor, Tensor]]]:
    """Tokens, and for every matched layer (student's, teacher's) the two maps `[S, S]`, means over heads.

    Padding and dropout play no part.
    """
    longest = min(
        (limit for model in (student, teacher) if (limit := Encoder.from_model(model).max_length)), default=None
    )
    inputs: Any = tokenizer(sentence, return_tensors="pt", truncation=longest is not None, max_length=longest)
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    return tokens, maps_of(student, teacher, mapping, inputs)


@torch.no_grad()
def maps_of(
    student: PreTrainedModel, teacher: PreTrainedModel, mapping: LayerMapping, inputs: Mapping[str, Tensor]
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """The same of one example `[1, S]` without padding."""
    pairs = {m: mapping[m] for m in mapping if m > 0}
    theirs = _maps(teacher, sorted(set(pairs.values())), inputs)
    ours = _maps(student, list(pairs), inputs)
    return {(m, above): (ours[m], theirs[above]) for m, above in pairs.items()}


def _maps(model: PreTrainedModel, layers: Sequence[int], inputs: Mapping[str, Tensor]) -> dict[int, Tensor]:
    model = peft.unwrapped(model)
    place, training = Encoder.from_model(model), model.training
    capture = FeatureCapture(place, [], layers)
    model.eval()
    try:
        takes = inspect.signature(model.base_model.forward).parameters
        accepted = {name: value.to(model.device) for name, value in inputs.items() if name in takes}
        with capture.recording() as features:
            model.base_model(**accepted, **PLAIN_OUTPUT)
    finally:
        capture.remove()
        model.train(training)
    real = torch.ones_like(accepted["input_ids"], dtype=torch.bool)
    found = {}
    for layer in layers:
        window = place.attention[layer - 1].window
        found[layer] = attention_probabilities(features, layer, place.num_heads, real, window)[0].mean(0).cpu()
    return found


def attention_probabilities(
    features: Features, layer: int, num_heads: int, real: Tensor, window: int | None
) -> Tensor:
    """Attention distributions `[B, h, S, S]` of a layer, from the queries, keys and bias that were caught of it.

    Args:
        features: of a model.
        layer: of the model.
        num_heads: of the layer.
        real: `[B, S]`, True for real positions; no others are attended to.
        window: how far a position looks to either side; None: everywhere.
    """
    query, key = (x[layer].float().unflatten(-1, (num_heads, -1)) for x in (features.queries, features.keys))
    scores = query.transpose(1, 2) @ key.transpose(1, 2).mT / query.shape[-1] ** 0.5
    if layer in features.bias:
        scores = scores + features.bias[layer]
    seen = real[:, None, None, :]
    if window is not None:
        seen = seen & losses.band(real.shape[-1], window, real.device)
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
