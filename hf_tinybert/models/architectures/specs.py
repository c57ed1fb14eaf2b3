"""The architectures: one specification for each naming of an encoder's parts, or way to compute its scores."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn
from transformers import PretrainedConfig

if TYPE_CHECKING:
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
    from transformers.models.modernbert.modeling_modernbert import ModernBertAttention
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

#: Tensors by name: the arguments of a forward pass (some are tuples of tensors, or None), or projections' outputs.
Tensors: TypeAlias = Mapping[str, Tensor]
#: From an attention module, the arguments of its forward pass and the outputs of its projections to `queries`, `keys`,
#: `values` and, where the scores have a further term, `bias` (see `Attention`).
Read: TypeAlias = Callable[[nn.Module, Tensors, Tensors], dict[str, Tensor]]
#: From a base model and a length S to the bias `[1, heads, S, S]` that every layer adds to its scores, in any text.
PositionBias: TypeAlias = Callable[[nn.Module, int], Tensor]


def _as_listed(layers: nn.ModuleList, config: PretrainedConfig) -> Sequence[nn.Module]:
    return list(layers)


def _without_window(attention: nn.Module) -> int | None:
    return None


def _one_term(attention: nn.Module) -> int:
    return 1


@dataclass(frozen=True)
class LayerParts:
    """Paths, below a layer, of its linear layers and norms other than queries, keys and values.

    Attributes:
        attention_output: the linear layer behind the heads.
        attention_norm: the LayerNorm of attention: after the residual connection, or before attention (`pre_norm`).
        feed_forward_in: the first linear layer of the feed-forward block; of a gated one, inputs and gates together.
        feed_forward_out: the second.
        output_norm: the LayerNorm of the feed-forward block.
        pre_norm: the norms stand before attention and feed-forward block, as in ModernBERT.
    """

    attention_output: str
    attention_norm: str
    feed_forward_in: str
    feed_forward_out: str
    output_norm: str
    pre_norm: bool = False


@dataclass(frozen=True)
class ArchitectureSpec:
    """How an architecture names its parts.

    Attributes:
        layers: path of the list of layers, below the base model.
        attention: path of the module that computes the scores, below a layer.
        query: path of the query projection, below `attention`.
        key: path of the key projection.
        value: path of the value projection; the same three times for a fused projection, which needs `read`.
        called: the layers in the order in which they are called, from the list and the configuration.
        after_first: path of a module behind the first layer, whose output is the first hidden state; "" for none.
        after_last: path of a final LayerNorm behind the last layer; "" for none.
        read: makes queries, keys, values and bias from the projections' outputs (see `Attention`).
        biased: whether `read` returns a bias.
        position_bias: computes that bias where it depends on positions alone; None where it depends on the tokens.
        window: to how many positions on either side an attention module attends, or None.
        terms: the number by whose root an attention module divides its scores beside that of the head's size.
        parts: the other parts of a layer, from which a student can be initialised; None where it cannot.
    """

    layers: str
    attention: str
    query: str
    key: str
    value: str
    called: Callable[[nn.ModuleList, PretrainedConfig], Sequence[nn.Module]] = _as_listed
    after_first: str = ""
    after_last: str = ""
    read: Read | None = None
    biased: bool = False
    position_bias: PositionBias | None = None
    window: Callable[[nn.Module], int | None] = _without_window
    terms: Callable[[nn.Module], int] = _one_term
    parts: LayerParts | None = None


def _albert_layers(groups: nn.ModuleList, config: PretrainedConfig) -> Sequence[nn.Module]:
    """ALBERT calls each group of shared layers several times in a row."""
    if config.inner_group_num != 1:
        raise ValueError(
            f"ALBERT with inner_group_num={config.inner_group_num} has several layers in each of its hidden states; "
            "only inner_group_num=1 can be matched layer by layer."
        )
    number: int = config.num_hidden_layers
    called = [groups[index * len(groups) // number] for index in range(number)]
    return [group.get_submodule("albert_layers.0") for group in called]


def _mpnet(module: nn.Module, arguments: Tensors, projected: Tensors) -> dict[str, Tensor]:
    """MPNet adds a bias of the relative position, which the encoder computes once for all layers."""
    return {**projected, "bias": arguments["position_bias"]}


def _mpnet_bias(base: nn.Module, length: int) -> Tensor:
    """The bias as MPNet's encoder computes it, which reads nothing of the states but their shape and device."""
    encoder: MPNetEncoder = base.get_submodule("encoder")
    bias: Tensor = encoder.compute_position_bias(encoder.relative_attention_bias.weight.new_empty(1, length))
    return bias


def _deberta_terms(module: DisentangledSelfAttention) -> int:
    """Content, and the terms of content and relative position that are switched on."""
    return 1 + ("c2p" in module.pos_att_type) + ("p2c" in module.pos_att_type)


def _deberta(module: DisentangledSelfAttention, arguments: Tensors, projected: Tensors) -> dict[str, Tensor]:
    """DeBERTa-v2 divides by sqrt(head_size * terms) and adds terms of content and relative position (He et al. 2021).

    The added terms are computed once more, by the family's own code and without dropout.
    """
    terms = _deberta_terms(module)
    heads = module.num_attention_heads
    query, key = (module.transpose_for_scores(projected[name], heads) for name in ("queries", "keys"))
    read = {**projected, "queries": projected["queries"] / math.sqrt(terms)}
    shape = (-1, heads, query.shape[-2], key.shape[-2])
    if module.relative_attention:
        added = module.disentangled_attention_bias(
            query, key, arguments.get("relative_pos"), arguments["rel_embeddings"], terms
        )
        read["bias"] = added.view(shape)
    else:
        read["bias"] = query.new_zeros(()).expand(len(projected["queries"]), *shape[1:])
    return read


def _modernbert(module: ModernBertAttention, arguments: Tensors, projected: Tensors) -> dict[str, Tensor]:
    """ModernBERT has one projection for all three, and rotates queries and keys by their positions."""
    fused = projected["queries"]
    if fused.dim() != 3:
        raise ValueError(
            "ModernBERT with flash_attention_2 removes the padding from the batch, so its layers cannot be matched "
            "position by position: load it with attn_implementation='sdpa'."
        )
    parts = fused.unflatten(-1, (3, -1, module.head_dim))
    query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
    if "position_embeddings" in arguments:
        cos, sin = arguments["position_embeddings"]
    else:
        cos, sin = module.rotary_emb(parts, position_ids=arguments["position_ids"])
    rotate = importlib.import_module(type(module).__module__).apply_rotary_pos_emb
    query, key = rotate(query, key, cos, sin)
    names = ("queries", "keys", "values")
    return {name: part.transpose(1, 2).flatten(2) for name, part in zip(names, (query, key, value), strict=True)}


def _modernbert_window(attention: ModernBertAttention) -> int | None:
    """The window of local layers; transformers 5 counts the position itself, 4.57 marks global layers by -1."""
    if hasattr(attention, "local_attention"):
        reach: int = attention.local_attention[0]
        return None if reach < 0 else reach
    return None if attention.sliding_window is None else attention.sliding_window - 1


_BERT_PARTS = LayerParts(
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"
)
BERT = ArchitectureSpec("encoder.layer", "attention.self", "query", "key", "value", parts=_BERT_PARTS)
DISTILBERT = ArchitectureSpec(
    "transformer.layer",
    "attention",
    *("q_lin", "k_lin", "v_lin"),
    parts=LayerParts("attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
)
ALBERT = ArchitectureSpec(
    "encoder.albert_layer_groups",
    "attention",
    *("query", "key", "value"),
    called=_albert_layers,
    parts=LayerParts("attention.dense", "attention.LayerNorm", "ffn", "ffn_output", "full_layer_layer_norm"),
)
MPNET = ArchitectureSpec(
    "encoder.layer",
    "attention.attn",
    *("q", "k", "v"),
    read=_mpnet,
    biased=True,
    position_bias=_mpnet_bias,
    parts=LayerParts(
        "attention.attn.o", "attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"
    ),
)
DEBERTA_V2 = ArchitectureSpec(
    "encoder.layer",
    "attention.self",
    *("query_proj", "key_proj", "value_proj"),
    after_first="encoder.conv",
    read=_deberta,
    terms=_deberta_terms,
    biased=True,
    parts=_BERT_PARTS,
)
MODERNBERT = ArchitectureSpec(
    "layers",
    "attn",
    *("Wqkv",) * 3,
    after_last="final_norm",
    read=_modernbert,
    window=_modernbert_window,
    parts=LayerParts("attn.Wo", "attn_norm", "mlp.Wi", "mlp.Wo", "mlp_norm", pre_norm=True),
)
