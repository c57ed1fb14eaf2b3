"""What augmentation and a general start are worth: MRPC, and SST-2 with 1,000 sentences.

    python examples/benchmarks/recipe.py --data ../shared/data --masked-lm ../shared/models/minilm-mlm

Students of one task and seed are all trained for the same number of steps, by the same teacher, at the same rates:

- plain: from random weights, on the training texts alone, over and over.
- augmented: from random weights, on the training texts and their variants, fewer times each.
- general: on the training texts alone, from a student that was distilled on plain text before.
- both: on texts and variants, from that student.
- init, init-augmented: on texts, and on texts and variants, from the teacher's own weights (`init="teacher"`).

The general student is one for all seeds and both tasks: `hf-tinybert distill --stage general` on WikiText-2's
validation and test texts, CLINC150's Wikipedia sentences, and the texts of MRPC's and of all of SST-2's training data,
without labels. Its teacher is the encoder from which the tasks' teachers were fine-tuned.

Every row is an ordinary `hf-tinybert` command, printed before it runs. A finished run is not repeated, and an
interrupted one goes on from its last checkpoint, so the script can be stopped and started at will. `--table` only
prints what is there. SST-2's teacher is that of results.py, fine-tuned on all of its training data.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import glue
import results

BATCH, SUBSET_SEED = 32, 0
SST2_ROWS = 1000


@dataclass(frozen=True)
class Task:
    """A task's size and its runs."""

    name: str
    n: int  # attempts at a variant of each text
    steps: int  # of both phases


TASKS = {"sst2": Task("sst2", 20, 1000), "mrpc": Task("mrpc", 5, 800)}
ARMS = {
    "plain": "neither",
    "augmented": "augmentation",
    "general": "general start",
    "both": "augmentation and general start",
    "init": "init=teacher",
    "init-augmented": "init=teacher and augmentation",
}
TEXTS = {"sst2": ("sentence",), "mrpc": ("#1 String", "#2 String")}
FOLDERS = {"sst2": "SST-2", "mrpc": "MRPC"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/, glove/, wikitext2/")
    parser.add_argument("--masked-lm", type=Path, required=True, help="masked language model of the augmentation")
    parser.add_argument("--output", type=Path, default=Path("runs/recipe"))
    parser.add_argument("--results", type=Path, default=Path("runs/results"), help="where results.py keeps its runs")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--general-epochs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    if not options.table:
        general = general_student(options)
        jobs = []
        for name in options.task:
            files = prepare(TASKS[name], options)
            teacher = task_teacher(TASKS[name], files, options)
            augment(TASKS[name], files, options)
            jobs += [
                (TASKS[name], files, teacher, general, arm, seed, options)
                for seed in options.seeds
                for arm in options.arms
            ]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda job: run_arm(*job), jobs))
    print("\n".join(table(TASKS[name], options) for name in options.task))


def prepare(task: Task, options: argparse.Namespace) -> dict[str, Path]:
    """The splits as JSON lines."""
    folder = options.output / task.name
    folder.mkdir(parents=True, exist_ok=True)
    train, dev = (glue.rows(options.data, FOLDERS[task.name], split) for split in ("train", "dev"))
    if task.name == "sst2":
        train = random.Random(SUBSET_SEED).sample(train, SST2_ROWS)
    files = {}
    for split, rows in (("train", train), ("eval", dev)):
        files[split] = folder / f"{split}.jsonl"
        lines = [json.dumps(columns(task.name, row)) for row in rows]
        files[split].write_text("\n".join(lines) + "\n", encoding="utf-8")
    files["augmented"] = folder / "augmented.jsonl"
    return files


def columns(task: str, row: dict[str, str]) -> dict[str, object]:
    if task == "sst2":
        return {"sentence": row["sentence"], "label": int(row["label"])}
    return glue.pair(row)


def general_student(options: argparse.Namespace, init: str = "random") -> Path:
    """The student that was distilled on plain text, from random weights or the encoder's (`init="teacher"`)."""
    name = "general" if init == "random" else "general-init"
    output = options.output / name
    if (output / "eval_results.json").is_file():
        return output
    corpus = options.output / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for source in ("wikitext2/valid.txt", "wikitext2/test.txt", "wiki_sentences.txt"):
        target = corpus / source.replace("/", "_")
        target.write_text((options.data / source).read_text(encoding="utf-8"), encoding="utf-8")
    for task, names in TEXTS.items():
        texts = [row[name].strip() for row in glue.rows(options.data, FOLDERS[task]) for name in names]
        (corpus / f"{task}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    command = ["distill", "--stage", "general", "--teacher", results.body(), "--student", "tinybert-4l-312d"]
    command += ["--student-init", init, "--train-file", str(corpus), "--max-length", "128"]
    command += ["--output-dir", str(output)]
    command += ["--num-train-epochs", str(options.general_epochs), "--intermediate-learning-rate", "3e-4"]
    command += ["--intermediate-lr-scheduler-type", "linear", "--intermediate-warmup-ratio", "0.06"]
    distill(command, output, options.output / f"{name}.log", seed=0, threads=os.cpu_count() or 1)
    return output


def task_teacher(task: Task, files: dict[str, Path], options: argparse.Namespace) -> Path:
    if task.name == "sst2":
        known = results.TASKS["sst2"]
        folder = options.results / "sst2"
        results.train_teacher(known, results.prepare(known, options.data, folder), folder)
        return Path(folder / "teacher")
    output = options.output / task.name / "teacher"
    if not (output / "eval_results.json").is_file():
        command = ["finetune", "--model", results.body(), *results.data_flags(files, "train")]
        command += ["--output-dir", str(output), "--num-train-epochs", "5", "--learning-rate", "5e-5"]
        command += results.warmup_flags()
        command += ["--weight-decay", "0.01", "--disable-tqdm", "True", "--seed", "42", "--use-cpu"]
        results.run(command, options.output / f"{task.name}-teacher.log", threads=os.cpu_count() or 1)
    return Path(output)


def augment(task: Task, files: dict[str, Path], options: argparse.Namespace) -> None:
    if files["augmented"].is_file():
        return
    vectors = next((options.data / "glove").glob("glove.*.txt"))
    command = ["augment", "--input-file", str(files["train"]), "--output-file", str(files["augmented"])]
    command += ["--masked-lm", str(options.masked_lm), "--word-vectors", str(vectors), "--n", str(task.n), "--use-cpu"]
    results.run(command, options.output / f"{task.name}-augment.log", threads=os.cpu_count() or 1)


def run_arm(
    task: Task,
    files: dict[str, Path],
    teacher: Path,
    general: Path,
    arm: str,
    seed: int,
    options: argparse.Namespace,
) -> None:
    output = options.output / task.name / f"{arm}-{seed}"
    if (output / "eval_results.json").is_file():
        return
    train = "augmented" if arm in ("augmented", "both", "init-augmented") else "train"
    student = str(general) if arm in ("general", "both") else "tinybert-4l-312d"
    command = ["distill", "--teacher", str(teacher), "--student", student]
    if student == "tinybert-4l-312d":
        command += ["--student-init", "teacher" if arm.startswith("init") else "random"]
    command += [*results.data_flags(files, train), "--output-dir", str(output)]
    command += ["--max-steps", str(task.steps), "--phases", "two_phase", "--intermediate-share", "0.6"]
    command += ["--intermediate-learning-rate", "3e-4", "--learning-rate", "1e-4", *results.warmup_flags()]
    threads = max((os.cpu_count() or 1) // options.jobs, 1)
    distill(command, output, options.output / task.name / f"{arm}-{seed}.log", seed, threads)


def distill(command: list[str], output: Path, log: Path, seed: int, threads: int) -> None:
    command += ["--per-device-train-batch-size", str(BATCH), "--weight-decay", "0.01", "--seed", str(seed)]
    command += ["--use-cpu", "--teacher-mixed-precision", "bf16", "--logging-steps", "100", "--disable-tqdm", "True"]
    command += ["--save-strategy", "steps", "--save-steps", "200", "--save-total-limit", "1"]
    results.run_on(command, output, log, threads)


def table(task: Task, options: argparse.Namespace) -> str:
    """Markdown: a row an arm with its accuracies, their mean, and what it adds to neither half."""

    def accuracy(run: Path) -> float | None:
        path = run / "eval_results.json"
        return 100 * json.loads(path.read_text())["eval_accuracy"] if path.is_file() else None

    teachers = {"sst2": options.results / "sst2" / "teacher", "mrpc": options.output / "mrpc" / "teacher"}
    lines = [f"\n{task.name}: {task.steps} steps of {BATCH}; teacher {accuracy(teachers[task.name]) or 0:.2f}", ""]
    lines += ["| student | seeds | mean | spread | gain |", "| --- | --- | --- | --- | --- |"]
    base: float | None = None
    for arm, label in ARMS.items():
        runs = sorted((options.output / task.name).glob(f"{arm}-[0-9]*/"))
        known = [value for run in runs if (value := accuracy(run)) is not None]
        if not known:
            continue
        mean = statistics.mean(known)
        base = mean if arm == "plain" else base
        gain = "" if base is None or arm == "plain" else f"{mean - base:+.2f}"
        lines.append(f"| {label} | {results.summary(known)} | {gain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
