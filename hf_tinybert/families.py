"""Where an encoder keeps its layers and their query and key projections.

The distillation needs four things of a model: its transformer layers in order, the query and the key
projection of each, the number of heads, and the longest input. They are found by the module paths that
encoder families share, never by the name of a class, so a model of an unlisted family with the conventional
names works, and one without gets an error that says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

#: (layers below the base model, query below a layer, key below a layer)
_PATHS = (
    ("encoder.layer", "attention.self.query", "attention.self.key"),  # BERT, RoBERTa, XLM-R, ELECTRA
    ("transformer.layer", "attention.q_lin", "attention.k_lin"),  # DistilBERT
)


@dataclass(frozen=True)
class Encoder:
    """The parts of a model that the losses look at.

    Attributes:
        layers: the transformer layers in order; each takes hidden states `[B, S, d]` first and returns them
            first.
        queries: the query projection of each layer, `[B, S, d]` to `[B, S, heads * head_size]`.
        keys: the key projection of each layer.
        num_heads: attention heads of a layer.
        hidden_size: d.
        max_length: the longest input in tokens, or None if it is not limited.
        plain_scores: whether the attention scores are Q K^T / sqrt(head_size) with nothing added, as the
            attention loss assumes.
    """

    layers: tuple[nn.Module, ...]
    queries: tuple[nn.Module, ...]
    keys: tuple[nn.Module, ...]
    num_heads: int
    hidden_size: int
    max_length: int | None
    plain_scores: bool

    @property
    def num_layers(self) -> int:
        """The number of transformer layers."""
        return len(self.layers)


def locate(model: PreTrainedModel) -> Encoder:
    """Find the parts of an encoder.

    Raises:
        ValueError: the model has no layers with separate query and key projections under the known paths.
    """
    base = getattr(model, model.base_model_prefix, model) if model.base_model_prefix else model
    for layers_path, query_path, key_path in _PATHS:
        layers = _submodule(base, layers_path)
        if layers is None or not isinstance(layers, nn.ModuleList) or not len(layers):
            continue
        queries = [_submodule(layer, query_path) for layer in layers]
        keys = [_submodule(layer, key_path) for layer in layers]
        if any(found is None for found in (*queries, *keys)):
            continue
        config = model.config
        return Encoder(
            layers=tuple(layers),
            queries=tuple(query for query in queries if query is not None),
            keys=tuple(key for key in keys if key is not None),
            num_heads=_num_heads(layers[0], query_path, config),
            hidden_size=config.hidden_size,
            max_length=_max_length(base),
            plain_scores=getattr(config, "position_embedding_type", None) in (None, "absolute"),
        )
    wanted = " or ".join(f"{layers}.N.{{{query}, {key}}}" for layers, query, key in _PATHS)
    raise ValueError(
        f"{type(model).__name__} (model_type {model.config.model_type!r}) is not an encoder whose layers can be "
        f"matched: expected modules {wanted} below its base model."
    )


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _max_length(base: nn.Module) -> int | None:
    """Rows of the position table that inputs can use; RoBERTa's kin count from after the padding id."""
    table = _submodule(base, "embeddings.position_embeddings")
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _num_heads(layer: nn.Module, query_path: str, config: PretrainedConfig) -> int:
    """The heads of the attention module itself, where it says; ConvBERT has fewer than its configuration."""
    attention = layer.get_submodule(query_path.rpartition(".")[0])
    return int(getattr(attention, "num_attention_heads", config.num_attention_heads))
