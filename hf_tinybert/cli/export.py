"""`hf-tinybert export`: a student becomes ONNX files that were checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data import loading
from hf_tinybert.export import Export, export_onnx, export_openvino
from hf_tinybert.export.onnx import FILES, OPTIMISATIONS, QUANTISATIONS
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer

logger = logging.getLogger(__name__)


@dataclass
class ExportArguments:
    """What to export, and how far it may be off."""

    model: str = field(metadata={"help": "Folder or Hub id of a student; may also stand first, without --model."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to; the student's own folder by default."})
    quantize: str | None = field(
        default=None,
        metadata={
            "help": "'int8': also a quantised file, a quarter of the size. 'int8-static': by ranges found on "
            "--train-file. 'auto': the faster of them, if it is accurate and faster than float32.",
            "choices": list(QUANTISATIONS),
        },
    )
    format: str = field(
        default="onnx",
        metadata={"help": "'openvino': needs optimum-intel; takes int8 weights.", "choices": ["onnx", "openvino"]},
    )
    optimize: str = field(
        default="auto",
        metadata={
            "help": "'none': the graph as exported. 'O1', 'O2', 'O3': Optimum's levels. 'auto': what is fastest here.",
            "choices": ["none", *OPTIMISATIONS],
        },
    )
    calibration_samples: int = field(
        default=256, metadata={"help": "Rows of --train-file that static quantisation finds its ranges on."}
    )
    threads: int | None = field(
        default=None, metadata={"help": "CPU threads while files are timed; PyTorch's own number by default."}
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
    argv = arguments.named_first(argv, "--model")
    args, data_args = arguments.parse(
        "export", "Write ONNX or OpenVINO files of a student.", (ExportArguments, loading.DataArguments), argv
    )
    _refuse(args)
    check = calibration = None
    calibrates = args.quantize == "int8-static" or (args.quantize == "auto" and data_args.train_file is not None)
    if calibrates or data_args.eval_file or data_args.test_file or data_args.dataset:
        config = load_config(args.model, "model")
        task = tasks.start(tasks.of_model(config) or "feature-extraction", config, data_args, calibrates)
        measured = _Check(args, task)
        if measured.split is not None:
            check = measured
        if calibrates:
            rows = measured.encoded.splits["train"].shuffle(seed=0)
            calibration = rows.select(range(min(args.calibration_samples, len(rows))))
    if args.quantize is not None and check is None:
        logger.warning("What 8 bits cost this student is not measured: give --eval-file.")
    if args.format == "openvino":
        _say(export_openvino(args.model, args.output_dir, args.quantize, args.tolerance, check=check))
        return
    optimize = None if args.optimize == "none" else args.optimize
    done = export_onnx(
        args.model,
        args.output_dir,
        args.quantize,
        optimize,
        calibration,
        args.tolerance,
        check=check,
        threads=args.threads,
    )
    _say(done)
    if args.quantize == "auto" and "int8" not in done.files:
        print("  8 bits are not faster here, or lose too much.")
    elif len(done.files) > 1:
        print(f"  {FILES[done.fastest]} is the fastest here.")


def _refuse(args: ExportArguments) -> None:
    """Refuse flags that do not go together.

    Raises:
        ValueError: says which.
    """
    for flag, value in (("--calibration-samples", args.calibration_samples), ("--threads", args.threads)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} must be at least 1, got {value}.")
    if args.format == "openvino" and (args.quantize not in (None, "int8") or args.threads or args.optimize != "auto"):
        raise ValueError("--format openvino takes --quantize int8, and neither --optimize nor --threads.")


def _say(done: Export) -> None:
    print(f"{done.folder}, by {done.exporter}")
    title = f"{done.length} tokens"
    print(f"  {'':<28}{'':>15}{'size':>12}{title:>14}   differs by up to")
    for file in done.files.values():
        how = f"{file.optimize or 'plain'}, {file.quantize or 'float32'}"
        size, taken = f"{file.size / 1e6:.1f} MB", f"{file.milliseconds:.2f} ms"
        print(f"  {file.name:<28}{how:>15}{size:>12}{taken:>14}   {file.difference:.2g}")


class _Check:
    """Measures files on the task's data, and refuses those that have lost too much."""

    def __init__(self, args: ExportArguments, task: tasks.Task) -> None:
        if isinstance(task, tasks.FeatureExtraction):
            raise ValueError("Vectors are not measured here: leave out the data, or compare them in your own script.")
        self.model = load_model(args.model, task.auto, role="model").float()
        loading.check_max_length(task.args.max_length, Encoder.from_model(self.model).max_length, "the model")
        self.tokenizer = load_tokenizer(args.model, "model", task.single_words)
        self.encoded = task.encode(self.tokenizer, self.model.config)
        self.split = next((name for name in self.encoded.splits if name != "train"), None)
        spans = isinstance(task, tasks.QuestionAnswering)
        self.labels = ["start_positions", "end_positions"] if spans else ["labels"]
        self.allowed = args.max_drop * (100 if spans else 1)  # SQuAD's metrics are in hundredths
        self.own = 0.0 if self.split is None else self.score(self.model, "PyTorch")

    def __call__(self, kind: str, exported: Any) -> dict[str, float]:
        """Measure one file; what was measured, by name.

        Raises:
            ValueError: it has lost more than `--max-drop`.
        """
        file = exported.path
        score = self.score(exported, file.name)
        lost = self.own - score
        if not lost <= self.allowed:
            raise ValueError(
                f"{file.name} has lost {lost:.4f} of {self.encoded.leading}, more than --max-drop allows "
                f"({self.allowed:g}): nothing was written."
            )
        return {f"{self.encoded.leading} ({self.split})": score}

    def score(self, model: Any, name: str) -> float:
        """The leading metric of a model, which is printed."""
        split = str(self.split)
        settings: dict[str, Any] = {"use_cpu": True, "label_names": self.labels}
        with tasks.measuring(model, self.tokenizer, self.encoded, **settings) as trainer:
            trainer.compute_metrics = self.encoded.metrics[split]
            measured = trainer.evaluate(self.encoded.splits[split], metric_key_prefix=split)
        score = float(measured[f"{split}_{self.encoded.leading}"])
        print(f"{split} {self.encoded.leading}: {score:.4f} in {name}")
        return score
