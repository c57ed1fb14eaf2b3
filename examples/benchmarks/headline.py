"""How much of the teacher the best student keeps on SST-2, MRPC, STS-B and CLINC150, and what each part is worth.

    python examples/benchmarks/headline.py --data ../shared/data --masked-lm ../shared/models/minilm-mlm

runs the rows of HEADLINE: `tinybert-4l-312d` and `tinybert-6l-168d`, three seeds of each task. `--ablation` runs those
of ABLATION instead, and any of the flags below what they say.

Teachers are all-MiniLM-L6-v2, fine-tuned on all training data of each task (those of results.py and tasks.py).
Students of one task are trained for the same number of steps of 32 rows, every one of which matches all levels, in
bf16, at a rate of 3e-4 with warm-up over 6%, linear decay and weight decay 0.01. SST-2 and CLINC150 are subsets of
10,000 training sentences (results.py's); `sst2-full` has all, and no variants.

Where a student starts (`--arms`):

- whole: from the task teacher's own weights (`init="teacher"`), on the training texts and their variants
  (`hf-tinybert augment`).
- no-augmentation: the same on the training texts alone.
- general, general-init: on texts and variants, from a student that was distilled on plain text; that one began from
  random weights, or from the pretrained encoder's.
- random: on texts and variants, from random weights.

What it learns, all else as in whole: no-attention, no-hidden, no-embedding, no-prediction (gold labels instead),
no-layers (logits alone), first, last (layer mappings; uniform otherwise), attention-tenth, prediction-tenfold,
prediction-most (both at once), relations, relations-tenfold (those of queries, keys and values as in MiniLMv2, instead
of attention scores). How: two-phases, the paper's order, with another rate in the second, two-phases-high with the
same; no-dropout. untrained is the start itself: one step at rate 0.

Kept apart: smaller students (`--student`: a preset or `L-D-F-H`, layers, width, intermediate width and heads), and
runs of another length (`--steps`).

Every row is an ordinary `hf-tinybert` command, printed before it runs. A finished run is not repeated, and an
interrupted distillation goes on from its last checkpoint, so the script can be stopped and started at will (with
other settings give another `--output`). `--table` only prints what is there. On two cores, two at a time, a run takes
4 to 16 minutes, a teacher 5 to 45.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import recipe
import results
import tasks
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
TEACHER_EPOCHS = 6  # of MRPC and STS-B; the others have results.py's
TASKS_OF_MEAN = ("sst2", "mrpc", "stsb", "clinc150")
SMALL = "tinybert-6l-168d"
HEADLINE: list[dict[str, Any]] = [
    {},
    {"student": SMALL, "steps": 1100},
    {"task": ["sst2-full"], "seeds": [0]},
]
TWO = ["--phases", "two_phase", "--intermediate-share", "0.6", "--intermediate-learning-rate", "3e-4"]
ARMS: dict[str, tuple[str, list[str]]] = {
    "whole": ("whole recipe", []),
    "no-augmentation": ("without augmentation", []),
    "general": ("general start from random weights", []),
    "general-init": ("general start from the encoder's weights", []),
    "random": ("random start", ["--student-init", "random"]),
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
    parser.add_argument("--output", type=Path, default=Path("runs/headline"))
    parser.add_argument("--results", type=Path, default=Path("runs/results"), help="where results.py keeps its runs")
    parser.add_argument("--task", nargs="+", choices=TASKS)
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--student")
    parser.add_argument("--steps", type=int, help="of every run, instead of the task's own")
    parser.add_argument("--ablation", action="store_true", help="the rows of the ablation")
    parser.add_argument("--general-epochs", type=int, default=1, help="passes over plain text")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    given = {name: value for name in DEFAULTS if (value := getattr(options, name)) is not None}
    for row in [ABLATION] if options.ablation else [given] if given else HEADLINE:
        if not options.table:
            run_row(parser, argparse.Namespace(**vars(options) | DEFAULTS | row))
    print(table(options))


def run_row(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.student != TINYBERT and (unfit := GENERAL.keys() & set(options.arms)):
        parser.error(f"The general student is a {TINYBERT}: --arms {' '.join(unfit)} goes without --student.")
    for arm in GENERAL.keys() & set(options.arms):  # before the runs, which go side by side
        recipe.general_student(options, GENERAL[arm])
    jobs = []
    for seed in options.seeds:
        for name in options.task:
            folder = options.output / name
            folder.mkdir(parents=True, exist_ok=True)
            files = prepare(name, folder, options)
            jobs += [(name, files, folder, arm, seed, options) for arm in options.arms]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: run_arm(*job), jobs))


def prepare(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Train and measure files, variants, and the teacher's folder under `teacher`."""
    if name in ("mrpc", "stsb"):
        files = tasks.prepare(name, options.data, folder)
        task = replace(tasks.TASKS[name], teacher_epochs=TEACHER_EPOCHS)
        files["teacher"] = Path(tasks.teacher(task, files, folder))
    else:
        known = results.TASKS[name.removesuffix("-full")]
        found = results.prepare(known, options.data, options.results / known.name)
        results.train_teacher(known, found, options.results / known.name)
        files = {split: path for split, path in found.items() if split in ("train", "eval", "test")}
        if name.endswith("-full"):
            files["train"] = found["teacher"]
        files["teacher"] = options.results / known.name / "teacher"
    files["augmented"] = folder / "augmented.jsonl"
    if TASKS[name].n and {"no-augmentation"} != set(options.arms):
        recipe.augment(recipe.Task(name, TASKS[name].n, TASKS[name].steps), files, options)
    return files


def run_arm(name: str, files: dict[str, Path], folder: Path, arm: str, seed: int, options: argparse.Namespace) -> None:
    task, small = TASKS[name], options.student != TINYBERT
    steps = f"+{options.steps}" if options.steps else ""
    output = folder / f"{arm}{'@' + options.student if small else ''}{steps}-{seed}"
    if (output / f"{task.split}_results.json").is_file():
        return
    train = files["train"] if arm == "no-augmentation" or not task.n else files["augmented"]
    start = options.output / arm if arm in GENERAL else shape(options, files["teacher"], arm)
    command = ["distill", "--teacher", str(files["teacher"]), "--student", str(start)]
    command += ["--train-file", str(train), f"--{task.split}-file", str(files[task.split])]
    command += ["--output-dir", str(output), "--max-steps", str(options.steps or task.steps), "--bf16"]
    command += ["--learning-rate", "3e-4", *results.warmup_flags()]
    command += ARMS[arm][1]
    threads = max((os.cpu_count() or 1) // options.jobs, 1)
    recipe.distill(command, output, folder / f"{output.name}.log", seed, threads)


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
    names = [name for name in TASKS if (options.output / name).is_dir()]
    heads = [f"{name} ({TASKS[name].metric})" for name in names]
    lines = [f"| student | {' | '.join(heads)} | retained |", "| --- |" + " ---: |" * (len(names) + 1)]
    teachers = {name: score(name, teacher_folder(name, options)) for name in names}
    lines.append(f"| teacher | {' | '.join('-' if s is None else f'{s:.2f}' for s in teachers.values())} | |")
    folders = [path.name for name in names for path in (options.output / name).glob("*-[0-9]*/")]
    order = list(ARMS)
    found = {name.rpartition("-")[0] for name in folders if re.split("[@+]|-[0-9]+$", name)[0] in ARMS}

    def parts(row: str) -> tuple[str, str, int]:
        """Student, steps if not the task's own, arm."""
        arm, _, steps = row.partition("+")
        arm, _, student = arm.partition("@")
        return student, steps, order.index(arm)

    for arm in sorted(found, key=parts):
        runs = {name: sorted((options.output / name).glob(f"{arm}-[0-9]*/")) for name in names}
        known = {name: [value for run in runs[name] if (value := score(name, run)) is not None] for name in names}
        apart = {name: [value for run in runs[name] if (value := distance(name, run)) is not None] for name in names}
        kept = [
            statistics.mean(known[name]) / teachers[name]
            for name in TASKS_OF_MEAN
            if known.get(name) and teachers[name]
        ]
        mean = f"{100 * statistics.mean(kept):.1f}%" if kept else ""
        if 0 < len(kept) < len(TASKS_OF_MEAN):
            mean += f" of {len(kept)}"
        student, steps, which = parts(arm)
        label = ", ".join(filter(None, [ARMS[order[which]][0], student, steps and f"{steps} steps"]))
        lines.append(f"| {label} | {' | '.join(cell(known[name], apart[name]) for name in names)} | {mean} |")
    return "\n".join(lines)


def teacher_folder(name: str, options: argparse.Namespace) -> Path:
    if name in ("mrpc", "stsb"):
        return Path(options.output / name / "teacher")
    return Path(options.results / name.removesuffix("-full") / "teacher")


def measured(name: str, run: Path) -> dict[str, float]:
    return results.measured(run, TASKS[name].split)


def score(name: str, run: Path) -> float | None:
    value = measured(name, run).get(f"{TASKS[name].split}_{TASKS[name].metric}")
    return None if value is None else 100 * value


def distance(name: str, run: Path) -> float | None:
    found = measured(name, run)
    return found.get(f"{TASKS[name].split}_kl", found.get(f"{TASKS[name].split}_teacher_mse"))


def cell(values: list[float], apart: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}" + (f" ({statistics.mean(apart):.3f})" if apart else "")


if __name__ == "__main__":
    main()
