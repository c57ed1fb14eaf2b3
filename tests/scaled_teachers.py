"""Teachers that compute what another does, from hidden states or attention scores of another size."""

from __future__ import annotations

import copy

import torch
from torch import nn

#: Of each layer: the maps that read its input, the map that is added to it, and the LayerNorm of its output.
_PARTS = {
    "bert": ("attention.self.query attention.self.key attention.self.value", "attention.output.dense"),
    "roberta": ("attention.self.query attention.self.key attention.self.value", "attention.output.dense"),
    "mpnet": ("attention.attn.q attention.attn.k attention.attn.v", "attention.attn.o"),
    "deberta-v2": (
        "attention.self.query_proj attention.self.key_proj attention.self.value_proj",
        "attention.output.dense",
    ),
}
#: The first map of a classifier's head.
_HEADS = {
    "bert": "bert.pooler.dense",
    "roberta": "classifier.dense",
    "mpnet": "classifier.dense",
    "deberta-v2": "pooler.dense",
}
FAMILIES = tuple(_PARTS)


def _times(module: nn.Module, factor: float) -> None:
    for parameter in (module.weight, module.bias):
        parameter.mul_(factor)


@torch.no_grad()
def with_states_times(model, factor: float):
    """A sequence classifier whose embeddings and layers return so many times what the given one's do."""
    model, kind = copy.deepcopy(model), model.config.model_type
    base = model.base_model
    _times(base.embeddings.LayerNorm, factor)
    if kind == "deberta-v2":  # whose relative positions are read by the same maps
        _times(base.encoder.LayerNorm, factor)
    readers, added = _PARTS[kind]
    convolution = getattr(base.encoder, "conv", None)
    if convolution is not None:  # of the embeddings, added to what the first layer returns and normalised
        convolution.conv.weight.div_(factor)
        _times(convolution.LayerNorm, factor)
    for number, layer in enumerate(base.encoder.layer):
        for name in readers.split():
            layer.get_submodule(name).weight.div_(factor)
        _times(layer.get_submodule(added), factor)
        if number or convolution is None:
            _times(layer.output.LayerNorm, factor)
    model.get_submodule(_HEADS[kind]).weight.div_(factor)
    return model


@torch.no_grad()
def with_scores_shifted(model, size: float):
    """A sequence classifier whose attention scores have a random number of that size more in each row.

    It is a bias of the keys; a softmax ignores it. (DeBERTa's positions would read it too.)
    """
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    key = _PARTS[model.config.model_type][0].split()[1]
    for layer in model.base_model.encoder.layer:
        bias = layer.get_submodule(key).bias
        bias.add_(size * torch.randn(bias.shape, generator=generator))
    return model
