"""The task stage of `hf-tinybert distill`: from a fine-tuned teacher and a task's data to a student of that task."""

from __future__ import annotations

import os

from hf_tinybert import tasks
from hf_tinybert.benchmark.comparison import SUMMARY_NAME, compare_trained
from hf_tinybert.cli import stage
from hf_tinybert.cli.distill import DistillArguments
from hf_tinybert.data import loading
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer, max_length_of
from hf_tinybert.student.create import config_of_student
from hf_tinybert.student.tokenizer import student_tokenizer
from hf_tinybert.tasks.inspection import announce
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments


def run(model_args: DistillArguments, data_args: DataArguments, training_args: DistillationTrainingArguments) -> None:
    """Distil, evaluate both models on the held-out data, print them side by side, and write the student's card."""
    task = tasks.start(model_args.task, load_config(model_args.teacher), data_args, training=True)
    teacher = load_model(model_args.teacher, task.auto)
    teacher_tokenizer = load_tokenizer(model_args.teacher, "teacher", task.single_words)
    loading.check_max_length(data_args.max_length, Encoder.from_model(teacher).max_length, "the teacher")
    tokenizer = None
    if task.of_texts:
        tokenizer = student_tokenizer(model_args.student, teacher_tokenizer)
    separate = tokenizer is not None
    tokenizer = tokenizer or teacher_tokenizer
    student_config = config_of_student(teacher, model_args.student, separate, data_args.max_length)
    loading.check_max_length(data_args.max_length, max_length_of(student_config), "the student")
    announce(task, tokenizer)
    encoded = tasks.encode_for(task, student_config, tokenizer, teacher_tokenizer if separate else None)
    trainer = DistillationTrainer(
        model=model_args.student,
        teacher=teacher,
        args=training_args,
        processing_class=tokenizer,
        teacher_processing_class=teacher_tokenizer if separate else None,
        **encoded.trainer_arguments(),
    )
    stage.train(trainer)
    if trainer.is_world_process_zero():
        mapping = trainer.student.config.tinybert["layer_mapping"]
        print(f"\nLayer mapping\n{LayerMapping.parse(mapping)}\n")
    split = "test" if "test" in encoded.splits else "eval"
    trainer.compute_metrics = encoded.metrics.get(split)
    comparison = compare_trained(trainer, encoded.splits.get(split), encoded.leading, split)
    if comparison is not None:
        print(comparison)
        comparison.save(os.path.join(training_args.output_dir, SUMMARY_NAME))
    dataset = data_args.dataset
    on_hub = dataset is not None and not os.path.exists(dataset)
    stage.publish(trainer, comparison, dataset_tags=dataset if on_hub else None)
    if trainer.is_world_process_zero():
        print(f"\nThe student is in {training_args.output_dir}")
