"""Which tokenizer a student checkpoint is trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import BertConfig, PreTrainedTokenizerFast

from hf_tinybert.student.tokenizer import student_tokenizer

VOCABULARY = {"[UNK]": 0, "[PAD]": 1, "lights": 2, "on": 3}


@pytest.fixture
def other(tmp_path):
    """A folder with a tokenizer of another vocabulary."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    made.save_pretrained(tmp_path / "other")
    BertConfig(vocab_size=len(VOCABULARY)).save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def test_another_vocabulary_is_the_students_own(other, tokenizer):
    assert student_tokenizer(other, tokenizer).get_vocab() == VOCABULARY


def test_the_teachers_tokenizer_serves_a_student_that_has_no_other(teacher_folder, tokenizer, tmp_path):
    for student in ("tinybert-4l-312d", teacher_folder, str(tmp_path)):
        assert student_tokenizer(student, tokenizer) is None, student


def test_a_tokenizer_that_cannot_be_read_is_not_replaced_by_the_teachers(other, tokenizer):
    (Path(other) / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"The tokenizer in the student folder \S+/other cannot be read"):
        student_tokenizer(other, tokenizer)
