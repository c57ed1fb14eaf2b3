"""The tokenizer of a student whose vocabulary differs from its teacher's."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from hf_tinybert.models.loading import brings_tokenizer, load_tokenizer
from hf_tinybert.presets import PRESETS


def student_tokenizer(
    student: str, teacher_tokenizer: PreTrainedTokenizerBase, phases: str
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a student checkpoint, where student and teacher may read different tokens.

    With `phases="prediction"`, sequence-level outputs are compared without a common vocabulary. In other phases the
    student uses the teacher's tokenizer.

    Args:
        student: a preset's name, or the folder or Hub id of a checkpoint.
        teacher_tokenizer: the teacher's.
        phases: as in `DistillationTrainingArguments`.

    Returns:
        The student's tokenizer (pass it as `processing_class`, and the teacher's as `teacher_processing_class`), or
        None if the teacher's serves both models: for a preset, for a checkpoint without a tokenizer or with the same
        vocabulary, and in other phases.
    """
    if student in PRESETS or phases != "prediction" or not brings_tokenizer(student):
        return None
    tokenizer = load_tokenizer(student, "student")
    return None if tokenizer.get_vocab() == teacher_tokenizer.get_vocab() else tokenizer
