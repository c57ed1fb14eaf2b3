"""`hf-tinybert evaluate`: the metric, size and latency of a fine-tuned model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_tinybert import comparison, data, metrics
from hf_tinybert.cli import arguments
from hf_tinybert.families import locate
from hf_tinybert.teacher import load_teacher, load_tokenizer


@dataclass
class EvaluateArguments:
    """What to evaluate."""

    model: str = field(metadata={"help": "Folder or Hub id of a fine-tuned model."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples at a time."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})


def run(argv: Sequence[str]) -> None:
    """Print the model's metric on every split that was named, and what it costs."""
    model_args, data_args = arguments.parse(
        "evaluate",
        "Measure a fine-tuned model on a file or data set.",
        (EvaluateArguments, data.DataArguments),
        argv,
    )
    splits = data.load_raw(data_args)
    splits.pop("train", None)
    if not splits:
        raise ValueError("Nothing to evaluate on: give --eval-file or --test-file, or a --dataset with such a split.")
    columns = data.Columns.find(next(iter(splits.values())), data_args)
    splits = data.checked(splits, columns)
    model = load_teacher(model_args.model, AutoModelForSequenceClassification, role="model")
    tokenizer = load_tokenizer(model_args.model, "model")
    data.check_max_length(data_args.max_length, locate(model).max_length, "the model")
    labels = data.Labels.of_config(model.config)
    encoded = data.encode(splits, columns, labels, tokenizer, data_args.max_length)
    leading, compute_metrics = metrics.for_task(labels.is_regression)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                report_to="none",
                per_device_eval_batch_size=model_args.per_device_eval_batch_size,
                use_cpu=model_args.use_cpu,
            ),
            processing_class=tokenizer,
            data_collator=data.collator(tokenizer),
            compute_metrics=compute_metrics,
        )
        for split, dataset in encoded.items():
            measured = trainer.evaluate(dataset, metric_key_prefix=split)
            print(
                comparison.compare(
                    {"model": model},
                    {"model": measured[f"{split}_{leading}"]},
                    {"model": model_args.model},
                    leading,
                    split,
                )
            )
