"""The table of docs/deployment.md: a student in every ONNX configuration, against BERT-base's shape in PyTorch.

    python examples/benchmarks/deployment.py --student runs/results/sst2/four-0 --output deployment.json

Batch 1, all rows in turns, a table for each number of threads. Beside what `hf-tinybert export` chooses from are rows
that show what matters: unsigned weights (Optimum's setting for AVX2), and threads that wait in a loop for their next
work (ONNX Runtime's default). `--table FILE` prints a saved result again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from hf_tinybert.benchmark.costs import SHAPES
from hf_tinybert.export import exporters, optimize, quantize
from hf_tinybert.export.session import OnnxModel
from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.latency import in_turns, machine_name, random_inputs

BASELINE = "BERT-base, PyTorch"
SENTENCES = ("a touching and funny film", "the plot is thin and the acting is thinner", "it is what it is") * 16


def files(student: str, model: torch.nn.Module, scratch: Path) -> dict[str, Path]:
    """Label -> ONNX file."""
    tokenizer = AutoTokenizer.from_pretrained(student)
    rows = [dict(tokenizer(text)) for text in SENTENCES]
    made = {
        label: scratch / f"{number}.onnx"
        for number, label in enumerate(
            (
                "ONNX, as exported",
                "ONNX, O2",
                "ONNX, O3",
                "int8, unsigned weights",
                "int8, as exported",
                "int8, static",
                "int8, O2",
            )
        )
    }
    plain, fused = made["ONNX, as exported"], made["ONNX, O2"]
    exporters.write(model, plain)
    optimize.fuse(model, plain, fused, "O2")
    optimize.fuse(model, plain, made["ONNX, O3"], "O3")
    quantize_dynamic(plain, made["int8, unsigned weights"], weight_type=QuantType.QUInt8)
    quantize.to_int8(plain, made["int8, as exported"], model.config)
    quantize.to_int8(plain, made["int8, static"], model.config, rows)
    quantize.to_int8(fused, made["int8, O2"], model.config)
    return made


def waiting(file: Path, threads: int, inputs: dict[str, torch.Tensor]) -> Callable[[], object]:
    """A call into a session with ONNX Runtime's own thread settings."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given = {name: value.numpy() for name, value in inputs.items()}
    given["token_type_ids"] = np.zeros_like(given["input_ids"])
    return partial(session.run, None, {value.name: given[value.name] for value in session.get_inputs()})


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Medians of every row, for each number of threads and length."""
    model = AutoModelForSequenceClassification.from_pretrained(options.student).eval()
    base = AutoModelForSequenceClassification.from_config(BertConfig(**SHAPES["bert-base"])).eval()
    tables = []
    with tempfile.TemporaryDirectory() as scratch:
        made = files(options.student, model, Path(scratch))
        sizes = {label: file.stat().st_size for label, file in made.items()}
        for threads in options.threads:
            torch.set_num_threads(threads)
            torch.compiler.reset()
            sessions = {label: OnnxModel(file, model.config, threads) for label, file in made.items()}
            for length in options.lengths:
                inputs = random_inputs(model.config, 1, length)
                calls: dict[str, Callable[[], object]] = {
                    BASELINE: partial(base, **inputs),
                    "BERT-base, PyTorch, compiled": partial(torch.compile(base), **inputs),
                    "student, PyTorch": partial(model, **inputs),
                    "student, PyTorch, compiled": partial(torch.compile(model), **inputs),
                    **{label: partial(session, **inputs) for label, session in sessions.items()},
                    "int8, O2, waiting threads": waiting(made["int8, O2"], threads, inputs),
                }
                times = in_turns(calls, options.rounds, warm_up=10)
                medians = {label: statistics.median(taken) for label, taken in times.items()}
                tables.append({"threads": threads, "length": length, "milliseconds": medians})
                print(f"{threads} threads, {length} tokens: done", flush=True)
    return {
        "machine": machine_name("cpu"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rounds": options.rounds,
        "bytes": sizes,
        "tables": tables,
    }


def show(result: dict) -> None:
    """Print a result as a Markdown table: milliseconds, and how many times faster than the baseline."""
    tables = result["tables"]
    print(f"{result['machine']}; torch {result['torch']}, onnxruntime {result['onnxruntime']}")
    heads = [f"{t['threads']} thread{'s' if t['threads'] > 1 else ''}, {t['length']} tokens" for t in tables]
    print(f"\n| | size | {' | '.join(heads)} |\n| --- | ---: |{' ---: |' * len(heads)}")
    for label in tables[0]["milliseconds"]:
        size = result["bytes"].get(label)
        cells = []
        for table in tables:
            own, first = table["milliseconds"][label], table["milliseconds"][BASELINE]
            cells.append(f"{own:.2f} ms" + ("" if label == BASELINE else f" ({first / own:.1f}x)"))
        print(f"| {label} | {f'{size / 1e6:.1f} MB' if size else ''} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", help="folder of a text-classification student")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path, help="save the result as JSON")
    parser.add_argument("--table", type=Path, help="print a saved result")
    options = parser.parse_args()
    if options.table:
        show(json.loads(options.table.read_text(encoding="utf-8")))
        return
    if not options.student:
        parser.error("give --student, or --table")
    result = measure(options)
    if options.output:
        with file_beside(options.output) as file:
            file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)


if __name__ == "__main__":
    main()
