"""`hf-tinybert export`: a student becomes ONNX files that were checked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from hf_tinybert import data, tasks
from hf_tinybert.cli import arguments
from hf_tinybert.export import Export, export_onnx
from hf_tinybert.export.exporting import FILES, FOLDER, QUANTISATIONS
from hf_tinybert.export.session import OnnxModel
from hf_tinybert.teacher import load_teacher, load_tokenizer, teacher_config


@dataclass
class ExportArguments:
    """What to export, and how far it may be off."""

    model: str = field(metadata={"help": "Folder or Hub id of a student; may also stand first, without --model."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to; the student's own folder by default."})
    quantize: str | None = field(
        default=None,
        metadata={"help": "'int8': also a quantised file, a quarter of the size.", "choices": list(QUANTISATIONS)},
    )
    tolerance: float = field(
        default=1e-4, metadata={"help": "Largest difference from PyTorch that a float32 output may have."}
    )
    max_drop: float = field(
        default=0.01,
        metadata={"help": "With --eval-file: how much of the metric (0 to 1) a file may lose."},
    )


def run(argv: Sequence[str]) -> None:
    """Export `--model`; with `--eval-file`, measure every file on it and refuse what has lost too much."""
    if argv and not argv[0].startswith("-"):
        argv = ["--model", *argv]
    args, data_args = arguments.parse(
        "export", "Write ONNX files of a student.", (ExportArguments, data.DataArguments), argv
    )
    task = None
    if data_args.eval_file or data_args.test_file or data_args.dataset:
        task = tasks.start(None, teacher_config(args.model, "model"), data_args)
        task.read(training=False)
    done = export_onnx(args.model, args.output_dir, args.quantize, args.tolerance)
    print(f"{done.folder / FOLDER}, by {done.exporter}")
    for kind, size in done.sizes.items():
        print(f"  {FILES[kind]:<22}{size / 1e6:>8.1f} MB   differs by up to {done.differences[kind]:.2g}")
    if task is not None:
        _measure(args, task, done)


def _measure(args: ExportArguments, task: tasks.Task, done: Export) -> None:
    """The metric of the model and of its files.

    Raises:
        ValueError: a file has lost more than `--max-drop`.
    """
    model = load_teacher(args.model, task.auto, role="model")
    tokenizer = load_tokenizer(args.model, "model", task.single_words)
    encoded = task.encode(tokenizer, model.config)
    split = next(iter(encoded.splits))
    own = _score(model, tokenizer, encoded, split)
    print(f"{split} {encoded.leading}: {own:.4f} in PyTorch")
    for kind in done.sizes:
        exported = OnnxModel(done.folder / FOLDER / FILES[kind], model.config)
        score = _score(exported, tokenizer, encoded, split)
        print(f"{split} {encoded.leading}: {score:.4f} in {FILES[kind]}")
        if own - score > args.max_drop:
            raise ValueError(
                f"{FILES[kind]} has lost {own - score:.4f} of {encoded.leading}, more than --max-drop {args.max_drop}."
            )


def _score(model: Any, tokenizer: PreTrainedTokenizerBase, encoded: tasks.Encoded, split: str) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        settings = TrainingArguments(scratch, report_to="none", use_cpu=True, disable_tqdm=True)
        trainer = Trainer(model=model, args=settings, processing_class=tokenizer, **encoded.trainer_arguments())
        trainer.compute_metrics = encoded.metrics[split]
        measured = trainer.evaluate(encoded.splits[split], metric_key_prefix=split)
    return float(measured[f"{split}_{encoded.leading}"])
