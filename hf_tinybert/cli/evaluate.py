"""`hf-tinybert evaluate`: the metric, size and latency of a fine-tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data.arguments import DataArguments


@dataclass
class EvaluateArguments:
    """What to evaluate."""

    model: str = field(metadata={"help": "Folder or Hub id of a fine-tuned model."})
    task: str | None = field(
        default=None,
        metadata={"help": "Default: the task that the model was saved for.", "choices": list(tasks.WITH_LABELS)},
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples at a time."})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even if a GPU is available."})


def run(argv: Sequence[str]) -> None:
    """Print the model's metric on every split that was named, and its size and latency."""
    args, data_args = arguments.parse(
        "evaluate",
        "Measure a fine-tuned model on a file or data set.",
        (EvaluateArguments, DataArguments),
        argv,
    )
    # Here, so that --help does not import models and data.
    from hf_tinybert.benchmark.comparison import LENGTH, measure_models, table
    from hf_tinybert.data.loading import check_max_length
    from hf_tinybert.models.architectures import Encoder
    from hf_tinybert.models.loading import load_config, load_model, load_tokenizer
    from hf_tinybert.tasks.inspection import announce

    task = tasks.start(args.task, load_config(args.model, "model"), data_args, training=False)
    model = load_model(args.model, task.auto, role="model")
    tokenizer = load_tokenizer(args.model, "model", task.single_words)
    check_max_length(data_args.max_length, Encoder.from_model(model).max_length, "the model")
    announce(task, tokenizer)
    encoded = task.encode(tokenizer, model.config)
    evaluator = tasks.Evaluator(
        model,
        tokenizer,
        encoded,
        quiet=False,
        per_device_eval_batch_size=args.per_device_eval_batch_size,
        use_cpu=args.use_cpu,
    )
    scores = {split: evaluator.score(split) for split in encoded.splits}
    (facts,) = measure_models({"model": model}, {}, {"model": args.model})
    for split, score in scores.items():
        print(table([replace(facts, score=score)], encoded.leading, split, LENGTH))
