"""Initialises a student from its teacher's weights, whatever the teacher's architecture.

A student is a BERT. Its hidden space is the span of the leading principal components of the teacher's hidden states
(the teacher's own space at its width). Going up layer by layer, each begins with the maps of the teacher's layer that
it is matched with, projected to that space, and is fitted by least squares to the teacher's states on the calibration
texts, reading what the student's layers below produce (`layer_init`). Where the maps alone give the teacher's states,
as in a copy of a BERT, the fits leave them as they are. Embeddings and head follow the same principle
(`embedding_init`, `head_transfer`). The best linear maps back to the teacher's width are offered as initial values of
the projections.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import has_finite_weights
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.embedding_init import init_embeddings
from hf_tinybert.student.head_transfer import transfer_head
from hf_tinybert.student.layer_init import StudentSpace, init_layer, run_layer
from hf_tinybert.student.linear_fit import least_squares
from hf_tinybert.student.teacher_trace import TeacherTrace
from hf_tinybert.student.unit_states import make_states_unit

#: Rows and length of random calibration tokens: enough for a stable basis of a few hundred dimensions.
_RANDOM_BATCH = (64, 64)


@torch.no_grad()
def start_from_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mapping: LayerMapping,
    calibration: Mapping[str, Tensor] | None = None,
    source: PreTrainedModel | None = None,
) -> dict[str, Tensor]:
    """Fill the student's weights from the teacher's, or its layers from those of another encoder.

    Args:
        student: a BERT, not wider than the model whose layers it gets.
        teacher: of any architecture whose specification names the parts of its layers.
        mapping: layer m learns from teacher layer g(m), and is initialised from it; a layer without an entry stays
            random.
        calibration: a tokenised batch, truncated to what both models can read; random tokens if None.
        source: an encoder that reads the teacher's token ids, from which embeddings and layers are taken, the latter
            uniformly. The head is the teacher's in any case.

    Returns:
        Initial values of the projections (see `hf_tinybert.student.projection_init.offer`), empty at equal width.

    Raises:
        ValueError: student or source are of another architecture, weights are not finite, or the student is wider or
            has more positions.
    """
    origin = teacher if source is None else source
    _check(student, origin)
    models = list(dict.fromkeys((teacher, origin)))
    was_training = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        student.to(teacher.device)
        length = min(_length(student, model) for model in models)
        texts = CalibrationTexts.from_batch(_batch(teacher, calibration), length).to(teacher.device)
        layers = mapping if source is None else _uniform(student, source)
        trace = TeacherTrace(_precise(origin).to(teacher.device), texts, list(layers.layers.values()))
        space, states = _init_body(student, trace, layers)
        if source is not None:
            trace = TeacherTrace(_precise(teacher), texts, list(mapping.layers.values()))
        transfer_head(student, trace, states[max(states)], space if source is None else None)
        if not space.is_whole:
            states = make_states_unit(student, states, texts)
        if source is None and space.is_whole:
            return {}
        offers: dict[str, Tensor] = {}
        for layer, state in states.items():
            if layer in mapping:
                fit = least_squares(texts.pack(state), trace.hidden[mapping[layer]])
                offers[f"{layer}.weight"], offers[f"{layer}.bias"] = fit.weight, fit.bias
        return offers
    finally:
        for model, training in zip(models, was_training, strict=True):
            model.train(training)
        student.to("cpu")


def _init_body(
    student: PreTrainedModel, trace: TeacherTrace, mapping: LayerMapping
) -> tuple[StudentSpace, dict[int, list[Tensor]]]:
    """Set embeddings and layers; returns the student's space, and its states by layer and chunk."""
    matched = [trace.states[layer] for layer in dict.fromkeys((0, *mapping.layers.values()))]
    space = StudentSpace.from_states(matched, student.config.hidden_size)
    states = {0: init_embeddings(student.base_model.embeddings, trace, space)}
    for layer, module in enumerate(student.base_model.encoder.layer, start=1):
        before = states[layer - 1]
        states[layer] = (
            init_layer(module, trace, mapping.layers[layer], space, before)
            if layer in mapping.layers
            else run_layer(module, before, trace.texts)
        )
    return space, states


def _uniform(student: PreTrainedModel, source: PreTrainedModel) -> LayerMapping:
    return LayerMapping.uniform(Encoder.from_model(student).num_layers, Encoder.from_model(source).num_layers)


def _precise(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32, a copy where it is not."""
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()


def _check(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    if student.config.model_type != "bert":
        raise ValueError(
            f"init='teacher' makes a BERT, and the student's configuration is of a {student.config.model_type}: use a "
            "TinyBertConfig, or create_student(teacher, ..., init='random') (--student-init random)."
        )
    if Encoder.from_model(teacher).parts is None:
        raise ValueError(
            f"init='teacher' cannot start from a {type(teacher).__name__}: its architecture's specification does not "
            "name the parts of its layers (ArchitectureSpec(..., parts=LayerParts(...))). Name them, use "
            "create_student(teacher, ..., init='random') (--student-init random), or the name of an existing small "
            "checkpoint."
        )
    width, limit = student.config.hidden_size, teacher.config.hidden_size
    if width > limit:
        raise ValueError(f"init='teacher' needs a student no wider than its teacher: {width} is more than {limit}.")
    if not has_finite_weights(teacher):
        raise ValueError("The teacher's weights are not all finite numbers: its training has diverged, repeat it.")


def _length(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """The longest input that both models take."""
    positions: int = student.config.max_position_embeddings
    return Encoder.from_model(teacher).at_most(positions)


def _batch(teacher: PreTrainedModel, calibration: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
    """The calibration batch; random tokens where there is none."""
    if calibration is not None:
        return calibration
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(teacher.config.vocab_size, _RANDOM_BATCH, generator=generator)
    # RoBERTa counts no position for padding.
    ids[ids == teacher.config.pad_token_id] = (teacher.config.pad_token_id or 0) + 1
    return {"input_ids": ids}
