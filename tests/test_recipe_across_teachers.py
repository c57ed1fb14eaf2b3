"""Training with default arguments ends at the same score, however large a teacher's states and scores are."""

from __future__ import annotations

import architecture_teachers
import factories
import pytest
import scaled_teachers
from datasets import concatenate_datasets

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments

pytestmark = [pytest.mark.slow, pytest.mark.also_transformers("4.57")]

TASK = "text-classification"
SIZES = (0.1, 1.0, 10.0)
WAYS = {"states": scaled_teachers.with_states_times, "scores": scaled_teachers.with_scores_shifted}
#: DeBERTa reads relative positions with the maps of its keys: a bias of them changes what it computes.
CASES = [
    (family, way) for family in scaled_teachers.FAMILIES for way in WAYS if (family, way) != ("deberta-v2", "scores")
]


def agreements(teacher, folder) -> tuple[float, float]:
    """Before and after ninety steps of a student of the teacher's depth and half its width."""
    data = factories.household()
    trainer = DistillationTrainer(
        model=architecture_teachers.student_config(teacher, share=2),
        teacher=teacher,
        args=DistillationTrainingArguments(
            output_dir=str(folder),
            max_steps=90,
            per_device_train_batch_size=16,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=data["train"],
        eval_dataset=concatenate_datasets([data["eval"], data["test"]]),
        processing_class=factories.tokenizer(),
    )
    before = trainer.evaluate()["eval_agreement"]
    trainer.train()
    return before, trainer.evaluate()["eval_agreement"]


@pytest.mark.parametrize(("family", "way"), CASES, ids=[" ".join(case) for case in CASES])
def test_the_end_does_not_depend_on_the_teachers_sizes(family, way, tmp_path):
    teacher = architecture_teachers.teacher(family, TASK)
    ends = []
    for size in SIZES:
        scaled = WAYS[way](teacher, size)
        assert architecture_teachers.difference(TASK, scaled, teacher) < 1e-4
        before, after = agreements(scaled, tmp_path)
        assert after >= before
        ends.append(after)
    assert max(ends) - min(ends) <= 0.01
