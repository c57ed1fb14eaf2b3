from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
import workbench
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.agreement import Agreement

ONE_PROCESS = Accelerator(cpu=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(student, teacher):
    p, q = softmax(teacher), softmax(student)
    return float((p * np.log(p / q)).sum(-1).mean())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(2, 5), st.integers(0, 999))
def test_means_over_all_rows_whatever_the_batches(sizes, classes, seed):
    source = np.random.default_rng(seed)
    student, teacher = source.normal(size=(2, sum(sizes), classes))
    agreement, regression = Agreement(False), Agreement(True)
    at = 0
    for size in sizes:
        pair = [torch.tensor(x[at : at + size], dtype=torch.float32) for x in (student, teacher)]
        agreement.update(*pair)
        regression.update(*pair)
        at += size
    assert agreement.compute("eval", ONE_PROCESS) == pytest.approx(
        {"eval_agreement": np.mean(student.argmax(-1) == teacher.argmax(-1)), "eval_kl": kl(student, teacher)},
        rel=1e-4,
        abs=1e-6,
    )
    expected = {"test_teacher_mse": np.mean((student - teacher) ** 2)}
    assert regression.compute("test", ONE_PROCESS) == pytest.approx(expected, rel=1e-4)


def test_the_divergence_is_of_the_teacher_from_the_student():
    sure, unsure = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    agreement = Agreement(False)
    agreement.update(student=unsure, teacher=sure)
    assert agreement.compute("", ONE_PROCESS)["_kl"] == pytest.approx(kl(unsure.numpy(), sure.numpy()), rel=1e-5)
    assert kl(unsure.numpy(), sure.numpy()) != pytest.approx(kl(sure.numpy(), unsure.numpy()), rel=0.1)


@pytest.mark.parametrize("form", ["bool", "long", "float"])
def test_masked_positions_do_not_count(form):
    student, teacher = torch.randn(2, 3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    agreement = Agreement(False)
    agreement.update(student, teacher, getattr(mask, form)())
    kept = [x[mask.bool()].double().numpy() for x in (student, teacher)]
    expected = {"e_agreement": np.mean(kept[0].argmax(-1) == kept[1].argmax(-1)), "e_kl": kl(*kept)}
    assert agreement.compute("e", ONE_PROCESS) == pytest.approx(expected, rel=1e-4)


def test_nothing_added_gives_nothing_and_all_masked_gives_zeros():
    agreement = Agreement(False)
    assert agreement.compute("eval", ONE_PROCESS) == {}
    agreement.update(torch.randn(1, 2, 3), torch.randn(1, 2, 3), torch.zeros(1, 2))
    assert agreement.compute("eval", ONE_PROCESS) == {"eval_agreement": 0.0, "eval_kl": 0.0}


def test_half_precision_logits():
    student, teacher = torch.randn(2, 6, 4)
    results = []
    for kind in (torch.float32, torch.bfloat16):
        agreement = Agreement(False)
        agreement.update(student.to(kind), teacher.to(kind))
        results.append(agreement.compute("e", ONE_PROCESS))
    assert results[0]["e_kl"] == pytest.approx(results[1]["e_kl"], rel=0.05)


def test_a_real_teacher_agrees_with_itself_and_less_with_an_untrained_student(teacher):
    batch = tiny_models.sentences(32)
    with torch.no_grad():
        theirs = teacher(**batch).logits
        ours = workbench.small_student(teacher)(**batch).logits
    with_itself, with_student = Agreement(False), Agreement(False)
    with_itself.update(theirs, theirs)
    with_student.update(ours, theirs)
    assert with_itself.compute("e", ONE_PROCESS) == {"e_agreement": 1.0, "e_kl": 0.0}
    found = with_student.compute("e", ONE_PROCESS)
    assert found["e_agreement"] < 0.5
    assert found["e_kl"] > 0.1
