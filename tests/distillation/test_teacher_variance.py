"""The teacher's variance against what it stands for: the loss of the best constant."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert import LayerMapping, losses
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.objective import ObjectiveConfig, Weights
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.teacher_variance import TeacherVariance
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import Features
from hf_tinybert.models.output_types import REGRESSION
from hf_tinybert.teacher.source import OnlineTeacher

ALL = {"embedding": 1.0, "hidden": 1.0, "attention": 1.0, "prediction": 1.0}
MAPPING = LayerMapping.from_spec("0:0,1:2,2:3", 2, 3)


def settings_of(heads=None, **changes):
    return ObjectiveConfig(MAPPING, Weights(ALL), heads, OutputLoss(**changes), relative=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.lists(st.integers(3, 6), min_size=1, max_size=3), st.sampled_from([0.01, 1.0, 30.0]))
def test_hidden_states_and_outputs_vary_about_the_mean_of_each_feature(seed, sizes, scale):
    source = np.random.default_rng(seed)
    variance, seen, outputs = TeacherVariance(settings_of(kind=REGRESSION)), [], []
    for rows in sizes:
        states = {layer: scale * source.normal(layer, 1 + layer, size=(rows, 4, 3)) for layer in (0, 2, 3)}
        mask = source.integers(0, 2, size=(rows, 4))
        mask[:, 0] = 1
        logits = source.normal(5, scale, size=(rows, 1))
        hidden = {layer: torch.tensor(value) for layer, value in states.items()}
        variance.update(Features(torch.tensor(logits), hidden), torch.tensor(mask))
        seen.append({layer: value[mask.astype(bool)] for layer, value in states.items()})
        outputs.append(logits)
    found = variance.compute()
    for name, layer in (("embedding", 0), ("hidden_1", 2), ("hidden_2", 3)):
        expected = np.concatenate([part[layer] for part in seen]).var(axis=0).mean()
        assert found[name] == pytest.approx(expected, rel=1e-6)
    assert found["prediction"] == pytest.approx(np.concatenate(outputs).var(), rel=1e-6)


@pytest.mark.parametrize("kind", ["heads", "mean", "mixing"])
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
@pytest.mark.parametrize("centred", [False, True])
def test_scores_vary_about_the_mean_of_each_head(kind, family, centred):
    """No constant, one for each head, has a smaller loss than the variance."""
    teacher, batch = tiny_models.model(family), tiny_models.batch((9, 4, 7))
    encoder = Encoder.from_model(teacher)
    mapping = LayerMapping.from_spec("0:0,1:1,2:2,3:3", 3, 3)
    matching = HeadMatching.from_encoders(kind, encoder, encoder, mapping, centred)
    features = OnlineTeacher(teacher, (), (2, 3), kinds=("queries", "keys", "bias")).features(batch, True, False)
    config = ObjectiveConfig(MAPPING, Weights(ALL | {"hidden": 0.0, "embedding": 0.0}), matching)
    variance = TeacherVariance(config)
    variance.update(features, batch["attention_mask"])
    found = variance.compute()
    assert set(found) == {"attention_1", "attention_2"}
    for layer, teacher_layer in ((1, 2), (2, 3)):
        scores = matching.teacher_scores(layer, teacher_layer, features, batch["attention_mask"]).numpy()
        assert found[f"attention_{layer}"] == pytest.approx(((scores - scores.mean(0)) ** 2).mean(), rel=1e-5)
        # With scores of 0 the student's loss is the second moment.
        nothing = {n: {layer: torch.zeros_like(getattr(features, n)[teacher_layer])} for n in ("queries", "keys")}
        mixing = matching.start_of_mixing() if kind == "mixing" else None
        args = (layer, teacher_layer, Features(**nothing), features, mixing, batch["attention_mask"])
        assert (scores**2).mean() == pytest.approx(float(matching.loss(*args)), rel=1e-4)


def test_relations_are_compared_in_nats_already():
    teacher, batch = tiny_models.model(), tiny_models.batch()
    encoder = Encoder.from_model(teacher)
    matching = HeadMatching.from_encoders("relations", encoder, encoder, MAPPING)
    features = OnlineTeacher(teacher, (0, 2, 3), (2, 3), kinds=matching.kinds).features(batch, True, False)
    variance = TeacherVariance(ObjectiveConfig(MAPPING, Weights(ALL), matching))
    variance.update(features, None)
    assert set(variance.compute()) == {"embedding", "hidden_1", "hidden_2"}


def test_the_best_constant_has_a_loss_of_one():
    states, mask = torch.randn(5, 6, 8) * 7 + 3, torch.ones(5, 6)
    variance = TeacherVariance(settings_of())
    variance.update(Features(hidden={0: states, 2: states, 3: states}), mask)
    constant = states.flatten(0, 1).mean(0).expand_as(states)
    assert float(losses.hidden_loss(constant, states, mask)) / variance.compute()["hidden_1"] == pytest.approx(1.0)


def test_a_level_without_variance_does_not_drown_the_others():
    """It is taken to vary by a small share of what the others of its kind do."""
    still, moving = torch.ones(4, 3, 2), torch.randn(4, 3, 2)
    variance = TeacherVariance(settings_of())
    variance.update(Features(hidden={0: still, 2: still, 3: moving}), None)
    found = variance.compute()
    assert found["hidden_1"] == pytest.approx(1e-4 * found["hidden_2"] / 2)
    assert found["embedding"] == pytest.approx(1e-4)
