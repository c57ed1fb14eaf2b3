from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert import losses
from hf_tinybert.models.output_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, SPANS, TOKENS, VECTORS
from hf_tinybert.student.start_fidelity import StartFidelity, measure_fidelity

#: Sizes of three batches: the last is smaller, so that a mean of means would be another one.
BATCHES = (4, 4, 1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(student, teacher):
    """Of each row, from logits `[n, C]`."""
    p, q = softmax(teacher), softmax(student)
    return (p * np.log(p / q)).sum(-1)


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def constant_kl(teacher):
    """Mean KL divergence of the rows' distributions from their mean, which no other distribution undercuts."""
    p = softmax(teacher)
    return (p * np.log(p / p.mean(0))).sum(-1).mean()


def logits(seed, *shape, spread=1.5):
    source = np.random.default_rng(seed)
    return source.normal(size=(2, sum(BATCHES), *shape)) * spread + source.normal(size=shape)


def measured(kind, student, teacher, temperature=1.0, **inputs):
    """Of arrays of all rows, in batches."""
    arrays = {"student": student, "teacher": teacher} | inputs
    batches, start = [], 0
    for size in BATCHES:
        batches.append({name: torch.tensor(value[start : start + size]) for name, value in arrays.items()})
        start += size
    answers = [lambda batch, name=name: batch[name].float() for name in ("student", "teacher")]
    return measure_fidelity(kind, *answers, batches, temperature)


def agreement(student, teacher):
    return (student.argmax(-1) == teacher.argmax(-1)).mean()


def test_of_one_label_for_each_row():
    student, teacher = logits(0, 4)
    found = measured(SINGLE_LABEL, student, teacher, temperature=2.0)
    assert found.agreement == pytest.approx(agreement(student, teacher))
    assert 0 < found.agreement < 1
    assert found.divergence == pytest.approx(kl(student, teacher).mean(), rel=1e-5)
    assert found.constant_divergence == pytest.approx(constant_kl(teacher), rel=1e-5)
    assert found.constant_loss == pytest.approx(4.0 * entropy(softmax(teacher / 2).mean(0)), rel=1e-5)


def test_of_several_labels_each_is_a_decision():
    student, teacher = logits(1, 3)
    found = measured(MULTI_LABEL, student, teacher, temperature=3.0)
    assert found.agreement == pytest.approx(((student >= 0) == (teacher >= 0)).mean())
    pairs = [np.stack([x, np.zeros_like(x)], axis=-1) for x in (student, teacher)]
    assert found.divergence == pytest.approx(kl(*pairs).mean(), rel=1e-5)
    expected = np.mean([constant_kl(pairs[1][:, label]) for label in range(3)])
    assert found.constant_divergence == pytest.approx(expected, rel=1e-5)
    softened = softmax(pairs[1] / 3).mean(0)
    assert found.constant_loss == pytest.approx(9.0 * entropy(softened).mean(), rel=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
def test_of_tokens_those_with_a_label_count_or_the_real_ones(labelled):
    student, teacher = logits(2, 5, 3)
    mask = np.arange(5) < np.random.default_rng(2).integers(2, 6, size=(sum(BATCHES), 1))
    labels = np.where(mask & (np.arange(5) % 2 == 0), 1, -100)
    inputs = {"attention_mask": mask.astype(int)} | ({"labels": labels} if labelled else {})
    kept = labels != -100 if labelled else mask
    assert kept.sum() < mask.size
    found = measured(TOKENS, student, teacher, **inputs)
    ours, theirs = student[kept], teacher[kept]
    assert found.agreement == pytest.approx(agreement(ours, theirs))
    assert found.divergence == pytest.approx(kl(ours, theirs).mean(), rel=1e-5)
    assert found.constant_divergence == pytest.approx(constant_kl(theirs), rel=1e-5)
    assert found.constant_loss == pytest.approx(entropy(softmax(theirs).mean(0)), rel=1e-5)


def test_of_spans_starts_and_ends_are_chosen_among_real_positions():
    """No position is constant, so that the constant answer is any position, all equally probable."""
    student, teacher = logits(3, 6, 2, spread=3.0)
    lengths = np.random.default_rng(3).integers(2, 7, size=sum(BATCHES))
    found = measured(SPANS, student, teacher, temperature=2.0, attention_mask=(np.arange(6) < lengths[:, None]) * 1)
    same, divergences, constant, soft = [], [], [], []
    for row, length in enumerate(lengths):
        for end in range(2):
            ours, theirs = student[row, :length, end], teacher[row, :length, end]
            same.append(ours.argmax() == theirs.argmax())
            divergences.append(kl(ours, theirs))
            constant.append(np.log(length) - entropy(softmax(theirs)))
            soft.append(np.log(length))
    assert found.agreement == pytest.approx(np.mean(same))
    assert found.divergence == pytest.approx(np.mean(divergences), rel=1e-5)
    assert found.constant_divergence == pytest.approx(np.mean(constant), rel=1e-4)
    assert found.constant_loss == pytest.approx(4.0 * np.mean(soft), rel=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_of_values_the_best_constant_is_their_mean(outputs):
    student, teacher = logits(4, outputs)
    found = measured(REGRESSION, student, teacher)
    assert found.agreement is None
    assert found.divergence == pytest.approx(np.square(student - teacher).mean(), rel=1e-5)
    constant = np.square(teacher - teacher.mean(0)).mean()
    assert (found.constant_divergence, found.constant_loss) == pytest.approx((constant, constant), rel=1e-5)
    assert found.metrics(REGRESSION) == {"teacher_mse": found.divergence}


def test_of_vectors_the_best_constant_is_their_mean_direction():
    student, teacher = logits(5, 4)
    found = measured(VECTORS, student, teacher)
    ours, theirs = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (student, teacher))
    assert found.agreement is None
    assert found.divergence == pytest.approx(np.square(ours - theirs).sum(-1).mean(), rel=1e-5)
    middle = theirs.mean(0) / np.linalg.norm(theirs.mean(0))
    constant = np.square(middle - theirs).sum(-1).mean()
    assert (found.constant_divergence, found.constant_loss) == pytest.approx((constant, constant), rel=1e-5)
    assert found.metrics(VECTORS) == pytest.approx({"cosine_vectors": (ours * theirs).sum(-1).mean()}, rel=1e-5)


LOSSES = {
    SINGLE_LABEL: losses.soft_cross_entropy,
    MULTI_LABEL: losses.soft_binary_cross_entropy,
    REGRESSION: losses.regression_loss,
    VECTORS: losses.vector_loss,
}


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.sampled_from([1.0, 2.0]), st.integers(0, 999))
def test_no_constant_answer_has_a_smaller_prediction_loss(kind, temperature, seed):
    student, teacher = logits(seed, 3)
    found = measured(kind, student, teacher, temperature)
    wanted = torch.tensor(teacher, dtype=torch.float32)
    arguments = (temperature,) if kind in (SINGLE_LABEL, MULTI_LABEL) else ()
    answer = wanted.mean(0).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([answer], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = LOSSES[kind](answer.expand_as(wanted), wanted, *arguments)
        value.backward()
        return value

    optimizer.step(loss)
    assert found.constant_loss == pytest.approx(loss().item(), rel=1e-3)


def test_a_student_with_the_teachers_answers_is_no_chance_and_one_with_a_constant_answer_is():
    _, teacher = logits(6, 4)
    constant = np.log(softmax(teacher).mean(0)) + np.zeros_like(teacher)
    perfect, chance = (measured(SINGLE_LABEL, student, teacher) for student in (teacher, constant))
    assert (perfect.agreement, perfect.divergence) == (1.0, pytest.approx(0.0, abs=1e-6))
    assert not perfect.is_chance
    assert chance.divergence == pytest.approx(chance.constant_divergence, rel=1e-4)
    assert StartFidelity(0.3, 0.5, 0.5, 1.0).is_chance
    assert not StartFidelity(0.3, 0.499, 0.5, 1.0).is_chance


def test_of_positions_that_do_not_count_at_all_nothing_is_measured():
    student, teacher = logits(7, 2, 3)
    found = measured(TOKENS, student, teacher, labels=np.full(student.shape[:2], -100))
    assert (found.agreement, found.divergence, found.constant_divergence, found.constant_loss) == (0.0, 0.0, 0.0, 0.0)


def test_no_gradients_are_kept():
    weight = torch.ones(2, requires_grad=True)

    def answer(batch):
        assert not torch.is_grad_enabled()
        return batch["x"] * weight

    measure_fidelity(SINGLE_LABEL, answer, answer, [{"x": torch.randn(3, 2)}])


def test_it_is_said_in_words_and_under_the_evaluations_names():
    classes = StartFidelity(0.625, 0.12345, 0.98765, 1.0)
    assert classes.describe(SINGLE_LABEL) == "agreement 62.5% and KL 0.123 (of a constant answer 0.988)"
    assert classes.metrics(TOKENS) == {"agreement": 0.625, "kl": 0.12345}
    values = StartFidelity(None, 0.25, 1.5, 1.5)
    assert values.describe(REGRESSION) == "teacher_mse 0.25 (of a constant answer 1.5)"
    assert values.describe(VECTORS) == "cosine_vectors 0.875 (of a constant answer 0.25)"
