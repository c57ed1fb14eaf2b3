"""`hf-tinybert distill`: a fine-tuned teacher goes in, a student comes out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert import tasks
from hf_tinybert.benchmark import comparison
from hf_tinybert.cli import arguments, general, stage
from hf_tinybert.configuration import DEFAULT_PRESET, PRESETS
from hf_tinybert.data import corpus, loading
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer, max_length_of
from hf_tinybert.student.create import config_of_student
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments


@dataclass
class DistillArguments:
    """Teacher and student."""

    teacher: str = field(
        metadata={"help": "Folder or Hub id of a fine-tuned encoder; in the general stage, of a pretrained one."}
    )
    student: str = field(
        default=DEFAULT_PRESET,
        metadata={
            "help": f"A preset ({', '.join(PRESETS)}), folder or Hub id of a small checkpoint, or a folder with "
            "nothing but a config.json."
        },
    )
    task: str | None = field(
        default=None,
        metadata={"help": "Default: the task that the teacher was saved for.", "choices": list(tasks.TASKS)},
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
        (DistillArguments, loading.DataArguments, corpus.CorpusArguments, DistillationTrainingArguments),
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
    task = tasks.start(model_args.task, load_config(model_args.teacher), data_args, training=True)
    teacher = load_model(model_args.teacher, task.auto)
    tokenizer = load_tokenizer(model_args.teacher, "teacher", task.single_words)
    loading.check_max_length(data_args.max_length, Encoder.from_model(teacher).max_length, "the teacher")
    own = stage.own_tokenizer(model_args, training_args, tokenizer) if task.of_texts else None
    student_config = config_of_student(teacher, model_args.student, own is not None)
    loading.check_max_length(data_args.max_length, max_length_of(student_config), "the student")
    encoded = task.encode(own or tokenizer, student_config)
    if own is not None:
        encoded = encoded.beside(task.encode(tokenizer, student_config))
    trainer = DistillationTrainer(
        model=model_args.student,
        teacher=teacher,
        args=training_args,
        processing_class=own or tokenizer,
        teacher_processing_class=None if own is None else tokenizer,
        **encoded.trainer_arguments(),
    )
    stage.train(trainer)
    if trainer.is_world_process_zero():
        mapping = trainer.student.config.tinybert["layer_mapping"]
        print(f"\nLayer mapping\n{LayerMapping.parse(mapping)}\n")
    _summarise(trainer, model_args, data_args, encoded)


def _summarise(
    trainer: DistillationTrainer,
    model_args: DistillArguments,
    data_args: loading.DataArguments,
    encoded: tasks.Encoded,
) -> None:
    """Evaluate both models on the held-out data, print them side by side, and write the student's card."""
    splits, leading = encoded.splits, encoded.leading
    split = "test" if "test" in splits else "eval" if "eval" in splits else None
    scores: dict[str, float | None] = {"teacher": None, "student": None}
    if split is not None:
        trainer.compute_metrics = encoded.metrics[split]
        measured = trainer.evaluate(splits[split], metric_key_prefix=split)
        trainer.save_metrics(split, measured)
        scores["student"] = measured[f"{split}_{leading}"]
        scores["teacher"] = trainer.evaluate_teacher(splits[split])[f"teacher_{leading}"]
    table = None
    if trainer.is_world_process_zero() and not trainer.is_fsdp_enabled:  # of a sharded model it has a part
        table = comparison.compare(
            {"teacher": trainer.teacher, "student": trainer.student},
            scores,
            {"teacher": model_args.teacher, "student": trainer.args.output_dir},
            leading,
            split or "no data for",
        )
        print(table)
        table.save(os.path.join(trainer.args.output_dir, comparison.SUMMARY_NAME))
    named = data_args.dataset
    stage.publish(trainer, comparison=table, dataset_tags=None if named is None or os.path.exists(named) else named)
    if trainer.is_world_process_zero():
        print(f"\nThe student is in {trainer.args.output_dir}")
