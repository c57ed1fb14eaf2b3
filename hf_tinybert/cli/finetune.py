"""`hf-tinybert finetune`: an ordinary fine-tuning run with transformers' own Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from hf_tinybert import data, metrics
from hf_tinybert.cli import arguments
from hf_tinybert.saving import SafeSavingTrainer
from hf_tinybert.teacher import load_tokenizer


@dataclass
class FinetuneArguments:
    """Which model to fine-tune."""

    model: str = field(metadata={"help": "Hub id or folder of a pretrained encoder."})


def run(argv: Sequence[str]) -> None:
    """Fine-tune `--model` on the training data and leave it, with its tokenizer, in `--output-dir`."""
    model_args, data_args, training_args = arguments.parse(
        "finetune",
        "Fine-tune an encoder on a classification or regression task.",
        (FinetuneArguments, data.DataArguments, TrainingArguments),
        argv,
        save_strategy="no",
        **arguments.TRAINING_DEFAULTS,
    )
    splits, columns = data.load_for_training(data_args)
    labels = data.Labels.of_dataset(splits["train"], columns.label)
    set_seed(training_args.seed)
    model = _load(model_args.model, labels)
    data.check_max_length(data_args.max_length, model.config.max_position_embeddings, "the model")
    tokenizer = load_tokenizer(model_args.model, "model")
    encoded = data.encode(data.shortened(splits, data_args), columns, labels, tokenizer, data_args.max_length)
    leading, compute_metrics = metrics.for_task(labels.is_regression)
    trainer = SafeSavingTrainer(
        model=model,
        args=training_args,
        train_dataset=encoded["train"],
        eval_dataset=encoded.get("eval"),
        processing_class=tokenizer,
        data_collator=data.collator(tokenizer),
        compute_metrics=compute_metrics,
    )
    trainer.train(resume_from_checkpoint=arguments.resume(training_args))
    trainer.save_model()
    trainer.save_state()
    for split in ("eval", "test"):
        if split in encoded:
            measured = trainer.evaluate(encoded[split], metric_key_prefix=split)
            trainer.save_metrics(split, measured)
            print(f"{split} {leading}: {measured[f'{split}_{leading}']:.4f}")


def _load(name: str, labels: data.Labels) -> PreTrainedModel:
    """A model with a head for the labels; a head for another number of labels is refused."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"The model folder {name} holds no model: there is no config.json in it.")
    try:
        return AutoModelForSequenceClassification.from_pretrained(name, **labels.config_kwargs())
    except (SafetensorError, RuntimeError) as error:
        wanted = labels.config_kwargs()["num_labels"]
        raise ValueError(
            f"The model {name} cannot be loaded with a head for {wanted} label(s): {str(error).splitlines()[0]} Was "
            "it fine-tuned for other labels? Start from a pretrained encoder."
        ) from None
