"""The parts of an encoder whose outputs the losses compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_tinybert.models.architectures.registry import CONVENTIONAL, find_spec
from hf_tinybert.models.architectures.specs import ArchitectureSpec, LayerParts, Read
from hf_tinybert.models.peft import unwrapped

logger = logging.get_logger(__name__)

#: Submodules of an attention module whose scores are Q K^T / sqrt(head_size) alone.
_PLAIN_PARTS = {"query", "key", "value", "q_lin", "k_lin", "v_lin", "out_lin", "dense", "dropout", "LayerNorm"} | {
    "attention_dropout",
    "output_dropout",
}


@dataclass(frozen=True)
class Attention:
    """The modules that compute the attention scores of a layer: Q K^T / sqrt(head_size), plus a bias in some families.

    Attributes:
        module: computes the scores.
        queries: the query projection, `[B, S, d]` to `[B, S, heads * head_size]`.
        keys: the key projection.
        values: the value projection; in some families one module is all three.
        read: makes queries, keys, values and bias from the projections' outputs; None where these are used unchanged.
        biased: `read` also gives a `bias` `[B, heads, S, S]`, which is added to the scores.
        window: a position attends to those at most so many positions away; None: to all.
        terms: scores are divided by the root of this number, too.
    """

    module: nn.Module
    queries: nn.Module
    keys: nn.Module
    values: nn.Module
    read: Read | None = None
    biased: bool = False
    window: int | None = None
    terms: int = 1


@dataclass(frozen=True)
class Encoder:
    """The parts of a model whose outputs the losses compare.

    Attributes:
        layers: the transformer layers in the order in which they are called, a shared one several times; each takes
            hidden states `[B, S, d]` first and returns them first.
        outputs: the module whose output is the hidden state after each layer: the layer itself, or a convolution or
            final LayerNorm behind it.
        attention: of each layer.
        num_heads: attention heads of a layer.
        hidden_size: d.
        max_length: the longest input in tokens, or None if it is not limited.
        known_scores: whether `Attention` describes the scores; False where the model may add terms of its own.
        embeddings: the module whose output is the input of the first layer, or of a map to the layers' width before
            it.
        parts: paths of the other parts of a layer, or None where they are not known.
        position_bias: from a length S to the bias `[1, heads, S, S]` of all layers' scores, where it depends on
            positions alone.
    """

    layers: tuple[nn.Module, ...]
    outputs: tuple[nn.Module, ...]
    attention: tuple[Attention, ...]
    num_heads: int
    hidden_size: int
    max_length: int | None
    known_scores: bool
    embeddings: nn.Module | None = None
    parts: LayerParts | None = None
    position_bias: Callable[[int], Tensor] | None = None

    @property
    def num_layers(self) -> int:
        """The number of transformer layers."""
        return len(self.layers)

    @property
    def biased(self) -> bool:
        """Whether the scores have a term beside Q K^T."""
        return any(attention.biased for attention in self.attention)

    def at_most(self, length: int) -> int:
        """`length`, or the longest input of the model where that is shorter."""
        return length if self.max_length is None else min(length, self.max_length)

    @classmethod
    def from_model(cls, model: PreTrainedModel) -> Encoder:
        """Find the parts of an encoder.

        A type that is not registered is tried with the module names of BERT and DistilBERT.

        Raises:
            ValueError: the model lacks a part that its specification names, or, without one, has none of the
                conventional names; the message names what is missing and shows how to register an architecture.
        """
        model = unwrapped(model)
        base = getattr(model, model.base_model_prefix, model) if model.base_model_prefix else model
        model_type = model.config.model_type
        registered = find_spec(model_type)
        missing = []
        for spec in CONVENTIONAL if registered is None else (registered,):
            lacking = _lacking(base, model.config, spec)
            if lacking is None:
                if registered is None:
                    logger.warning_once(
                        f"model_type {model_type!r} is not registered; its layers have BERT's or DistilBERT's names. "
                        "If its attention scores are more than Q K^T / sqrt(head_size), register "
                        "it (hf_tinybert.models.architectures.register_architecture) or set attention_weight=0."
                    )
                return _encoder(base, model.config, spec)
            missing.append(lacking)
        raise ValueError(
            f"{type(model).__name__} (model_type {model_type!r}) is not an encoder whose layers can be matched: it "
            f"lacks {' and '.join(missing)}. Name its layers and its query, key and value projections with "
            f"hf_tinybert.models.architectures.register_architecture({model_type!r}, ArchitectureSpec(layers=..., "
            "attention=..., query=..., key=..., value=...))."
        )


def _lacking(base: nn.Module, config: PretrainedConfig, spec: ArchitectureSpec) -> str | None:
    """The path of the first part that the model lacks, or None."""
    listed = _submodule(base, spec.layers)
    if not isinstance(listed, nn.ModuleList) or not len(listed):
        return spec.layers
    for number, layer in enumerate(spec.called(listed, config)):
        for part in (spec.query, spec.key, spec.value):
            if _submodule(layer, f"{spec.attention}.{part}") is None:
                return f"{spec.layers}.{number}.{spec.attention}.{part}"
    return None


def _encoder(base: nn.Module, config: PretrainedConfig, spec: ArchitectureSpec) -> Encoder:
    listed = base.get_submodule(spec.layers)
    assert isinstance(listed, nn.ModuleList)
    layers = list(spec.called(listed, config))
    outputs = list(layers)
    if (following := _submodule(base, spec.after_first)) is not None:
        outputs[0] = following
    if (following := _submodule(base, spec.after_last)) is not None:
        outputs[-1] = following
    attention = [_attention(layer.get_submodule(spec.attention), spec) for layer in layers]
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
        known_scores=plain or spec.read is not None,
        embeddings=_submodule(base, "embeddings"),
        parts=_known(spec.parts, layers),
        position_bias=None if spec.position_bias is None else partial(spec.position_bias, base),
    )


def _attention(module: nn.Module, spec: ArchitectureSpec) -> Attention:
    return Attention(
        module=module,
        queries=module.get_submodule(spec.query),
        keys=module.get_submodule(spec.key),
        values=module.get_submodule(spec.value),
        read=spec.read,
        biased=spec.biased,
        window=spec.window(module),
        terms=spec.terms(module),
    )


def _known(parts: LayerParts | None, layers: list[nn.Module]) -> LayerParts | None:
    """The parts of a specification, unless a layer lacks one."""
    if parts is None:
        return None
    paths = (value for value in vars(parts).values() if isinstance(value, str))
    return None if any(_submodule(layer, path) is None for path in paths for layer in layers) else parts


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    if not path:
        return None
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _max_length(base: nn.Module) -> int | None:
    """Rows of the position table that inputs can use; RoBERTa's positions start after the padding id."""
    table = _submodule(base, "embeddings.position_embeddings")
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _num_heads(attention: nn.Module, config: PretrainedConfig) -> int:
    """The heads of the attention module, by its own attribute; ConvBERT has fewer than its configuration."""
    return int(getattr(attention, "num_attention_heads", config.num_attention_heads))
