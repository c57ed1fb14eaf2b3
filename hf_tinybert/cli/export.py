"""`hf-tinybert export`: checked ONNX files of a student."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.export import Export, export_onnx, export_openvino
from hf_tinybert.export.onnx import FILES, OPTIMISATIONS, QUANTISATIONS
from hf_tinybert.export.score_check import ScoreCheck
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer
from hf_tinybert.tasks.inspection import announce

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
        "export", "Write ONNX or OpenVINO files of a student.", (ExportArguments, DataArguments), argv
    )
    _refuse(args)
    check = calibration = None
    calibrates = args.quantize == "int8-static" or (args.quantize == "auto" and data_args.train_file is not None)
    if calibrates or data_args.eval_file or data_args.test_file or data_args.dataset:
        config = load_config(args.model, "model")
        task = tasks.start(tasks.of_model(config) or "feature-extraction", config, data_args, calibrates)
        model = load_model(args.model, task.auto, role="model").float()
        tokenizer = load_tokenizer(args.model, "model", task.single_words)
        announce(task, tokenizer)
        score_check = ScoreCheck(model, tokenizer, task, args.max_drop)
        if score_check.split is not None:
            check = score_check
        if calibrates:
            rows = score_check.encoded.splits["train"].shuffle(seed=0)
            calibration = rows.select(range(min(args.calibration_samples, len(rows))))
    if args.quantize is not None and check is None:
        logger.warning("The accuracy of the quantised file is not measured: give --eval-file.")
    if args.format == "openvino":
        _print_files(export_openvino(args.model, args.output_dir, args.quantize, args.tolerance, check=check))
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
    _print_files(done)
    if args.quantize == "auto" and "int8" not in done.files:
        print("  The quantised files are not faster here, or lose too much.")
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


def _print_files(done: Export) -> None:
    print(f"{done.folder}, by {done.exporter}")
    title = f"{done.length} tokens"
    print(f"  {'':<28}{'':>15}{'size':>12}{title:>14}   differs by up to")
    for file in done.files.values():
        how = f"{file.optimize or 'plain'}, {file.quantize or 'float32'}"
        size, taken = f"{file.size / 1e6:.1f} MB", f"{file.milliseconds:.2f} ms"
        print(f"  {file.name:<28}{how:>15}{size:>12}{taken:>14}   {file.difference:.2g}")
