"""A student's states get unit variance, and what it computes stays."""

from __future__ import annotations

import copy

import factories
import pytest
import scaled_teachers
import tiny_models
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from hf_tinybert import TinyBertConfig, create_student
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.unit_states import make_states_unit

CLASSES = [
    BertForSequenceClassification,
    BertForTokenClassification,
    BertForQuestionAnswering,
    BertForMaskedLM,
    BertModel,
]


def uneven(kind, scale):
    """A model whose states are of other sizes from level to level."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3}
    model = kind(BertConfig(vocab_size=tiny_models.VOCABULARY, **sizes)).eval()
    norms = [m for m in model.base_model.modules() if isinstance(m, torch.nn.LayerNorm)]
    for power, norm in enumerate(norms):
        for parameter in norm.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
            parameter.data *= scale ** (power % 3 - 1)
    return model


def states_of(model, batch):
    return list(model.base_model(**batch, output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("scale", [0.2, 5.0])
@pytest.mark.parametrize("kind", CLASSES)
@torch.no_grad()
def test_the_model_computes_the_same_from_states_of_unit_variance(kind, scale):
    model, batch = uneven(kind, scale), tiny_models.batch((9, 4, 7))
    texts = CalibrationTexts.from_batch(batch, 16)
    before, real = copy.deepcopy(model), batch["attention_mask"].bool()
    chunks = [
        states_of(model, {name: chunk[name] for name in ("input_ids", "attention_mask")}) for chunk in texts.chunks
    ]
    layers = {number: [chunk[number] for chunk in chunks] for number in range(4)}
    found = make_states_unit(model, layers, texts)
    old, new = before(**batch), model(**batch)
    torch.testing.assert_close(new[0], old[0], rtol=1e-3, atol=1e-4)
    spreads = [float(state[real].var(dim=0, correction=0).mean()) for state in states_of(model, batch)]
    goals = [1.0] * 4
    if kind is BertModel:  # whose states are its output
        goals[3] = float(old[0][real].var(dim=0, correction=0).mean())
    assert spreads == pytest.approx(goals, rel=1e-3)
    for number, states in found.items():
        spread = float(texts.pack(states).var(dim=0, correction=0).mean())
        assert spread == pytest.approx(goals[number], rel=1e-3)


def test_constant_states_stay():
    model, batch = uneven(BertForSequenceClassification, 1.0), tiny_models.batch((9, 4, 7))
    with torch.no_grad():
        norm = model.base_model.embeddings.LayerNorm
        norm.weight.zero_()
        texts = CalibrationTexts.from_batch(batch, 16)
        chunk = {name: texts.chunks[0][name] for name in ("input_ids", "attention_mask")}
        layers = {number: [state] for number, state in enumerate(states_of(model, chunk))}
        old, shift = model(**batch).logits, norm.bias.clone()
        make_states_unit(model, layers, texts)
        assert torch.equal(norm.bias, shift)
        torch.testing.assert_close(model(**batch).logits, old, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_start_does_not_depend_on_the_size_of_the_teachers_states(scale, loaded_teacher):
    """The student of a teacher whose LayerNorms are scaled, and undone behind them, has the same weights."""
    made = []
    for factor in (1.0, scale):
        teacher = scaled_teachers.with_states_times(loaded_teacher, factor)
        config = TinyBertConfig.from_teacher(
            teacher.config, hidden_size=48, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4
        )
        rows = factories.household()["train"].select(range(200)).remove_columns("labels")
        calibration = factories.tokenizer().pad(rows.to_dict(), return_tensors="pt")
        made.append(create_student(teacher, config, calibration=dict(calibration)).state_dict())
    for name, value in made[0].items():
        difference = (value - made[1][name]).abs().max()
        assert difference <= 0.02 * value.abs().max(), name
