from __future__ import annotations

import factories
import numpy as np
import pytest
import tiny_models
import torch
from accelerate import Accelerator
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

from hf_tinybert.evaluation.prediction_fidelity import PredictionFidelity
from hf_tinybert.models.output_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL, SPANS, TOKENS

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
    agreement, regression = PredictionFidelity(SINGLE_LABEL), PredictionFidelity(REGRESSION)
    at = 0
    for size in sizes:
        pair = [torch.tensor(x[at : at + size], dtype=torch.float32) for x in (student, teacher)]
        agreement.update(*pair, {})
        regression.update(*pair, {})
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
    agreement = PredictionFidelity(SINGLE_LABEL)
    agreement.update(unsure, sure, {})
    assert agreement.compute("", ONE_PROCESS)["_kl"] == pytest.approx(kl(unsure.numpy(), sure.numpy()), rel=1e-5)
    assert kl(unsure.numpy(), sure.numpy()) != pytest.approx(kl(sure.numpy(), unsure.numpy()), rel=0.1)


def test_positions_without_a_label_do_not_count():
    student, teacher = torch.randn(2, 3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    agreement = PredictionFidelity(TOKENS)
    labels = torch.where(mask.bool(), 3, -100)
    agreement.update(student, teacher, {"labels": labels})
    kept = [x[mask.bool()].double().numpy() for x in (student, teacher)]
    expected = {"e_agreement": np.mean(kept[0].argmax(-1) == kept[1].argmax(-1)), "e_kl": kl(*kept)}
    assert agreement.compute("e", ONE_PROCESS) == pytest.approx(expected, rel=1e-4)


def test_nothing_added_gives_nothing_and_all_masked_gives_zeros():
    agreement = PredictionFidelity(TOKENS)
    assert agreement.compute("eval", ONE_PROCESS) == {}
    agreement.update(torch.randn(1, 2, 3), torch.randn(1, 2, 3), {"labels": torch.full((1, 2), -100)})
    assert agreement.compute("eval", ONE_PROCESS) == {"eval_agreement": 0.0, "eval_kl": 0.0}


def test_several_labels_are_so_many_decisions():
    student, teacher = (torch.tensor(x) for x in ([[2.0, -1.0, 0.5]], [[1.0, 1.0, 0.1]]))
    agreement = PredictionFidelity(MULTI_LABEL)
    agreement.update(student, teacher, {"labels": torch.tensor([[1.0, 0.0, 1.0]])})
    pairs = [np.stack([x.numpy().ravel(), np.zeros(3)], axis=-1) for x in (student, teacher)]
    expected = {"e_agreement": 2 / 3, "e_kl": kl(*pairs)}
    assert agreement.compute("e", ONE_PROCESS) == pytest.approx(expected, rel=1e-4)


def test_starts_and_ends_of_spans_are_chosen_among_real_positions():
    source = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 2, generator=source)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    student[0, 4] = 50.0  # padding says nothing
    agreement = PredictionFidelity(SPANS)
    agreement.update(student, teacher, {"attention_mask": mask})
    rows = [
        [x[row, :length, end].double().numpy() for row, length in ((0, 3), (1, 5)) for end in (0, 1)]
        for x in (student, teacher)
    ]
    same = np.mean([ours.argmax() == theirs.argmax() for ours, theirs in zip(*rows, strict=True)])
    divergence = np.mean([kl(ours[None], theirs[None]) for ours, theirs in zip(*rows, strict=True)])
    assert agreement.compute("e", ONE_PROCESS) == pytest.approx({"e_agreement": same, "e_kl": divergence}, rel=1e-4)


def test_half_precision_logits():
    student, teacher = torch.randn(2, 6, 4)
    results = []
    for kind in (torch.float32, torch.bfloat16):
        agreement = PredictionFidelity(SINGLE_LABEL)
        agreement.update(student.to(kind), teacher.to(kind), {})
        results.append(agreement.compute("e", ONE_PROCESS))
    assert results[0]["e_kl"] == pytest.approx(results[1]["e_kl"], rel=0.05)


def test_a_real_teacher_agrees_with_itself_and_less_with_an_untrained_student(teacher):
    batch = tiny_models.sentences(32)
    with torch.no_grad():
        theirs = teacher(**batch).logits
        ours = factories.small_student(teacher)(**batch).logits
    with_itself, with_student = PredictionFidelity(SINGLE_LABEL), PredictionFidelity(SINGLE_LABEL)
    with_itself.update(theirs, theirs, {})
    with_student.update(ours, theirs, {})
    assert with_itself.compute("e", ONE_PROCESS) == {"e_agreement": 1.0, "e_kl": 0.0}
    found = with_student.compute("e", ONE_PROCESS)
    assert found["e_agreement"] < 0.5
    assert found["e_kl"] > 0.1


def test_smoothed_labels_are_left_for_it_to_look_at(tmp_path):
    """The Trainer takes labels that it smooths out of the batch; padding would then count."""
    teacher = tiny_models.model(auto=AutoModelForTokenClassification, num_labels=3)
    rows = [{"input_ids": list(range(5, 5 + size)), "labels": [-100] * (size - 2) + [1, 2]} for size in (4, 9, 6, 12)]
    found = []
    for smoothing in (0.0, 0.1):
        student = tiny_models.model(auto=AutoModelForTokenClassification, num_labels=3, seed=1)
        args = factories.arguments(
            tmp_path, phases="joint", label_smoothing_factor=smoothing, hard_label_weight=1.0, max_steps=1
        )
        collator = DataCollatorForTokenClassification(factories.tokenizer())
        data = Dataset.from_list(rows)
        trainer = factories.trainer(
            student, teacher, args, train_dataset=data, eval_dataset=data, data_collator=collator
        )
        found.append(trainer.evaluate())
    for name in ("eval_agreement", "eval_kl"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-6)
