"""Students that start from trained teachers of every architecture (`architecture_teachers`), before training."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import product

import architecture_teachers
import factories
import pytest
from architecture_teachers import CONFIGS, LEARNT, TASKS
from transformers import PreTrainedModel

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments

pytestmark = pytest.mark.also_transformers("4.57")

#: The one that is not slow.
QUICK = ("mpnet", "text-classification")
ALL = list(product(CONFIGS, TASKS))
EXACT = [case for case in ALL if architecture_teachers.is_exact(*case)]
CLASSIFIERS = [(architecture, "text-classification") for architecture in CONFIGS]


@dataclass(frozen=True)
class Taught:
    architecture: str
    task: str
    teacher: PreTrainedModel


@pytest.fixture(scope="session")
def taught(request) -> Taught:
    """A teacher that has learnt its task."""
    architecture, task = request.param
    teacher = architecture_teachers.teacher(architecture, task)
    accuracy = architecture_teachers.accuracy(task, teacher)
    assert accuracy >= LEARNT[task] > 1.2 * architecture_teachers.constant_accuracy(task)
    return Taught(architecture, task, teacher)


def for_each(cases):
    """The test for each architecture and task, slow for all but one."""
    marks = {case: [] if case == QUICK else [pytest.mark.slow] for case in cases}
    values = [pytest.param(case, marks=marks[case], id=" ".join(case)) for case in cases]
    return pytest.mark.parametrize("taught", values, indirect=True)


@for_each(EXACT)
def test_a_student_of_the_teachers_size_computes_what_the_teacher_does(taught):
    student = architecture_teachers.student(taught.task, taught.teacher)
    assert architecture_teachers.difference(taught.task, student, taught.teacher) < 1e-4


@for_each(ALL)
def test_a_student_of_half_the_width_decides_as_its_teacher_does(taught):
    student = architecture_teachers.student(taught.task, taught.teacher, share=2)
    assert student.config.num_hidden_layers == taught.teacher.config.num_hidden_layers
    assert student.config.hidden_size == taught.teacher.config.hidden_size // 2
    agreement = architecture_teachers.agreement(taught.task, student, taught.teacher)
    assert agreement >= 0.6
    assert agreement > architecture_teachers.constant_agreement(taught.task, taught.teacher)


@for_each(CLASSIFIERS)
def test_the_two_changed_lines_of_a_script_are_enough(taught, tmp_path):
    """The architecture is mentioned nowhere."""
    trainer = DistillationTrainer(
        model=architecture_teachers.student_config(taught.teacher, share=2),
        teacher=copy.deepcopy(taught.teacher),
        args=DistillationTrainingArguments(
            output_dir=str(tmp_path), max_steps=2, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True
        ),
        train_dataset=factories.household()["train"],
        eval_dataset=factories.household()["eval"],
        processing_class=factories.tokenizer(),
    )
    assert math.isfinite(trainer.train().training_loss)
    assert trainer.model.config.model_type == "bert"
    assert trainer.evaluate()["eval_agreement"] >= 0.5
