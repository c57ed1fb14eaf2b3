"""`hf-tinybert finetune`: an ordinary fine-tuning run with transformers' own Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data.arguments import DataArguments


@dataclass
class FinetuneArguments:
    """Which model to fine-tune."""

    model: str = field(metadata={"help": "Hub id or folder of a pretrained encoder."})
    task: str = field(
        default="text-classification",
        metadata={"help": "What to fine-tune it for.", "choices": list(tasks.WITH_LABELS)},
    )


def run(argv: Sequence[str]) -> None:
    """Fine-tune `--model` on the training data and save it, with its tokenizer, in `--output-dir`."""
    args, data_args, training_args = arguments.parse(
        "finetune",
        "Fine-tune an encoder for a task.",
        (FinetuneArguments, DataArguments, TrainingArguments),
        argv,
        save_strategy="no",
        **arguments.training_defaults(),
    )
    # Here, so that --help does not import models, data and trainer.
    from transformers import set_seed

    from hf_tinybert.data.loading import check_max_length
    from hf_tinybert.hub import checkpoints
    from hf_tinybert.hub.trainer import HubTrainer
    from hf_tinybert.models.loading import has_finite_weights, load_tokenizer
    from hf_tinybert.tasks.inspection import announce

    task = tasks.start(args.task, None, data_args, training=True)
    set_seed(training_args.seed)
    model = task.load_model(args.model)
    check_max_length(data_args.max_length, model.config.max_position_embeddings, "the model")
    tokenizer = load_tokenizer(args.model, "model", task.single_words)
    announce(task, tokenizer)
    encoded = task.encode(tokenizer, model.config)
    trainer = HubTrainer(model=model, args=training_args, processing_class=tokenizer, **encoded.trainer_arguments())
    resumed = arguments.resume(training_args)
    if resumed is True:
        resumed = checkpoints.to_resume_from(training_args.output_dir, distilled=False)
    trainer.train(resume_from_checkpoint=resumed)
    if not has_finite_weights(model):
        raise FloatingPointError(
            f"The weights are not finite after {trainer.state.global_step} steps, and are not saved: lower "
            f"--learning-rate ({training_args.learning_rate}), or use --bf16 or float32 instead of --fp16."
        )
    trainer.save_model()
    trainer.save_state()
    for split in ("eval", "test"):
        if split in encoded.splits:
            trainer.compute_metrics = encoded.metrics[split]
            measured = trainer.evaluate(encoded.splits[split], metric_key_prefix=split)
            trainer.save_metrics(split, measured)
            print(f"{split} {encoded.leading}: {measured[f'{split}_{encoded.leading}']:.4f}")
