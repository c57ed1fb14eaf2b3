"""Which metrics belong to the weights that a model has now."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hf_tinybert.model_card import Recorder

EVAL, TEST = object(), object()


def state(step, best=None, history=()):
    return SimpleNamespace(global_step=step, best_model_checkpoint=best, log_history=list(history))


def args(load_best=False):
    return SimpleNamespace(load_best_model_at_end=load_best)


def train(recorder, accuracies, last=None, best=None, ends=True):
    recorder.on_train_begin(args(), state(0), None)
    for step in range(1, (last or max(accuracies)) + 1):
        recorder.on_step_end(args(), state(step), None)
        if step in accuracies:
            recorder.note_student({"eval_accuracy": accuracies[step], "epoch": 1.0}, "eval", EVAL)
    if ends:
        recorder.on_train_end(args(best is not None), state(step, best and f"out/checkpoint-{best}"), None)


def accuracies(recorder):
    return {scores.split: scores.student["accuracy"] for scores in recorder.scores()}


def test_the_last_evaluation_counts_where_the_last_weights_are_there():
    recorder = Recorder()
    train(recorder, {2: 0.5, 4: 0.4})
    assert accuracies(recorder) == {"eval": 0.4}


def test_the_best_one_counts_where_it_was_loaded():
    recorder = Recorder()
    train(recorder, {2: 0.5, 4: 0.4}, best=2)
    assert accuracies(recorder) == {"eval": 0.5}


def test_an_evaluation_of_earlier_weights_is_left_out():
    recorder = Recorder()
    train(recorder, {2: 0.5}, last=4)
    assert recorder.scores() == []


def test_what_is_measured_after_training_replaces_what_was_measured_in_it():
    recorder = Recorder()
    train(recorder, {2: 0.5, 4: 0.4}, best=2)
    recorder.note_student({"eval_accuracy": 0.6}, "eval", EVAL)
    recorder.note_student({"test_accuracy": 0.7}, "test", TEST)
    assert accuracies(recorder) == {"eval": 0.6, "test": 0.7}


@pytest.mark.parametrize("best", [2, 4])
def test_a_second_training_forgets_the_first(best):
    recorder = Recorder()
    train(recorder, {2: 0.5, 4: 0.4}, best=2)
    train(recorder, {2: 0.95, 4: 0.3}, best=best)
    assert accuracies(recorder) == {"eval": {2: 0.95, 4: 0.3}[best]}


def test_after_an_interrupted_training_what_is_measured_then_counts():
    recorder = Recorder()
    train(recorder, {2: 0.5}, last=3, ends=False)
    recorder.note_student({"eval_accuracy": 0.55}, "eval", EVAL)
    assert accuracies(recorder) == {"eval": 0.55}


def test_the_best_step_may_lie_before_a_resumption():
    recorder = Recorder()
    recorder.on_train_begin(args(), state(3), None)
    recorder.on_step_end(args(), state(4), None)
    recorder.note_student({"eval_accuracy": 0.4}, "eval", EVAL)
    logged = [{"step": 2, "loss": 3.0}, {"step": 2, "eval_loss": 1.0, "eval_accuracy": 0.5}]
    recorder.on_train_end(args(True), state(4, "out/checkpoint-2", logged), None)
    assert accuracies(recorder) == {"eval": 0.5}


def test_the_teacher_stands_beside_the_student_on_the_same_data_and_no_other():
    recorder = Recorder()
    recorder.note_teacher({"teacher_accuracy": 0.9}, "teacher", TEST)  # before the student, too
    train(recorder, {4: 0.4})
    assert recorder.scores()[0].teacher == {}
    recorder.note_student({"test_accuracy": 0.45}, "test", TEST)
    recorder.note_teacher({"teacher_accuracy": 0.8}, "teacher", EVAL)
    teachers = {scores.split: scores.teacher["accuracy"] for scores in recorder.scores()}
    assert teachers == {"test": 0.9, "eval": 0.8}
    assert recorder.scores()[0].kept("accuracy") == 0.4 / 0.8


def test_what_is_no_number_is_left_out():
    recorder = Recorder()
    recorder.note_student({"eval_f1": 0.5, "eval_PER": {"f1": 1.0}, "eval_x": None, "epoch": 2.0}, "eval", EVAL)
    assert recorder.scores()[0].student == {"f1": 0.5}


def test_names_with_underscores_are_split_where_the_prefix_ends():
    recorder = Recorder()
    recorder.note_student({"eval_in_domain_f1_macro": 0.5}, "eval_in_domain", EVAL)
    (scores,) = recorder.scores()
    assert (scores.split, scores.names) == ("eval_in_domain", ["f1_macro"])
