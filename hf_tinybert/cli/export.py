"""`hf-tinybert export`: a student becomes ONNX files that were checked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from hf_tinybert import data, tasks
from hf_tinybert.cli import arguments
from hf_tinybert.export import export_onnx
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
    check = None if task is None else _Check(args, task)
    done = export_onnx(args.model, args.output_dir, args.quantize, args.tolerance, check=check)
    print(f"{done.folder / FOLDER}, by {done.exporter}")
    for kind, size in done.sizes.items():
        print(f"  {FILES[kind]:<22}{size / 1e6:>8.1f} MB   differs by up to {done.differences[kind]:.2g}")


class _Check:
    """Measures files on the task's data, and refuses those that have lost too much."""

    def __init__(self, args: ExportArguments, task: tasks.Task) -> None:
        self.model = load_teacher(args.model, task.auto, role="model")
        self.tokenizer = load_tokenizer(args.model, "model", task.single_words)
        self.encoded = task.encode(self.tokenizer, self.model.config)
        self.split = next(iter(self.encoded.splits))
        spans = isinstance(task, tasks.QuestionAnswering)
        self.labels = ["start_positions", "end_positions"] if spans else ["labels"]
        self.allowed = args.max_drop * (100 if spans else 1)  # SQuAD's metrics are in hundredths
        self.own = self.score(self.model, "PyTorch")

    def __call__(self, kind: str, file: Path) -> None:
        """Measure one file.

        Raises:
            ValueError: it has lost more than `--max-drop`.
        """
        lost = self.own - self.score(OnnxModel(file, self.model.config), file.name)
        if not lost <= self.allowed:
            raise ValueError(
                f"{file.name} has lost {lost:.4f} of {self.encoded.leading}, more than --max-drop allows "
                f"({self.allowed:g}): nothing was written."
            )

    def score(self, model: Any, name: str) -> float:
        """The leading metric of a model, which is printed."""
        with tempfile.TemporaryDirectory() as scratch:
            settings = TrainingArguments(
                scratch, report_to="none", use_cpu=True, disable_tqdm=True, label_names=self.labels
            )
            kwargs = self.encoded.trainer_arguments()
            trainer = Trainer(model=model, args=settings, processing_class=self.tokenizer, **kwargs)
            trainer.compute_metrics = self.encoded.metrics[self.split]
            measured = trainer.evaluate(self.encoded.splits[self.split], metric_key_prefix=self.split)
        score = float(measured[f"{self.split}_{self.encoded.leading}"])
        print(f"{self.split} {self.encoded.leading}: {score:.4f} in {name}")
        return score
