"""Which metrics belong to the weights that a model has now."""

from __future__ import annotations

from types import SimpleNamespace

from hf_tinybert.card import Recorder


def state(step, best=None):
    return SimpleNamespace(global_step=step, best_model_checkpoint=best)


def args(load_best=False):
    return SimpleNamespace(load_best_model_at_end=load_best)


def trained(recorder, accuracies, load_best=False, best=None):
    recorder.on_train_begin(args(), state(0), None)
    for step, accuracy in accuracies.items():
        recorder.on_evaluate(args(), state(step), None, {"eval_accuracy": accuracy, "epoch": 1.0})
    recorder.on_train_end(args(load_best), state(max(accuracies), best), None)


def test_the_last_evaluation_counts_where_the_last_weights_are_there():
    recorder = Recorder()
    trained(recorder, {2: 0.5, 4: 0.4})
    (scores,) = recorder.scores()
    assert (scores.split, scores.student["accuracy"]) == ("eval", 0.4)


def test_the_best_one_counts_where_it_was_loaded():
    recorder = Recorder()
    trained(recorder, {2: 0.5, 4: 0.4}, load_best=True, best="out/checkpoint-2")
    assert recorder.scores()[0].student["accuracy"] == 0.5


def test_an_evaluation_of_earlier_weights_is_left_out():
    recorder = Recorder()
    recorder.on_evaluate(args(), state(2), None, {"eval_accuracy": 0.5})
    recorder.on_train_end(args(), state(4), None)
    assert recorder.scores() == []


def test_what_is_measured_after_training_replaces_what_was_measured_in_it():
    recorder = Recorder()
    trained(recorder, {2: 0.5, 4: 0.4}, load_best=True, best="out/checkpoint-2")
    recorder.on_evaluate(args(), state(4), None, {"eval_accuracy": 0.6})
    recorder.on_evaluate(args(), state(4), None, {"test_accuracy": 0.7})
    found = {scores.split: scores.student["accuracy"] for scores in recorder.scores()}
    assert found == {"eval": 0.6, "test": 0.7}


def test_the_teacher_stands_beside_the_student_on_the_same_data():
    recorder = Recorder()
    trained(recorder, {4: 0.4})
    recorder.on_evaluate(args(), state(4), None, {"test_accuracy": 0.45})
    recorder.note_teacher({"teacher_accuracy": 0.9}, "teacher", own_data=True)
    recorder.note_teacher({"teacher_accuracy": 0.8}, "teacher", own_data=False)
    teachers = {scores.split: scores.teacher["accuracy"] for scores in recorder.scores()}
    assert teachers == {"test": 0.9, "eval": 0.8}
    assert recorder.scores()[0].kept("accuracy") == 0.4 / 0.8


def test_a_second_training_forgets_the_first():
    recorder = Recorder()
    trained(recorder, {4: 0.4})
    recorder.on_train_begin(args(), state(0), None)
    recorder.on_train_end(args(), state(4), None)
    assert recorder.scores() == []
