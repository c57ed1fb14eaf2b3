"""The general stage of `hf-tinybert distill`: from a pretrained encoder and plain text to a student without a head."""

from __future__ import annotations

from transformers import AutoModel

from hf_tinybert.cli import stage
from hf_tinybert.cli.distill import DistillArguments
from hf_tinybert.data import corpus, loading
from hf_tinybert.data.arguments import CorpusArguments, DataArguments
from hf_tinybert.evaluation.layer_fidelity import fidelity_table
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_model, load_tokenizer, max_length_of
from hf_tinybert.student.create import config_of_student
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments


def run(
    model_args: DistillArguments,
    data_args: DataArguments,
    corpus_args: CorpusArguments,
    training_args: DistillationTrainingArguments,
) -> None:
    """Distil the layers of `--teacher` into `--student` on plain text, and print its fidelity on held-out text."""
    corpus_args.check(data_args, training_args.max_steps)
    if training_args.phases in ("two_phase", "prediction"):
        raise ValueError(
            f"The general stage matches layers only, which is --phases intermediate; got {training_args.phases!r}."
        )
    training_args.phases = "intermediate"
    teacher = load_model(model_args.teacher, AutoModel)
    tokenizer = load_tokenizer(model_args.teacher, "teacher")
    loading.check_max_length(data_args.max_length, Encoder.from_model(teacher).max_length, "the teacher")
    student_config = config_of_student(teacher, model_args.student)
    loading.check_max_length(data_args.max_length, max_length_of(student_config), "the student")
    train, held_out = corpus.load(data_args, corpus_args, tokenizer, training_args.seed)
    collator = loading.collator(tokenizer)
    trainer = DistillationTrainer(
        model=model_args.student,
        teacher=teacher,
        args=training_args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=collator,
    )
    stage.train(trainer)
    if held_out is not None:
        measured = trainer.evaluate()
        trainer.save_metrics("eval", measured)
        if trainer.is_world_process_zero():
            print(fidelity_table(measured, len(held_out)))
    stage.publish(trainer)
    if trainer.is_world_process_zero():
        print(f"\nThe student is in {training_args.output_dir}: name it as --student of a task.")
