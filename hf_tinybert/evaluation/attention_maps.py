"""Attention distributions of teacher and student."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert import losses
from hf_tinybert.distillation.validation import longest_input
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models import peft
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features
from hf_tinybert.utils.types import Batch


@torch.no_grad()
def attention_maps(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mapping: LayerMapping,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
) -> tuple[list[str], dict[tuple[int, int], tuple[Tensor, Tensor]]]:
    """Attention maps of both models on a sentence, without padding and dropout.

    Returns:
        The tokens, and (student layer, teacher layer) -> the maps of student and teacher, `[S, S]`, means over heads.
    """
    longest = longest_input(student, teacher)
    inputs = tokenizer(sentence, return_tensors="pt", truncation=longest is not None, max_length=longest)
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    return tokens, maps_of(student, teacher, mapping, inputs)


@torch.no_grad()
def maps_of(
    student: PreTrainedModel, teacher: PreTrainedModel, mapping: LayerMapping, inputs: Batch
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Attention maps of both models on one example `[1, S]` without padding, as in `attention_maps`."""
    pairs = mapping.layers
    teacher_maps = _maps(teacher, sorted(set(pairs.values())), inputs)
    student_maps = _maps(student, list(pairs), inputs)
    return {(m, teacher_layer): (student_maps[m], teacher_maps[teacher_layer]) for m, teacher_layer in pairs.items()}


def _maps(model: PreTrainedModel, layers: Sequence[int], inputs: Batch) -> dict[int, Tensor]:
    """Layer -> attention map `[S, S]` of one example, the mean over heads."""
    model = peft.unwrapped(model)
    encoder, training = Encoder.from_model(model), model.training
    capture = FeatureCapture(encoder, [], layers)
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
    maps = {}
    for layer in layers:
        window = encoder.attention[layer - 1].window
        maps[layer] = attention_probabilities(features, layer, encoder.num_heads, real, window)[0].mean(0).cpu()
    return maps


def attention_probabilities(
    features: Features, layer: int, num_heads: int, real: Tensor, window: int | None
) -> Tensor:
    """Attention distributions `[B, h, S, S]` of a layer, from its captured queries, keys and bias.

    Args:
        features: of a model.
        layer: of the model.
        num_heads: of the layer.
        real: `[B, S]`, True for real positions; all others are masked.
        window: the largest distance over which a position attends; None: any.
    """
    query, key = (x[layer].float().unflatten(-1, (num_heads, -1)) for x in (features.queries, features.keys))
    scores = query.transpose(1, 2) @ key.transpose(1, 2).mT / query.shape[-1] ** 0.5
    if layer in features.bias:
        scores = scores + features.bias[layer]
    attended = real[:, None, None, :]
    if window is not None:
        attended = attended & losses.band(real.shape[-1], window, real.device)
    return scores.masked_fill(~attended, torch.finfo(scores.dtype).min).softmax(-1)
