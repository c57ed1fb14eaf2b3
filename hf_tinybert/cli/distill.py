"""`hf-tinybert distill`: a fine-tuned teacher goes in, a student comes out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoModelForSequenceClassification

from hf_tinybert import comparison, corpus, data, metrics
from hf_tinybert.cli import arguments, general, stage
from hf_tinybert.configuration import DEFAULT_PRESET, PRESETS
from hf_tinybert.families import locate
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.teacher import load_teacher, load_tokenizer
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments

#: Training examples from which the principal components of a student's start are computed.
_CALIBRATION = 256
SUMMARY_NAME = "summary.json"


@dataclass
class DistillArguments:
    """Teacher and student."""

    teacher: str = field(
        metadata={"help": "Folder or Hub id of a fine-tuned encoder; in the general stage, of a pretrained one."}
    )
    student: str = field(
        default=DEFAULT_PRESET,
        metadata={"help": f"A preset ({', '.join(PRESETS)}), or folder or Hub id of a small checkpoint."},
    )
    init: str = field(
        default="teacher",
        metadata={
            "help": "Start of a preset: the teacher's own weights, or random.",
            "choices": ["teacher", "random"],
        },
    )
    stage: str = field(
        default="task",
        metadata={
            "help": "'task': learn a task from a fine-tuned teacher. 'general': learn a pretrained teacher's layers "
            "on plain text; the result is a --student for tasks.",
            "choices": ["task", "general"],
        },
    )


def run(argv: Sequence[str]) -> None:
    """Distil `--teacher` into `--student` and leave it, with its tokenizer, in `--output-dir`."""
    model_args, data_args, corpus_args, training_args = arguments.parse(
        "distill",
        "Distil a fine-tuned teacher into a TinyBERT student.",
        (DistillArguments, data.DataArguments, corpus.CorpusArguments, DistillationTrainingArguments),
        argv,
        save_strategy="epoch",
        save_total_limit=2,
        **arguments.TRAINING_DEFAULTS,
    )
    if model_args.stage == "general":
        general.run(model_args, data_args, corpus_args, training_args)
        return
    if corpus_args != corpus.CorpusArguments():
        raise ValueError("--documents, --streaming and --held-out go with --stage general.")
    splits, columns = data.load_for_training(data_args)
    splits = data.shortened(splits, data_args)
    teacher = load_teacher(model_args.teacher, AutoModelForSequenceClassification)
    tokenizer = load_tokenizer(model_args.teacher, "teacher")
    labels = data.Labels.of_config(teacher.config)
    data.check_max_length(data_args.max_length, locate(teacher).max_length, "the teacher")
    encoded = data.encode(splits, columns, labels, tokenizer, data_args.max_length)
    collator = data.collator(tokenizer)
    some = collator(list(encoded["train"].select(range(min(_CALIBRATION, len(encoded["train"]))))))
    student = stage.start_student(model_args, training_args, teacher, tokenizer, data_args.max_length, some)
    leading, compute_metrics = metrics.for_task(labels.is_regression)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        args=training_args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("eval"),
        processing_class=tokenizer,
        data_collator=collator,
        compute_metrics=compute_metrics,
    )
    stage.train(trainer)
    if trainer.is_world_process_zero():
        mapping = trainer.student.config.tinybert["layer_mapping"]
        print(f"\nLayer mapping\n{LayerMapping.parse(mapping)}\n")
    _summarise(trainer, model_args, encoded, leading)


def _summarise(trainer: DistillationTrainer, model_args: DistillArguments, encoded: Any, leading: str) -> None:
    """Evaluate both models on the held-out data and print them side by side."""
    split = "test" if "test" in encoded else "eval" if "eval" in encoded else None
    scores: dict[str, float | None] = {"teacher": None, "student": None}
    if split is not None:
        measured = trainer.evaluate(encoded[split], metric_key_prefix=split)
        trainer.save_metrics(split, measured)
        scores["student"] = measured[f"{split}_{leading}"]
        scores["teacher"] = trainer.evaluate_teacher(encoded[split])[f"teacher_{leading}"]
    if not trainer.is_world_process_zero():
        return
    table = comparison.compare(
        {"teacher": trainer.teacher, "student": trainer.student},
        scores,
        {"teacher": model_args.teacher, "student": trainer.args.output_dir},
        leading,
        split or "no data for",
    )
    print(table)
    table.save(os.path.join(trainer.args.output_dir, SUMMARY_NAME))
    print(f"\nThe student is in {trainer.args.output_dir}")
