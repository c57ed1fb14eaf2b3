"""How much of the teacher the best student keeps on SST-2, MRPC, STS-B and CLINC150, and what each part is worth.

    python examples/benchmarks/headline.py --data ../shared/data --masked-lm ../shared/models/minilm-mlm

(and `--teacher mpnet`) runs the rows of HEADLINE: with `--teacher minilm` the students `tinybert-4l-312d` and
`tinybert-6l-168d`, with `mpnet` `tinybert-4l-312d`; three seeds of each task. `--ablation` runs those of ABLATION
instead, and any of the flags below what they say.

Teachers are all-MiniLM-L6-v2 or all-mpnet-base-v2, fine-tuned on all training data of each task
(headline_teachers.py). Students of one task are trained for the same number of steps of 32 rows, every one of which
matches all levels, in bf16, at a rate of 3e-4 with warm-up over 6%, linear decay and weight decay 0.01. SST-2 and
CLINC150 are subsets of 10,000 training sentences (results.py's); `sst2-full` has all, and no variants.

Where a student starts (`--arms`):

- whole: from the task teacher's own weights (`init="teacher"`), on the training texts and their variants
  (`hf-tinybert augment`).
- no-augmentation: the same on the training texts alone.
- general, general-init: on texts and variants, from a student that was distilled on plain text; that one began from
  random weights, or from the pretrained encoder's.
- random: on texts and variants, from random weights.
- encoder, encoder-no-augmentation: from the weights of a smaller pretrained encoder, all-MiniLM-L6-v2; on texts and
  variants, and on the texts alone.

What it learns, all else as in whole: no-attention, no-hidden, no-embedding, no-prediction (gold labels instead),
no-layers (logits alone), first, last (layer mappings; uniform otherwise), attention-tenth, prediction-tenfold,
prediction-most (both at once), relations, relations-tenfold (those of queries, keys and values as in MiniLMv2, instead
of attention scores). How: two-phases, the paper's order, with another rate in the second, two-phases-high with the
same; no-dropout. untrained is the start itself: one step at rate 0.

Kept apart: smaller students (`--student`: a preset or `L-D-F-H`, layers, width, intermediate width and heads), and
runs of another length (`--steps`).

`--choose` measures on rows that no model was trained on, in place of the development and test data, and keeps these
runs apart: choices are made on them. It knows SST-2 and CLINC150 (1,000 training sentences that neither teacher nor
students see; the validation set).

Every row is an ordinary `hf-tinybert` command, printed before it runs. What a finished run measured stands in
`--record`, which is committed, and an interrupted distillation goes on from its last checkpoint, so the script can be
stopped and started at will, on another machine too (with other settings give another `--output` and `--record`).
`--table` only prints what is there. On two cores, two at a time, a run with MiniLM takes 4 to 16 minutes, a teacher 5
to 45.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headline_teachers
import recipe
import results
from finished import FinishedRows
from transformers import AutoConfig

from hf_tinybert import TinyBertConfig
from hf_tinybert.presets import PRESETS

TINYBERT = "tinybert-4l-312d"
GENERAL = {"general": "random", "general-init": "teacher"}  # where the student starts that goes over plain text


@dataclass(frozen=True)
class Task:
    """A task's runs.

    Attributes:
        steps: of a run.
        n: attempts at a variant of each text.
        split: that is measured.
        metric: that counts.
    """

    steps: int
    n: int
    split: str
    metric: str


TASKS = {
    "sst2": Task(2200, 5, "eval", "accuracy"),
    "mrpc": Task(1100, 10, "eval", "accuracy"),
    "stsb": Task(2200, 5, "eval", "pearson"),
    "clinc150": Task(2200, 5, "test", "accuracy"),
    "sst2-full": Task(4400, 0, "eval", "accuracy"),
}
TASKS_OF_MEAN = ("sst2", "mrpc", "stsb", "clinc150")
SMALL = "tinybert-6l-168d"
HEADLINE: dict[str, list[dict[str, Any]]] = {
    "minilm": [{}, {"student": SMALL, "steps": 1100}, {"task": ["sst2-full"], "seeds": [0]}],
    "mpnet": [
        {"task": ["sst2", "mrpc"], "arms": ["encoder"]},
        {"task": ["stsb", "clinc150"], "arms": ["encoder-no-augmentation"]},
        {"task": ["sst2-full"], "arms": ["encoder-no-augmentation"], "seeds": [0]},
    ],
}
TWO = ["--phases", "two_phase", "--intermediate-share", "0.6", "--intermediate-learning-rate", "3e-4"]
ARMS: dict[str, tuple[str, list[str]]] = {
    "whole": ("whole recipe", []),
    "no-augmentation": ("without augmentation", []),
    "general": ("general start from random weights", []),
    "general-init": ("general start from the encoder's weights", []),
    "random": ("random start", ["--student-init", "random"]),
    "encoder": ("start from a smaller encoder", []),
    "encoder-no-augmentation": ("start from a smaller encoder, without augmentation", []),
    "no-attention": ("without attention", ["--attention-weight", "0"]),
    "no-hidden": ("without hidden states", ["--hidden-weight", "0"]),
    "no-embedding": ("without embeddings", ["--embedding-weight", "0"]),
    "no-prediction": ("gold labels for the prediction", ["--prediction-weight", "0", "--hard-label-weight", "1"]),
    "no-layers": ("logits alone", ["--phases", "prediction"]),
    "attention-tenth": ("attention at a tenth", ["--attention-weight", "0.1"]),
    "prediction-tenfold": ("prediction tenfold", ["--prediction-weight", "10"]),
    "prediction-most": (
        "attention at a tenth, prediction tenfold",
        ["--attention-weight", "0.1", "--prediction-weight", "10"],
    ),
    "relations": ("relations in place of attention scores", ["--head-matching", "relations"]),
    "relations-tenfold": (
        "relations in place of attention scores, tenfold",
        ["--head-matching", "relations", "--attention-weight", "10"],
    ),
    "first": ("mapping first", ["--layer-mapping", "first"]),
    "last": ("mapping last", ["--layer-mapping", "last"]),
    "two-phases": ("two phases, the second at 1e-4", [*TWO, "--learning-rate", "1e-4"]),
    "two-phases-high": ("two phases, both at 3e-4", TWO),
    "no-dropout": ("no dropout in the student", []),
    "untrained": ("start, untrained", ["--max-steps", "1", "--learning-rate", "0"]),
}

RECORDS = Path(__file__).parents[2] / "docs" / "measurements"
DEFAULTS = {"task": list(TASKS_OF_MEAN), "arms": ["whole"], "seeds": [0, 1, 2], "student": TINYBERT, "steps": None}
ABLATION = {
    "task": ["sst2", "clinc150"],
    "seeds": [0],
    "steps": 1100,
    "arms": [
        *("whole", "untrained", "random", "general", "general-init", "no-augmentation", "no-attention", "no-hidden"),
        *("no-embedding", "no-prediction", "no-layers", "first", "last"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/, clinc150/, glove/")
    parser.add_argument("--masked-lm", type=Path, required=True, help="masked language model of the augmentation")
    parser.add_argument("--teacher", choices=headline_teachers.PREPARE, default="minilm")
    parser.add_argument("--output", type=Path, help="of the runs (default: runs/headline-TEACHER)")
    parser.add_argument("--record", type=Path, help="finished rows (default: docs/measurements/headline-TEACHER.json)")
    parser.add_argument("--results", type=Path, default=Path("runs/results"), help="where results.py keeps its runs")
    parser.add_argument("--task", nargs="+", choices=TASKS)
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--student")
    parser.add_argument("--steps", type=int, help="of every run, instead of the task's own")
    parser.add_argument("--ablation", action="store_true", help="the rows of the ablation")
    parser.add_argument("--general-epochs", type=int, default=1, help="passes over plain text")
    parser.add_argument("--choose", action="store_true", help="measure on held-out training rows, kept apart")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    options.output = options.output or Path(f"runs/headline-{options.teacher}")
    options.record = FinishedRows(options.record or RECORDS / f"headline-{options.teacher}.json")
    given = {name: value for name in DEFAULTS if (value := getattr(options, name)) is not None}
    for row in [ABLATION] if options.ablation else [given] if given else HEADLINE[options.teacher]:
        if not options.table:
            run_row(parser, argparse.Namespace(**vars(options) | DEFAULTS | row))
    print(table(options))


def run_row(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.student != TINYBERT and (unfit := GENERAL.keys() & set(options.arms)):
        parser.error(f"The general student is a {TINYBERT}: --arms {' '.join(unfit)} goes without --student.")
    for arm in GENERAL.keys() & set(options.arms):  # before the runs, which go side by side
        recipe.general_student(options, GENERAL[arm])
    for name in options.task:
        rows = [(arm, seed) for seed in options.seeds for arm in options.arms]
        rows = [row for row in rows if row_name(name, *row, options) not in options.record]
        if rows:
            folder = options.output / name
            folder.mkdir(parents=True, exist_ok=True)
            files = prepare(name, folder, options)
            done: list[Future[None]] = []
            with ThreadPoolExecutor(options.jobs) as pool:
                for row in rows:
                    done.append(pool.submit(run_arm, name, files, *row, options))
            for run in done:
                run.result()


def prepare(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Train and measure files, variants, and the teacher's folder under `teacher`."""
    files = headline_teachers.PREPARE[options.teacher](name, folder, options)
    files["augmented"] = folder / "augmented.jsonl"
    if TASKS[name].n and not all(arm.endswith("no-augmentation") for arm in options.arms):
        recipe.augment(recipe.Task(name, TASKS[name].n, TASKS[name].steps), files, options)
    return files


def row_name(name: str, arm: str, seed: int, options: argparse.Namespace) -> str:
    student = f"@{options.student}" if options.student != TINYBERT else ""
    steps = f"+{options.steps}" if options.steps else ""
    return f"{name}{'/choose' if options.choose else ''}/{arm}{student}{steps}-{seed}"


def run_arm(name: str, files: dict[str, Path], arm: str, seed: int, options: argparse.Namespace) -> None:
    task, row, seconds = TASKS[name], row_name(name, arm, seed, options), None
    output, split = options.output / row, "eval" if options.choose else task.split
    output.parent.mkdir(parents=True, exist_ok=True)
    if not (output / "summary.json").is_file():
        train = files["train"] if arm.endswith("no-augmentation") or not task.n else files["augmented"]
        start = options.output / arm if arm in GENERAL else shape(options, files["teacher"], arm)
        command = ["distill", "--teacher", str(files["teacher"]), "--student", str(start)]
        command += ["--train-file", str(train), f"--{split}-file", str(files["choice" if options.choose else split])]
        command += ["--output-dir", str(output), "--max-steps", str(options.steps or task.steps), "--bf16"]
        command += ["--learning-rate", "3e-4", *results.warmup_flags(), *ARMS[arm][1]]
        if arm.startswith("encoder"):
            command += ["--student-init", results.body()]
        if options.teacher == "mpnet" and "--phases" not in ARMS[arm][1]:  # all seeds share what it says of a text
            command += ["--teacher-cache", "features", "--teacher-cache-dir", str(options.output / "teacher_cache")]
        threads = max((os.cpu_count() or 1) // options.jobs, 1)
        began = time.monotonic()
        recipe.distill(command, output, output.with_name(f"{output.name}.log"), seed, threads)
        seconds = time.monotonic() - began
    options.record.add(row, output, split, task.metric, seconds)


def shape(options: argparse.Namespace, teacher: Path, arm: str) -> str:
    """What `--student` is given: a preset, or a folder with a configuration of these sizes."""
    preset = options.student in PRESETS
    if preset and arm != "no-dropout":
        return str(options.student)
    sizes = {"hidden_dropout_prob": 0.0} if arm == "no-dropout" else {}
    if not preset:
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
        sizes |= dict(zip(names, map(int, options.student.split("-")), strict=True))
    config = TinyBertConfig.from_teacher(
        AutoConfig.from_pretrained(teacher), *([options.student] if preset else []), **sizes
    )
    folder = options.output / "shapes" / f"{options.student}-{teacher.parent.name}-{arm}"
    config.save_pretrained(folder)
    return str(folder)


def table(options: argparse.Namespace) -> str:
    """Markdown: a row an arm; then the share of the teacher's score that is kept, mean over the headline's tasks.

    A cell is the mean, its spread over seeds, and in brackets how far the answers are from the teacher's: the mean KL
    divergence, or squared difference of numbers.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}  # arm, student and steps -> task -> rows
    for name, row in options.record.rows.items():
        *task, run = name.split("/")
        if (task[1:] == ["choose"]) == options.choose:
            found.setdefault(run.rpartition("-")[0], {}).setdefault(task[0], []).append(row)
    names = [name for name in TASKS if any(name in of_task for of_task in found.values())]
    teachers = {name: next(of[name][0]["teacher"] for of in found.values() if name in of) for name in names}
    heads = [f"{name} ({TASKS[name].metric})" for name in names]
    lines = [f"| student | {' | '.join(heads)} | retained |", "| --- |" + " ---: |" * (len(names) + 1)]
    lines.append(f"| teacher | {' | '.join(f'{100 * score:.2f}' for score in teachers.values())} | |")
    order = list(ARMS)

    def parts(run: str) -> tuple[str, str, int]:
        """Student, steps if not the task's own, arm."""
        arm, _, steps = run.partition("+")
        arm, _, student = arm.partition("@")
        return student, steps, order.index(arm)

    for run in sorted(found, key=parts):
        rows = found[run]
        kept = [
            statistics.mean(row["score"] for row in rows[name]) / teachers[name]
            for name in TASKS_OF_MEAN
            if name in rows
        ]
        mean = f"{100 * statistics.mean(kept):.1f}%" if kept else ""
        if 0 < len(kept) < len(TASKS_OF_MEAN):
            mean += f" of {len(kept)}"
        student, steps, which = parts(run)
        label = ", ".join(filter(None, [ARMS[order[which]][0], student, steps and f"{steps} steps"]))
        lines.append(f"| {label} | {' | '.join(cell(rows.get(name, [])) for name in names)} | {mean} |")
    return "\n".join(lines)


def cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "-"
    scores = [100 * row["score"] for row in rows]
    spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    apart = [row["distance"] for row in rows if row["distance"] is not None]
    return f"{statistics.mean(scores):.2f}{spread}" + (f" ({statistics.mean(apart):.3f})" if apart else "")


if __name__ == "__main__":
    main()
