from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from hf_tinybert.models.features import accepted_inputs
from hf_tinybert.models.output_types import logits_of
from hf_tinybert.student import head_transfer
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.head_transfer import transfer_head
from hf_tinybert.student.layer_init import StudentSpace
from hf_tinybert.student.teacher_trace import TeacherTrace

SEQUENCES, TOKENS, SPANS, MASKED = (
    f"AutoModelFor{task}"
    for task in ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM")
)
TANH = ("bert", "roberta", "xlm-roberta", "mpnet", "albert")
OTHER_POOLED = ("electra", "distilbert", "deberta-v2", "modernbert")
LINEAR = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "mpnet", "albert", "deberta-v2")
TRANSFORM = tuple(family for family in tiny_models.ARCHITECTURES if family != "albert")
#: Heads that are the student's in other words.
SAME = (
    [(family, SEQUENCES) for family in TANH]
    + [(family, task) for family in LINEAR for task in (TOKENS, SPANS)]
    + [(family, MASKED) for family in TRANSFORM]
)
OTHERS = [(family, SEQUENCES) for family in OTHER_POOLED] + [
    ("modernbert", TOKENS),
    ("modernbert", SPANS),
    ("albert", MASKED),
]
LABELS = {0: "x", 1: "y", 2: "z"}

pytestmark = pytest.mark.usefixtures("no_gradients")


def named(labels):
    return {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}


def teacher_of(family, task, **overrides):
    """A head of biases and norms that are no zeros and ones."""
    labels = {"num_labels": 2} if task == SPANS else {}
    teacher = tiny_models.model(family, getattr(transformers, task), **(labels | overrides))
    for name, parameter in teacher.named_parameters():
        if parameter.dim() == 1 and teacher.base_model_prefix not in name.split(".")[0]:
            parameter.uniform_(0.7, 1.4) if "orm.weight" in name else parameter.normal_(std=0.2)
    return teacher


def trace_of(teacher, lengths=(7, 12, 4, 9) * 40, seed=0):
    texts = CalibrationTexts.from_batch(tiny_models.batch(lengths, seed=seed), 64)
    return TeacherTrace(teacher, texts, [3])


def last_states(trace):
    """By chunk, as transformers gives them."""
    base = trace.teacher.base_model
    return [base(**accepted_inputs(base, chunk))[0] for chunk in trace.texts.chunks]


def student_of(teacher, task, width=24, **overrides):
    torch.manual_seed(7)
    shape = tiny_models.same_size_config(teacher, **({"hidden_size": width} | overrides))
    return getattr(transformers, task).from_config(shape.to_bert_config()).eval()


def answers(student, states):
    """The student's head alone, `[B, C]` or `[B, S, C]`."""
    if hasattr(student, "qa_outputs"):
        return student.qa_outputs(states)
    if hasattr(student, "cls"):
        return student.cls(states)
    if student.base_model.pooler is not None:
        return student.classifier(student.base_model.pooler(states))
    return student.classifier(states)


def logits(trace):
    """The teacher's of each chunk."""
    return [
        logits_of(trace.teacher(**accepted_inputs(trace.teacher, chunk), return_dict=True))
        for chunk in trace.texts.chunks
    ]


def compared(trace, student, states):
    """The student's and the teacher's logits at rows or real positions, `[n, C]`."""
    ours, theirs = [answers(student, each) for each in states], logits(trace)
    if ours[0].dim() == 2:
        return torch.cat(ours), torch.cat(theirs)
    return trace.texts.pack(ours), trace.texts.pack(theirs)


def whole(states):
    return StudentSpace.from_states([states[0].flatten(0, 1)], states[0].shape[-1])


def with_teachers_words(student, teacher):
    """What a masked language model's student has before its head is set."""
    words = teacher.get_input_embeddings().weight
    if teacher.config.model_type == "albert":
        words = words @ teacher.base_model.encoder.embedding_hidden_mapping_in.weight.T
    student.get_input_embeddings().weight.copy_(words)
    return student


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize(("family", "task"), SAME)
def test_a_head_of_the_same_kind_gives_the_teachers_logits(family, task):
    teacher = teacher_of(family, task)
    student, trace = with_teachers_words(student_of(teacher, task), teacher), trace_of(teacher)
    states = last_states(trace)
    transfer_head(student, trace, states, whole(states))
    unseen = trace_of(teacher, (11, 5, 8), seed=1)
    ours, theirs = compared(unseen, student, last_states(unseen))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert theirs.std() > 0.1


@pytest.mark.parametrize(("family", "task"), OTHERS)
def test_a_head_of_another_kind_is_fitted_to_the_teachers_logits(family, task):
    """On texts unseen, it leaves less than half of what a constant answer leaves."""
    teacher = teacher_of(family, task)
    student, trace = with_teachers_words(student_of(teacher, task), teacher), trace_of(teacher, (7, 12, 4, 9) * 100)
    states = last_states(trace)
    transfer_head(student, trace, states, whole(states))
    unseen = trace_of(teacher, (11, 5, 8, 12) * 25, seed=1)
    ours, theirs = compared(unseen, student, last_states(unseen))
    assert (ours - theirs).square().mean() < 0.5 * (theirs - theirs.mean(0)).square().mean()


@pytest.mark.parametrize("task", [SEQUENCES, TOKENS, SPANS])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_in_a_narrower_space_the_head_is_fitted_to_what_the_space_holds(family, task):
    teacher = teacher_of(family, task)
    trace = trace_of(teacher, (7, 12, 4, 9) * 100)
    space = StudentSpace.from_states([trace.hidden[3]], 16)
    student = student_of(teacher, task, 16)
    transfer_head(student, trace, [space(each) for each in last_states(trace)], space)
    unseen = trace_of(teacher, (11, 5, 8, 12) * 25, seed=1)
    ours, theirs = compared(unseen, student, [space(each) for each in last_states(unseen)])
    assert (ours - theirs).square().mean() < 0.6 * (theirs - theirs.mean(0)).square().mean()


@pytest.mark.parametrize("words", ["projected", "random"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_narrower_word_table_says_as_much_as_any_linear_map_lets_it(family, words):
    """The best affine map of the states as far as the table can say it, but for the one length of a LayerNorm."""
    teacher = teacher_of(family, MASKED)
    trace, unseen = trace_of(teacher, (7, 12, 4, 9) * 100), trace_of(teacher, (11, 5, 8, 12) * 25, seed=1)
    space = StudentSpace.from_states([trace.hidden[3]], 16)
    student = student_of(teacher, MASKED, 16)
    table = student.get_input_embeddings().weight
    if words == "projected":
        table.copy_(space(teacher.get_input_embeddings().weight))
    transfer_head(student, trace, [space(each) for each in last_states(trace)], space)
    states = [space(each) for each in last_states(unseen)]
    ours, theirs = compared(unseen, student, states)
    known = torch.cat([unseen.texts.pack(states), torch.ones(len(ours), 1)], dim=1).double()
    goal = theirs.double() - student.cls.predictions.decoder.bias
    reachable = (
        known @ torch.linalg.lstsq(known, goal @ torch.linalg.pinv(table.double()).T).solution @ table.double().T
    )
    assert (ours - theirs).square().mean() < 1.5 * (reachable - goal).square().mean()


@pytest.mark.parametrize("task", [SEQUENCES, TOKENS, SPANS, MASKED])
def test_a_student_of_another_space_reads_it_through_the_best_map(task):
    """As one that starts from another encoder: its states are the teacher's in other coordinates here."""
    teacher = teacher_of("bert", task)
    student, trace = with_teachers_words(student_of(teacher, task), teacher), trace_of(teacher, (7, 12, 4, 9) * 100)
    turn = torch.randn(24, 24) + 2 * torch.eye(24)
    states = [each @ turn + 1 for each in last_states(trace)]
    transfer_head(student, trace, states, None)
    unseen = trace_of(teacher, (11, 5, 8, 12) * 25, seed=1)
    ours, theirs = compared(unseen, student, [each @ turn + 1 for each in last_states(unseen)])
    assert (ours - theirs).square().mean() < 0.25 * (theirs - theirs.mean(0)).square().mean()


@pytest.mark.parametrize("width", [24, 16])
@pytest.mark.parametrize("task", [SEQUENCES, TOKENS])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_classes_come_in_the_students_order(family, task, width):
    teacher = teacher_of(family, task, **named(LABELS))
    same, turned = (student_of(teacher, task, width, **named(labels)) for labels in (LABELS, {0: "z", 1: "x", 2: "y"}))
    trace = trace_of(teacher, (7, 12, 4, 9) * 10)
    states = last_states(trace)
    space = StudentSpace.from_states([trace.hidden[3]], width)
    answered = []
    for student in (same, turned):
        transfer_head(student, trace, [space(each) for each in states], space)
        answered.append(compared(trace, student, [space(each) for each in states])[0])
    torch.testing.assert_close(answered[1], answered[0][:, [2, 0, 1]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(answered[1], answered[0], atol=0.01)


@pytest.mark.parametrize(
    ("problem_type", "labels"), [("regression", 1), ("regression", 2), ("multi_label_classification", 3)]
)
def test_values_and_several_labels_have_a_head_like_classes(problem_type, labels):
    teacher = teacher_of("distilbert", SEQUENCES, problem_type=problem_type, num_labels=labels)
    student, trace = student_of(teacher, SEQUENCES), trace_of(teacher, (7, 12, 4, 9) * 100)
    states = last_states(trace)
    transfer_head(student, trace, states, whole(states))
    ours, theirs = compared(trace, student, states)
    assert (ours - theirs).square().mean() < 0.3 * (theirs - theirs.mean(0)).square().mean()


def test_a_pooled_head_keeps_the_neurons_that_say_most():
    teacher = teacher_of("bert", SEQUENCES)
    teacher.classifier.weight[:, ::2] *= 0.01
    trace = trace_of(teacher, (7, 12, 4, 9) * 100)
    space = StudentSpace.from_states([trace.hidden[3]], 12)
    states = [space(each) for each in last_states(trace)]
    student = student_of(teacher, SEQUENCES, 12)
    transfer_head(student, trace, states, space)
    firsts = torch.cat([each[:, 0] for each in last_states(trace)])
    theirs, ours = teacher.bert.pooler.dense(firsts)[:, 1::2], student.bert.pooler.dense(space(firsts))
    for neuron in range(12):
        assert np.corrcoef(ours[:, neuron], theirs[:, neuron])[0, 1] > 0.7


def test_that_a_head_reads_more_than_the_first_token_is_said(caplog):
    teacher = teacher_of("modernbert", SEQUENCES, classifier_pooling="mean")
    student, trace = student_of(teacher, SEQUENCES), trace_of(teacher)
    states = last_states(trace)
    transfer_head(student, trace, states, whole(states))
    assert "does not read the first token alone" in caplog.text
    caplog.clear()
    other = teacher_of("modernbert", SEQUENCES, classifier_pooling="cls")
    trace = trace_of(other)
    transfer_head(student_of(other, SEQUENCES), trace, last_states(trace), whole(states))
    assert "first token" not in caplog.text


def test_a_decoder_of_its_own_stays_the_teachers():
    teacher = teacher_of("bert", MASKED, tie_word_embeddings=False)
    assert teacher.cls.predictions.decoder.weight is not teacher.get_input_embeddings().weight
    student, trace = student_of(teacher, MASKED), trace_of(teacher)
    states = last_states(trace)
    transfer_head(student, trace, states, whole(states))
    unseen = trace_of(teacher, (11, 5, 8), seed=1)
    ours, theirs = compared(unseen, student, last_states(unseen))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_a_large_vocabularys_head_is_fitted_to_a_sample_in_passes_of_few_logits(family, monkeypatch):
    """And gives what it would of all positions at once, where the teacher's head is the student's."""
    teacher = teacher_of(family, MASKED)
    student, trace = with_teachers_words(student_of(teacher, MASKED), teacher), trace_of(teacher)
    states = last_states(trace)
    rows = []
    teacher.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    monkeypatch.setattr(head_transfer, "_POSITIONS", 64)
    monkeypatch.setattr(head_transfer, "_LOGITS", 90 * 12 * 8)
    transfer_head(student, trace, states, whole(states))
    assert max(rows) == 8
    assert sum(rows) == 160
    monkeypatch.undo()
    ours, theirs = compared(trace, student, states)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [24, 16])
def test_the_pooler_of_a_model_without_a_head_is_the_teachers_in_the_students_space(width):
    teacher = tiny_models.model(auto=AutoModel)
    teacher.pooler.dense.bias.normal_()
    trace = trace_of(teacher)
    space = StudentSpace.from_states([trace.hidden[3]], width)
    student = student_of(teacher, "AutoModel", width)
    states = last_states(trace)
    transfer_head(student, trace, [space(each) for each in states], space)
    firsts = torch.cat([each[:, 0] for each in states])
    mean = firsts.mean(0)
    kept = (firsts - mean) @ space.basis @ space.basis.T + mean
    expected = space(teacher.pooler.dense(kept))
    torch.testing.assert_close(student.pooler.dense(space(firsts)), expected, rtol=1e-3, atol=1e-3)


def test_without_a_pooler_on_either_side_nothing_is_missed():
    for family in ("distilbert", "bert"):
        teacher = tiny_models.model(family, AutoModel)
        trace = trace_of(teacher)
        states = last_states(trace)
        student = student_of(teacher, "AutoModel")
        if family == "bert":
            student.pooler = None
        transfer_head(student, trace, states, whole(states))


@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_nothing_stays_on_the_teacher_and_its_head_is_left_alone(family, auto):
    teacher = tiny_models.model(family, auto)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trace = trace_of(teacher, (7, 4))
    states = last_states(trace)
    transfer_head(student_of(teacher, auto.__name__), trace, states, whole(states))
    assert tiny_models.hooks(teacher) == 0
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
