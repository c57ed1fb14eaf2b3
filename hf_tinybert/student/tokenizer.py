"""The tokenizer of a student whose vocabulary differs from its teacher's."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.models.loading import brings_tokenizer, check_folder, load_tokenizer
from hf_tinybert.presets import PRESETS

logger = logging.get_logger(__name__)


def student_tokenizer(student: str, teacher_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a student checkpoint, where student and teacher read different token ids.

    Sequence-level outputs are compared whatever the tokens; layers, where both tokenizers cut texts alike (see
    `hf_tinybert.teacher.positions`).

    Args:
        student: a preset's name, or the folder or Hub id of a checkpoint.
        teacher_tokenizer: the teacher's.

    Returns:
        The student's tokenizer (pass it as `processing_class`, and the teacher's as `teacher_processing_class`), or
        None if the teacher's serves both models: for a preset, and for a checkpoint without a tokenizer or with the
        same vocabulary.
    """
    if student in PRESETS or not (Path(student).is_dir() or "/" in student) or not brings_tokenizer(student):
        return None
    check_folder(student, "student")
    try:
        tokenizer = load_tokenizer(student, "student")
    except (OSError, ValueError) as error:
        if Path(student).is_dir():
            raise
        # A repository on the Hub may hold none.
        logger.info(f"The student {student} brings no tokenizer ({error}): it reads the teacher's.")
        return None
    return None if tokenizer.get_vocab() == teacher_tokenizer.get_vocab() else tokenizer
