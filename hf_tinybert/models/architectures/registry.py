"""Finding the parts of a model: by its family's adapter, or by the names that families share."""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_tinybert.models.architectures.encoder import Attention, Encoder
from hf_tinybert.models.architectures.specs import CONVENTIONAL, FAMILIES, Family
from hf_tinybert.models.peft import unwrapped

logger = logging.get_logger(__name__)

#: What the attention module of a model with plain scores consists of.
_PLAIN_PARTS = {"query", "key", "value", "q_lin", "k_lin", "v_lin", "out_lin", "dense", "dropout", "LayerNorm"} | {
    "attention_dropout",
    "output_dropout",
}


def register_family(model_type: str, family: Family) -> None:
    """Say where models of a type keep their parts; it holds for the rest of the process.

    Args:
        model_type: `config.model_type` of the models.
        family: their adapter. A type that is known already gets the new one.
    """
    FAMILIES[model_type] = family


def locate(model: PreTrainedModel) -> Encoder:
    """Find the parts of an encoder.

    A type without an adapter is tried with the module names of BERT and DistilBERT.

    Raises:
        ValueError: the model lacks a part that its adapter names, or, without an adapter, has none of the
            conventional names; the message says what is missing and how to register an adapter.
    """
    model = unwrapped(model)
    base = getattr(model, model.base_model_prefix, model) if model.base_model_prefix else model
    model_type = model.config.model_type
    adapter = FAMILIES.get(model_type)
    tried = (adapter,) if adapter is not None else CONVENTIONAL
    missing = []
    for family in tried:
        lacking = _lacking(base, model.config, family)
        if lacking is None:
            if adapter is None:
                logger.warning_once(
                    f"model_type {model_type!r} has no adapter; its layers were found under BERT's or DistilBERT's "
                    "names. If its attention scores are more than Q K^T / sqrt(head_size), register an adapter "
                    "(hf_tinybert.models.architectures.register_family) or set attention_weight=0."
                )
            return _encoder(base, model.config, family)
        missing.append(lacking)
    raise ValueError(
        f"{type(model).__name__} (model_type {model_type!r}) is not an encoder whose layers can be matched: it lacks "
        f"{' and '.join(missing)}. Say where it keeps its layers, queries, keys and values with "
        f"hf_tinybert.models.architectures.register_family({model_type!r}, Family(layers=..., attention=..., "
        "query=..., key=..., value=...))."
    )


def _lacking(base: nn.Module, config: PretrainedConfig, family: Family) -> str | None:
    """The path of the first part that is not there, or None."""
    listed = _submodule(base, family.layers)
    if not isinstance(listed, nn.ModuleList) or not len(listed):
        return family.layers
    for number, layer in enumerate(family.called(listed, config)):
        for part in (family.query, family.key, family.value):
            if _submodule(layer, f"{family.attention}.{part}") is None:
                return f"{family.layers}.{number}.{family.attention}.{part}"
    return None


def _encoder(base: nn.Module, config: PretrainedConfig, family: Family) -> Encoder:
    listed = base.get_submodule(family.layers)
    assert isinstance(listed, nn.ModuleList)
    layers = list(family.called(listed, config))
    outputs = list(layers)
    if (after := _submodule(base, family.after_first)) is not None:
        outputs[0] = after
    if (after := _submodule(base, family.after_last)) is not None:
        outputs[-1] = after
    attention = [_attention(layer.get_submodule(family.attention), family) for layer in layers]
    module = attention[0].module
    plain = getattr(config, "position_embedding_type", None) in (None, "absolute")
    plain = plain and {name for name, _ in module.named_children()} <= _PLAIN_PARTS
    return Encoder(
        layers=tuple(layers),
        outputs=tuple(outputs),
        attention=tuple(attention),
        num_heads=_num_heads(module, config),
        hidden_size=config.hidden_size,
        max_length=_max_length(base),
        known_scores=plain or family.read is not None,
    )


def _attention(module: nn.Module, family: Family) -> Attention:
    return Attention(
        module=module,
        queries=module.get_submodule(family.query),
        keys=module.get_submodule(family.key),
        values=module.get_submodule(family.value),
        read=family.read,
        biased=family.biased,
        window=family.window(module),
    )


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    if not path:
        return None
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


def _num_heads(attention: nn.Module, config: PretrainedConfig) -> int:
    """The heads of the attention module itself, where it says; ConvBERT has fewer than its configuration."""
    return int(getattr(attention, "num_attention_heads", config.num_attention_heads))
