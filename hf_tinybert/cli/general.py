"""The general stage of `hf-tinybert distill`: a pretrained encoder and plain text in, a headless student out."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel

from hf_tinybert.cli import stage
from hf_tinybert.data import corpus, loading
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_model, load_tokenizer, max_length_of
from hf_tinybert.student.create import config_of_student
from hf_tinybert.trainer import DistillationTrainer
from hf_tinybert.training_args import DistillationTrainingArguments


def run(
    model_args: Any,
    data_args: loading.DataArguments,
    corpus_args: corpus.CorpusArguments,
    training_args: DistillationTrainingArguments,
) -> None:
    """Distil the layers of `--teacher` into `--student` on plain text, and say how close it came on held-out text."""
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
            print(_report(measured, len(held_out)))
    stage.publish(trainer)
    if trainer.is_world_process_zero():
        print(f"\nThe student is in {training_args.output_dir}: name it as --student of a task.")


def _report(measured: dict[str, float], sequences: int) -> str:
    """The fidelity as a table, a line for each level."""
    levels = [name.removeprefix("eval_loss_") for name in measured if name.startswith("eval_loss_")]
    lines = [f"\nOn {sequences} held-out sequences (loss {measured['eval_loss']:.4f})", ""]
    lines.append(f"{'level':<14}{'loss':>10}{'cosine':>10}{'overlap':>10}")
    for level in levels:
        cosine = measured.get(f"eval_cosine_{level}")
        overlap = measured.get(f"eval_attention_overlap_{level.removeprefix('attention_')}")
        shown = [f"{value:>10.4f}" if value is not None else " " * 10 for value in (cosine, overlap)]
        if not level.startswith("attention"):
            shown[1] = ""
        lines.append(f"{level:<14}{measured[f'eval_loss_{level}']:>10.4f}{''.join(shown)}".rstrip())
    return "\n".join(lines)
