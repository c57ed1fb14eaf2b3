"""What both stages of `hf-tinybert distill` do alike: a student's tokenizer, training, publishing."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_tinybert.cli import arguments
from hf_tinybert.configuration import PRESETS
from hf_tinybert.models.loading import brings_tokenizer, load_tokenizer
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments


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
