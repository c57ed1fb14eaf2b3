"""Fidelity against float64 references, computed from what the models themselves return."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny_models
import torch
from accelerate import Accelerator
from transformers import AutoModel

from hf_tinybert import create_student
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.objective import ObjectiveConfig, Weights
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.evaluation.layer_fidelity import LayerFidelity, fidelity_table
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder

ONE_PROCESS = Accelerator(cpu=True)
LEVELS = {"embedding": 0.5, "hidden": 1.0, "attention": 2.0}


def batch(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, tiny_models.VOCABULARY, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, width - row :] = 0 if row else 1
    return {"input_ids": ids * mask, "attention_mask": mask}


def pair(init="random"):
    teacher = tiny_models.model(auto=AutoModel, attention="eager")
    student = create_student(teacher, tiny_models.small_config(teacher), init=init)
    return student, teacher


def settings_of(student, teacher, **weights):
    ours, theirs = Encoder.from_model(student), Encoder.from_model(teacher)
    mapping = LayerMapping.from_spec("1:1,2:3,0:0", ours.num_layers, theirs.num_layers)
    heads = HeadMatching.from_encoders("auto", ours, theirs, mapping)
    return ObjectiveConfig(mapping, Weights(LEVELS | weights, {2: 0.5}), heads)


def measure(student, teacher, projections, settings, batches):
    fidelity = LayerFidelity(student, teacher, projections, settings)
    losses = [float(fidelity.update(inputs)[0]) for inputs in batches]
    measured = fidelity.compute("eval", ONE_PROCESS)
    fidelity.close()
    return measured, losses


def reference(student, teacher, projections, settings, batches):
    """Every real position of every batch, in float64, from hidden states and attention that the models give out."""
    student, teacher, projections = (copy.deepcopy(m).double() for m in (student, teacher, projections))
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    values = {}

    def add(name, numbers):
        values.setdefault(name, []).extend(np.ravel(numbers))

    for inputs in batches:
        mask = inputs["attention_mask"].bool().numpy()
        ours, theirs = (m(**inputs, output_hidden_states=True, output_attentions=True) for m in (student, teacher))
        for m, g in settings.mapping.items():
            x = projections(ours.hidden_states[m], m).detach().numpy()[mask]
            y = theirs.hidden_states[g].detach().numpy()[mask]
            name = f"hidden_{m}" if m else "embedding"
            add(f"loss_{name}", ((x - y) ** 2).mean(-1))
            add(f"cosine_{name}", (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1))
            if m:
                p, q = (o.attentions[n - 1].detach().numpy() for o, n in ((ours, m), (theirs, g)))
                add(f"attention_overlap_{m}", np.minimum(p, q).sum(-1).mean(1)[mask])
    return {f"eval_{name}": np.mean(numbers) for name, numbers in values.items()}


def test_means_over_real_positions():
    student, teacher = pair()
    settings = settings_of(student, teacher)
    projections = Projections(16, 24, {0, 1, 2}, shared=False, seed=3)
    batches = [batch(3, 9), batch(2, 5, seed=1), batch(1, 12, seed=2)]
    measured, _ = measure(student, teacher, projections, settings, batches)
    expected = reference(student, teacher, projections, settings, batches)
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    others = measured.keys() - expected.keys()
    assert others == {"eval_loss", "eval_loss_attention_1", "eval_loss_attention_2"}
    weighted = 0.5 * measured["eval_loss_embedding"] + measured["eval_loss_hidden_1"]
    weighted += 0.5 * measured["eval_loss_hidden_2"]
    weighted += 2.0 * (measured["eval_loss_attention_1"] + 0.5 * measured["eval_loss_attention_2"])
    assert measured["eval_loss"] == pytest.approx(weighted, rel=1e-5)


def test_padding_and_batches_change_nothing():
    student, teacher = pair()
    settings, projections = settings_of(student, teacher), Projections(16, 24, {0, 1, 2}, shared=True)
    whole = batch(4, 9)
    usual, losses = measure(student, teacher, projections, settings, [whole])
    assert losses[0] == pytest.approx(usual["eval_loss"], rel=1e-5)
    wider = {name: torch.nn.functional.pad(value, (0, 4)) for name, value in whole.items()}
    rows = [{name: value[row : row + 1] for name, value in wider.items()} for row in range(4)]
    for batches in ([wider], rows):
        assert measure(student, teacher, projections, settings, batches)[0] == pytest.approx(usual, rel=1e-4)


def test_a_copy_of_the_teacher_is_perfect():
    teacher = tiny_models.model(auto=AutoModel)
    student = copy.deepcopy(teacher)
    mapping = LayerMapping.from_spec("uniform", 3, 3)
    projections = Projections(24, 24, {0, 1, 2, 3}, shared=False)
    measured, _ = measure(
        student,
        teacher,
        projections,
        ObjectiveConfig(mapping, Weights(LEVELS), HeadMatching("heads", 4, 4)),
        [batch(3, 7)],
    )
    for name, value in measured.items():
        assert value == pytest.approx(0.0 if "loss" in name else 1.0, abs=1e-4), name


def test_levels_without_weight_are_not_measured():
    student, teacher = pair()
    settings = settings_of(student, teacher, attention=0.0, embedding=0.0)
    measured, _ = measure(student, teacher, Projections(16, 24, {1, 2}, shared=False), settings, [batch(2, 5)])
    assert set(measured) == {
        *(f"eval_{kind}_hidden_{m}" for kind in ("loss", "cosine") for m in (1, 2)),
        "eval_loss",
    }


def test_a_table_has_a_row_for_each_level():
    metrics = {
        "test_loss": 1.5,
        "test_attention_overlap_2": 0.25,
        "test_cosine_embedding": 0.875,
        "test_cosine_hidden_2": -0.5,
        "test_loss_attention_2": 0.125,
        "test_loss_attention_10": 12.0,
        "test_loss_embedding": 0.0625,
        "test_loss_hidden_2": 3.0,
        "test_runtime": 4.0,
        "eval_loss_hidden_1": 9.0,
    }
    assert fidelity_table(metrics, 12, prefix="test").splitlines() == [
        "",
        "On 12 held-out sequences (loss 1.5000)",
        "",
        "level               loss    cosine   overlap",
        "attention_2       0.1250              0.2500",
        "attention_10     12.0000",
        "embedding         0.0625    0.8750",
        "hidden_2          3.0000   -0.5000",
    ]
    assert fidelity_table({"eval_loss": 2.0}, 1).splitlines()[1] == "On 1 held-out sequences (loss 2.0000)"


def test_no_hook_is_left():
    student, teacher = pair()
    fidelity = LayerFidelity(
        student, teacher, Projections(16, 24, {0, 1, 2}, shared=False), settings_of(student, teacher)
    )
    assert tiny_models.hooks(student)
    fidelity.close()
    assert not tiny_models.hooks(student)
    assert not tiny_models.hooks(teacher)
    assert fidelity.compute("eval", ONE_PROCESS) == {}
