"""Gives a student's states unit variance at every level, and changes nothing that it computes.

The size of the states between two LayerNorms is free in a BERT: scale and shift of a LayerNorm, times a number, are
undone by the maps that read its output. A start would take it from the teacher, whose states may be a tenth or ten
times the size of another's, while an optimiser's steps are of one size: how fast a student learns would depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tinybert.models.output_types import VECTORS, output_type
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.layer_init import additive_pairs, input_of

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertLayer

#: A standard deviation at or below this is that of a constant, and stays.
_CONSTANT = 1e-6


def make_states_unit(
    student: PreTrainedModel, states: Mapping[int, list[Tensor]], texts: CalibrationTexts
) -> dict[int, list[Tensor]]:
    """Rescale a student's states.

    The output of a model without a head is its states, and keeps its size.

    Args:
        student: a BERT; is changed.
        states: layer -> what it returns, `[B, S, d']` of each chunk; 0 is the embedding block.
        texts: of the chunks.

    Returns:
        The states as the student returns them now.
    """
    body = student.base_model
    factor = _unit(body.embeddings.LayerNorm, texts.pack(states[0]))
    found = {0: [state * factor for state in states[0]]}
    for number, layer in enumerate(body.encoder.layer, start=1):
        is_output = number == len(body.encoder.layer) and output_type(student) == VECTORS
        factor = _rescale(layer, factor, states[number], found[number - 1], texts, keeps_output=is_output)
        found[number] = [state * factor for state in states[number]]
    for reader in _readers(student):
        reader.weight.div_(factor)
    return found


def _rescale(
    layer: BertLayer,
    factor: float,
    returned: list[Tensor],
    entering: list[Tensor],
    texts: CalibrationTexts,
    keeps_output: bool,
) -> float:
    """Have a layer read states that are `factor` times as large; returns by how much those it returns are larger."""
    attention = layer.attention
    for reader in (attention.self.query, attention.self.key, attention.self.value):
        reader.weight.div_(factor)
    _scale(attention.output.dense, factor)
    middle = [input_of(layer.intermediate, layer, *pair) for pair in additive_pairs(entering, texts)]
    factor = _unit(attention.output.LayerNorm, texts.pack(middle))
    layer.intermediate.dense.weight.div_(factor)
    _scale(layer.output.dense, factor)
    return 1.0 if keeps_output else _unit(layer.output.LayerNorm, texts.pack(returned))


def _unit(norm: nn.LayerNorm, outputs: Tensor) -> float:
    """Scale a LayerNorm so that its outputs `[n, d']` have unit variance; returns the factor."""
    spread = float(outputs.var(dim=0, correction=0).mean().sqrt())
    factor = 1.0 / spread if spread > _CONSTANT else 1.0
    _scale(norm, factor)
    return factor


def _scale(module: nn.Linear | nn.LayerNorm, factor: float) -> None:
    for parameter in (module.weight, module.bias):
        parameter.mul_(factor)


def _readers(student: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers that read what the last layer returns."""
    if getattr(student.base_model, "pooler", None) is not None:
        return [student.base_model.pooler.dense]
    if hasattr(student, "cls"):
        return [student.cls.predictions.transform.dense]
    found = [getattr(student, name, None) for name in ("classifier", "qa_outputs")]
    return [each for each in found if each is not None]
