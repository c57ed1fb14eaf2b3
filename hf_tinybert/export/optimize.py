"""Graphs with fused operators: a whole attention in one, GELU with its bias, LayerNorm with the sum before it.

They are ONNX Runtime's own operators (`com.microsoft`), which its builds for browsers and phones know too; other
engines do not. In 8 bits they pay: the three projections of an attention become one product of whole numbers.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tinybert.export import exporters
from hf_tinybert.models.architectures import Encoder

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertLayer, BertSelfAttention

#: Optimum's levels: the standard's own simplifications; fused operators; GELU by its tanh approximation as well.
LEVELS = ("O1", "O2", "O3")


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be fused here: a BERT's, as students are that this package makes."""
    if model.config.model_type != "bert":
        return False
    return exporters.has_optimum() or hasattr(torch.onnx, "ops")


def fuse(model: PreTrainedModel, plain: Path, target: Path, level: str) -> None:
    """Write an optimised graph: by Optimum's `ORTOptimizer`, or with the operators that it would find.

    Args:
        model: in eval mode, on the CPU.
        plain: its ONNX file as exported.
        target: to write, in a folder of its own.
        level: one of `LEVELS`.

    Raises:
        ValueError: the model is no BERT.
    """
    if not can_fuse(model):
        raise ValueError(
            f"optimize={level!r} takes BERT models; this is a {model.config.model_type} (or this torch has no "
            "torch.onnx.ops). Give optimize=None."
        )
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        if exporters.has_optimum():
            _by_optimum(model, plain, Path(scratch), level).replace(target)
        else:
            _by_onnxruntime(model, plain, Path(scratch), level).replace(target)


def _by_optimum(model: PreTrainedModel, plain: Path, scratch: Path, level: str) -> Path:
    from optimum.onnxruntime import ORTOptimizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig

    settings = AutoOptimizationConfig.with_optimization_level(level)
    if level != "O1":  # what ONNX Runtime does besides when it opens a file; done now, it doubles tied weights
        settings.optimization_level = 0
    settings.use_raw_attention_mask = True  # else masks would be lengths, which are wrong of padding on the left
    ORTOptimizer([plain], config=model.config).optimize(settings, save_dir=scratch, file_suffix="")
    return scratch / plain.name


def _by_onnxruntime(model: PreTrainedModel, plain: Path, scratch: Path, level: str) -> Path:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    source, target = scratch / "source.onnx", scratch / "target.onnx"
    basic = level == "O1"
    if basic:
        source.write_bytes(plain.read_bytes())
    else:
        exporters.by_torch(_with_fused_attention(model), source, mask_axes=4)
    options = FusionOptions("bert")
    options.enable_gelu_approximation = level == "O3"
    optimised = optimize_model(
        str(source),
        model_type="bert",
        num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size,
        opt_level=1 if basic else 0,
        only_onnxruntime=basic,
        optimization_options=options,
    )
    optimised.save_model_to_file(str(target))
    return target


def _with_fused_attention(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose attention is one operator each; it can be exported, not run."""
    copied = copy.deepcopy(model)
    layer: BertLayer
    for layer in Encoder.from_model(copied).layers:
        layer.attention.self = _FusedAttention(layer.attention.self)
    return copied


class _FusedAttention(nn.Module):
    """`com.microsoft.Attention` in the place of BERT's self-attention."""

    def __init__(self, plain: BertSelfAttention) -> None:
        super().__init__()
        projections = (plain.query, plain.key, plain.value)
        self.weight = nn.Parameter(torch.cat([one.weight for one in projections]).T.contiguous())
        self.bias = nn.Parameter(torch.cat([one.bias for one in projections]))
        self.num_heads = plain.num_attention_heads

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, **kwargs: object) -> tuple[Tensor, None]:
        """From `[B, S, H]`, and a mask of `[B, 1, 1, S]` with 1 at real tokens."""
        context: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::Attention",
            (hidden_states, self.weight, self.bias, attention_mask[:, 0, 0].to(torch.int32)),
            attrs={"num_heads": self.num_heads, "mask_filter_value": torch.finfo(torch.float32).min},
            dtype=hidden_states.dtype,
            shape=hidden_states.shape,
            version=1,
        )
        return context, None
