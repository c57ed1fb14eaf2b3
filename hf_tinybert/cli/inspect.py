"""`hf-tinybert inspect`: what is understood of data files, before anything is trained on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data.arguments import DataArguments


@dataclass
class InspectArguments:
    """What to inspect."""

    files: list[str] = field(
        default_factory=list,
        metadata={"help": "Data files: of training, evaluation and testing, in this order. Or --train-file, ..."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Default: the model's, or the task whose columns the data has.",
            "choices": list(tasks.NAMES),
        },
    )
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a model, which decides labels and lengths."}
    )


def run(argv: Sequence[str]) -> int:
    """Print what was understood, and the doubts; 1 if there are any, otherwise 0."""
    argv = arguments.named_first(argv, "--files")
    args, data_args = arguments.parse(
        "inspect", "Say what is understood of data files.", (InspectArguments, DataArguments), argv
    )
    if len(args.files) > len(_FLAGS):
        raise ValueError(f"Give at most {len(_FLAGS)} files: of training, evaluation and testing.")
    for name, path in zip(_FLAGS, args.files, strict=False):
        setattr(data_args, name, path)
    # Here, so that --help does not import data, nor a run without a model models.
    from hf_tinybert.data.loading import load_raw
    from hf_tinybert.tasks.inspection import inspect
    from hf_tinybert.tasks.registry import fitting

    config = None
    if args.model is not None:
        from hf_tinybert.models.loading import load_config, load_tokenizer

        config = load_config(args.model, "model")
    data = load_raw(data_args)
    name = args.task or tasks.of_model(config) or fitting(data, data_args)
    training = any((data_args.train_file, data_args.dataset))
    task = tasks.start(name, config, data_args, training, data)
    tokenizer = None
    if config is not None:
        if tasks.of_model(config) is not None:
            task.check_labels(config)
        tokenizer = load_tokenizer(args.model, "model", task.single_words)
    found = inspect(task, tokenizer)
    print(found)
    for doubt in found.doubts:
        print(f"doubt: {doubt}")
    sys.stdout.flush()
    return int(bool(found.doubts))


#: The files' fields, in the order in which they are given.
_FLAGS = ("train_file", "eval_file", "test_file")
