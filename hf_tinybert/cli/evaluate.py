"""`hf-tinybert evaluate`: the metric, size and latency of a fine-tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_tinybert import tasks
from hf_tinybert.benchmark import comparison
from hf_tinybert.cli import arguments
from hf_tinybert.data import loading
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer


@dataclass
class EvaluateArguments:
    """What to evaluate."""

    model: str = field(metadata={"help": "Folder or Hub id of a fine-tuned model."})
    task: str | None = field(
        default=None,
        metadata={"help": "Default: the task that the model was saved for.", "choices": list(tasks.WITH_LABELS)},
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples at a time."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})


def run(argv: Sequence[str]) -> None:
    """Print the model's metric on every split that was named, and what it costs."""
    model_args, data_args = arguments.parse(
        "evaluate",
        "Measure a fine-tuned model on a file or data set.",
        (EvaluateArguments, loading.DataArguments),
        argv,
    )
    task = tasks.start(model_args.task, load_config(model_args.model, "model"), data_args, training=False)
    model = load_model(model_args.model, task.auto, role="model")
    tokenizer = load_tokenizer(model_args.model, "model", task.single_words)
    loading.check_max_length(data_args.max_length, Encoder.from_model(model).max_length, "the model")
    encoded = task.encode(tokenizer, model.config)
    settings: dict[str, Any] = {
        "per_device_eval_batch_size": model_args.per_device_eval_batch_size,
        "use_cpu": model_args.use_cpu,
    }
    with tasks.measuring(model, tokenizer, encoded, quiet=False, **settings) as trainer:
        for split, dataset in encoded.splits.items():
            trainer.compute_metrics = encoded.metrics[split]
            measured = trainer.evaluate(dataset, metric_key_prefix=split)
            print(
                comparison.compare(
                    {"model": model},
                    {"model": measured[f"{split}_{encoded.leading}"]},
                    {"model": model_args.model},
                    encoded.leading,
                    split,
                )
            )
