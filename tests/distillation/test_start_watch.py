"""What a run says of its start, and of an end that is worse."""

from __future__ import annotations

import json
import logging

import factories
import pytest
import torch
from transformers import set_seed

from hf_tinybert.hub.checkpoints import STATE_NAME


def said(caplog, text):
    return [record for record in caplog.records if text in record.getMessage()]


def run(teacher, folder, student=None, **changes):
    args = factories.arguments(folder, **({"phases": "joint", "max_steps": 2} | changes))
    trainer = factories.trainer(student or factories.small_student(teacher, init="teacher"), teacher, args)
    trainer.train()
    return trainer


def test_a_random_start_is_chance_and_is_said_to_be_random(teacher, tmp_path, caplog):
    run(teacher, tmp_path, factories.small_student(teacher, init="random"))
    (record,) = said(caplog, "no better than chance")
    assert record.levelno == logging.WARNING
    assert "its weights are random; student_init='teacher'" in record.getMessage()


def test_a_start_from_the_teacher_is_recorded_and_no_warning(teacher, tmp_path, caplog):
    trainer = run(teacher, tmp_path, factories.student_config(teacher))
    assert not said(caplog, "no better than chance")
    start = trainer.student.config.tinybert["start"]
    assert set(start) == {"agreement", "kl"}
    assert 0.3 < start["agreement"] <= 1.0
    assert 0.0 < start["kl"] < 2.0


def test_a_run_that_ends_below_its_start_says_so(teacher, tmp_path, caplog):
    student = factories.student_config(teacher)
    run(teacher, tmp_path, student, learning_rate=0.3, max_steps=6, lr_scheduler_type="constant", logging_steps=1)
    (record,) = said(caplog, "Training has made the student worse")
    assert record.levelno == logging.WARNING
    assert said(caplog, "is above that of a constant answer")


def test_a_run_that_learns_says_neither(teacher, tmp_path, caplog):
    run(teacher, tmp_path, factories.student_config(teacher), max_steps=20, learning_rate=1e-3)
    assert not said(caplog, "worse")
    assert not said(caplog, "constant answer (")


@pytest.fixture
def with_other_heads(teacher):
    """A student whose queries are those of no head of its teacher, and larger."""
    student = factories.small_student(teacher, init="teacher")
    with torch.no_grad():
        for layer in student.base_model.encoder.layer:
            layer.attention.self.query.weight.copy_(0.5 * torch.randn_like(layer.attention.self.query.weight))
    return student


def levels_of(trainer):
    return {name for entry in trainer.state.log_history for name in entry if name.startswith("loss_")}


def test_attention_is_left_out_where_the_students_heads_are_others(teacher, with_other_heads, tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    trainer = run(teacher, tmp_path, with_other_heads, **options)
    assert said(caplog, "attention_weight=1 matches them all the same")
    assert levels_of(trainer) == {"loss_embedding", "loss_hidden_1", "loss_hidden_2", "loss_prediction"}
    assert trainer.student.config.tinybert["unmatched"] == ["attention"]
    state = json.loads((tmp_path / "checkpoint-1" / STATE_NAME).read_text())
    assert state["attention"] > 1.1
    again = factories.trainer(factories.small_student(teacher), teacher, trainer.args)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "loss_attention_1" not in levels_of(again)
    assert again.student.config.tinybert["unmatched"] == ["attention"]
    for name, value in factories.weights(trainer).items():
        assert torch.equal(factories.weights(again)[name], value), name


@pytest.mark.parametrize("changes", [{"attention_weight": 1.0}, {"loss_scaling": "none"}])
def test_attention_is_matched_where_it_is_asked_for(teacher, with_other_heads, tmp_path, changes, caplog):
    trainer = run(teacher, tmp_path, with_other_heads, logging_steps=1, **changes)
    assert "loss_attention_1" in levels_of(trainer)
    assert "unmatched" not in trainer.student.config.tinybert
    assert not said(caplog, "Attention scores are not matched")


@pytest.mark.parametrize("init", ["random", "teacher"])
@pytest.mark.parametrize("head_matching", ["heads", "mixing", "mean", "relations"])
def test_attention_is_matched_from_the_teachers_heads_and_from_random_ones(teacher, tmp_path, init, head_matching):
    student = factories.small_student(teacher, init=init)
    trainer = run(teacher, tmp_path, student, logging_steps=1, head_matching=head_matching)
    assert "loss_attention_1" in levels_of(trainer)


def test_attention_is_matched_where_nothing_else_of_the_layers_is(teacher, with_other_heads, tmp_path):
    trainer = run(teacher, tmp_path, with_other_heads, logging_steps=1, hidden_weight=0.0, embedding_weight=0.0)
    assert "loss_attention_1" in levels_of(trainer)


def test_where_no_predictions_are_compared_nothing_is_said(teacher, tmp_path, caplog):
    trainer = run(teacher, tmp_path, factories.student_config(teacher), phases="intermediate")
    assert not said(caplog, "follows its teacher")
    assert "start" not in trainer.student.config.tinybert


def test_measuring_draws_no_random_numbers(teacher, tmp_path):
    """A run with relative losses sees the same dropout and order as one without."""
    seen = []
    for scaling in ("variance", "none"):
        student = factories.small_student(teacher, init="teacher", dropout=0.1)
        args = factories.arguments(tmp_path / scaling, phases="prediction", max_steps=3, loss_scaling=scaling)
        trainer = factories.trainer(student, teacher, args)
        set_seed(3)
        trainer.train()
        seen.append(factories.weights(trainer))
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


def test_a_resumed_run_has_the_variances_and_the_start_of_its_checkpoint(teacher, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "loss_scaling": "variance"}
    first = run(teacher, tmp_path, factories.student_config(teacher), **options)
    state = json.loads((tmp_path / "checkpoint-2" / STATE_NAME).read_text(encoding="utf-8"))
    assert state["variances"] == dict(first._objective.variances)
    assert {"embedding", "hidden_1", "hidden_2", "attention_1", "attention_2"} <= set(state["variances"])
    args = factories.arguments(tmp_path, phases="joint", **options)
    again = factories.trainer(factories.student_config(teacher), teacher, args)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert dict(again._objective.variances) == state["variances"]
    assert again.student.config.tinybert["start"]["kl"] == pytest.approx(state["fidelity"]["divergence"], abs=1e-5)
    for name, value in factories.weights(first).items():
        assert torch.equal(value, factories.weights(again)[name]), name
