"""Real models and data for the tests, also for those that run in processes of their own."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import small_teacher
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments, TinyBertConfig, create_student
from hf_tinybert.utils import compat


@cache
def small() -> Path:
    """The folder of the small teacher (`small_teacher`)."""
    return small_teacher.made(Path(os.environ["HF_TINYBERT_TEST_CACHE"]))


def encoder() -> str:
    return str(small() / "encoder")


def teacher_folder() -> str:
    return str(small() / "text-classification")


def student_shape() -> str:
    """For `--student`: 2 layers, 48 wide; presets are wider than the small teacher."""
    return str(small() / "student-shape")


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(encoder())


@cache
def household() -> dict[str, Dataset]:
    """Tokenised splits with a `labels` column."""
    return {split: small_teacher.encoded(split, tokenizer()) for split in ("train", "eval", "test")}


def requests(count: int) -> list[str]:
    """The first household requests of the training split, as the tokenizer spells them."""
    rows = household()["train"].select(range(count))
    return [tokenizer().decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]


intents = cache(small_teacher.intents)


def load(folder: str):
    return AutoModelForSequenceClassification.from_pretrained(folder)


def student_config(teacher, **overrides) -> TinyBertConfig:
    """Two layers, 48 wide."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 96}
    return TinyBertConfig.from_teacher(teacher.config, **(sizes | overrides))


def small_student(teacher, init="random", dropout=0.0, **overrides):
    """A student of half the teacher's depth and width."""
    set_seed(0)
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return create_student(teacher, student_config(teacher, **(dropouts | overrides)), init=init)


def arguments(output_dir, **changes) -> DistillationTrainingArguments:
    """Twenty steps of eight sentences, half of them in each phase, both at the same rate from the first step on."""
    settings = {
        "output_dir": str(output_dir),
        "phases": "two_phase",
        "max_steps": 20,
        "intermediate_share": 0.5,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-4,
        "adam_epsilon": 1e-6,
        **compat.warmup_argument(0.0),
        "max_grad_norm": 0.0,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    settings |= changes
    return DistillationTrainingArguments(**({"intermediate_learning_rate": settings["learning_rate"]} | settings))


def trainer(student, teacher, args, **changes) -> DistillationTrainer:
    settings = {
        "model": student,
        "teacher": teacher,
        "args": args,
        "train_dataset": household()["train"],
        "eval_dataset": household()["eval"].select(range(48)),
        "processing_class": tokenizer(),
        "data_collator": DataCollatorWithPadding(tokenizer()),
    }
    return DistillationTrainer(**(settings | changes))


def weights(trained: DistillationTrainer) -> dict[str, torch.Tensor]:
    """Student and projections after training."""
    return {name: value.detach().clone() for name, value in trained._objective.state_dict().items()}
