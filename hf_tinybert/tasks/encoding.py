"""A task's examples for a student and its teacher."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hf_tinybert.tasks.task import Encoded, Task


def encode_for(
    task: Task,
    student_config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> Encoded:
    """Encode a task's data for distillation, as `DistillationTrainer` takes them.

    Args:
        task: with its data read.
        student_config: names the labels, in the student's order.
        tokenizer: of the student, and of the teacher where that has the same.
        teacher_tokenizer: of a teacher with another vocabulary: its inputs are added in columns of their own (see
            `hf_tinybert.tokenize_for_teacher`).

    Raises:
        ValueError: a label is unknown to the student.
    """
    encoded = task.encode(tokenizer, student_config)
    if teacher_tokenizer is None:
        return encoded
    return encoded.beside(task.encode(teacher_tokenizer, student_config))
