"""What both stages of `hf-tinybert distill` do alike: starting a student, and training it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from hf_tinybert.cli import arguments
from hf_tinybert.configuration import PRESETS
from hf_tinybert.data import loading
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import brings_tokenizer, check_tokenizer, load_tokenizer
from hf_tinybert.student.create import create_student
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments


def start_student(
    model_args: Any,
    training_args: DistillationTrainingArguments,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    calibration: Mapping[str, Tensor],
    separate_vocabulary: bool = False,
) -> PreTrainedModel:
    """The student that `--student` and `--init` name, once it is known to fit the tokens.

    Args:
        model_args: with `student` and `init`.
        training_args: with `seed` and `layer_mapping`.
        teacher: the teacher.
        tokenizer: of the student.
        max_length: of its inputs.
        calibration: a tokenised batch.
        own_vocabulary: the student reads other tokens than the teacher.
    """
    set_seed(training_args.seed)
    student = create_student(
        teacher,
        model_args.student,
        init=model_args.init,
        layer_mapping=training_args.layer_mapping,
        calibration=calibration,
        separate_vocabulary=separate_vocabulary,
    )
    if model_args.student not in PRESETS:
        check_tokenizer(tokenizer, model_args.student, "student")
    loading.check_max_length(max_length, Encoder.from_model(student).max_length, "the student")
    return student


def own_tokenizer(
    model_args: Any, training_args: DistillationTrainingArguments, teachers: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a `--student` checkpoint that reads other tokens than the teacher, where that is possible."""
    if (
        model_args.student in PRESETS
        or training_args.phases != "prediction"
        or not brings_tokenizer(model_args.student)
    ):
        return None
    own = load_tokenizer(model_args.student, "student")
    return None if own.get_vocab() == teachers.get_vocab() else own


def train(trainer: DistillationTrainer) -> None:
    """Train, from where `--resume-from-checkpoint` says, and save the student and the trainer's state."""
    trainer.train(resume_from_checkpoint=arguments.resume(trainer.args))
    trainer.save_model(_internal_call=True)  # what goes to the Hub goes there with its card, at the end
    trainer.save_state()


def publish(trainer: DistillationTrainer, **card: Any) -> None:
    """Write the model card, and with `--push-to-hub` put student and card on the Hub.

    Args:
        trainer: trained and evaluated.
        **card: for `create_model_card`.
    """
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**card)
    else:
        trainer.create_model_card(**card)
