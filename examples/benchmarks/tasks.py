"""Every task: a teacher, the same student from gold labels, and distilled.

    python examples/benchmarks/tasks.py --data ../shared/data

| task | rows (training, held out) | from |
| --- | --- | --- |
| mrpc | 3,668 pairs, 408 | GLUE |
| stsb | 5,749 pairs with a number, 1,500 | GLUE |
| wnut17 | 3,394 texts with tagged words, 1,287 | WNUT-17, its test set |
| several | 3,000 texts of one to three requests with the intents of all, 900 | the first 30 intents of CLINC150 |
| questions | 4,000 questions which of five requests is about an intent, 1,000 | CLINC150 |

Gold and distilled start from the same weights (`--student`; by default the pretrained encoder's own, reduced to the
student's width and depth by `create_student`, which no task has been shown) and go over the data equally often: gold
is `hf-tinybert finetune`, distilled `hf-tinybert distill`. init is distilled from the task teacher's own weights, the
default of `hf-tinybert distill`. Every row is an ordinary command, printed before it runs; finished runs are not
repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glue
import results

INTENTS, REQUESTS = 30, 5


@dataclass(frozen=True)
class Task:
    """A task's kind, metric and training."""

    kind: str
    metric: str
    scale: float  # of the metric, to hundredths
    max_length: int
    teacher_epochs: int
    epochs: int  # of a student; four sevenths of them match layers


TASKS = {
    "mrpc": Task("text-classification", "accuracy", 100, 128, 3, 5),
    "stsb": Task("text-classification", "pearson", 100, 128, 2, 4),
    "wnut17": Task("token-classification", "f1", 100, 96, 5, 7),
    "several": Task("text-classification", "f1", 100, 64, 6, 5),
    "questions": Task("question-answering", "f1", 1, 96, 2, 5),
}
ARMS = {"gold": "gold labels", "distilled": "distilled", "init": "distilled, init=teacher"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/, clinc150/ and wnut17/")
    parser.add_argument("--student", help="checkpoint from which gold and distilled start (default: see above)")
    parser.add_argument("--output", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if options.student is None and not options.table:
        options.student = str(reduced_encoder(options.data, options.output / "start"))
    for name in [] if options.table else options.task:
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        files = prepare(name, options.data, folder)
        teacher(TASKS[name], files, folder)
        jobs = [(TASKS[name], files, folder, arm, seed, options) for seed in options.seeds for arm in options.arms]
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda job: student(*job), jobs))
    print(table(options))


def reduced_encoder(data: Path, folder: Path) -> Path:
    """A headless student from the pretrained encoder's weights, through its activations on sentences of Wikipedia."""
    if not (folder / "config.json").is_file():
        from transformers import AutoModel, AutoTokenizer

        from hf_tinybert import create_student

        tokenizer = AutoTokenizer.from_pretrained(results.body())
        texts = (data / "wiki_sentences.txt").read_text(encoding="utf-8").splitlines()[:256]
        some = tokenizer(texts, truncation=True, max_length=64, padding=True, return_tensors="pt")
        student = create_student(AutoModel.from_pretrained(results.body()), "tinybert-4l-312d", calibration=some)
        student.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def prepare(name: str, data: Path, folder: Path) -> dict[str, Path]:
    """The training data and what is held out, as files that the command line reads."""
    if name == "wnut17":
        return {"train": data / "wnut17" / "train.conll", "eval": data / "wnut17" / "test.conll"}
    files = {}
    for split in ("train", "eval"):
        rows = {"mrpc": mrpc, "stsb": stsb, "several": several, "questions": questions}[name](data, split)
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


def mrpc(data: Path, split: str) -> Iterator[dict[str, Any]]:
    yield from map(glue.pair, glue.rows(data, "MRPC", "train" if split == "train" else "dev"))


def stsb(data: Path, split: str) -> Iterator[dict[str, Any]]:
    for row in glue.rows(data, "STS-B", "train" if split == "train" else "dev"):
        yield {"sentence1": row["sentence1"], "sentence2": row["sentence2"], "score": float(row["score"])}


def several(data: Path, split: str) -> Iterator[dict[str, Any]]:
    """One to three requests in a text, with the intents of all."""
    requests = clinc(data, split)
    chosen = sorted({intent for _, intent in requests})[:INTENTS]
    requests = [row for row in requests if row[1] in chosen]
    source = random.Random(0)
    for _ in requests:
        picked = source.sample(requests, source.randint(1, 3))
        yield {"text": ", and ".join(text for text, _ in picked), "labels": sorted({intent for _, intent in picked})}


def questions(data: Path, split: str) -> Iterator[dict[str, Any]]:
    """Some requests of different intents in a text, and the question which of them is about one."""
    source, requests = random.Random(0), clinc(data, split)
    for _ in range(4000 if split == "train" else 1000):
        picked: dict[str, str] = {}
        while len(picked) < REQUESTS:
            text, intent = source.choice(requests)
            picked[intent] = text
        asked = source.choice(list(picked))
        context = ". ".join(picked.values())
        yield {
            "question": f"Which request is about {asked.replace('_', ' ')}?",
            "context": context,
            "answers": {"text": [picked[asked]], "answer_start": [context.index(picked[asked])]},
        }


def clinc(data: Path, split: str) -> list[tuple[str, str]]:
    whole = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    return [(text, intent) for text, intent in whole["train" if split == "train" else "test"]]


def common(task: Task, files: dict[str, Path], output: Path, epochs: int, seed: int) -> list[str]:
    flags = ["--task", task.kind, "--train-file", str(files["train"]), "--eval-file", str(files["eval"])]
    flags += ["--max-length", str(task.max_length), "--output-dir", str(output), "--num-train-epochs", str(epochs)]
    flags += ["--seed", str(seed), "--weight-decay", "0.01", *results.warmup_flags(), "--use-cpu"]
    return [*flags, "--logging-steps", "100", "--disable-tqdm", "True"]


def teacher(task: Task, files: dict[str, Path], folder: Path) -> None:
    output = folder / "teacher"
    if not (output / "eval_results.json").is_file():
        command = ["finetune", "--model", results.body(), *common(task, files, output, task.teacher_epochs, 42)]
        results.run([*command, "--learning-rate", "1e-4"], folder / "teacher.log", threads=os.cpu_count() or 1)


def student(
    task: Task, files: dict[str, Path], folder: Path, arm: str, seed: int, options: argparse.Namespace
) -> None:
    output = folder / f"{arm}-{seed}"
    if (output / "eval_results.json").is_file():
        return
    flags = [*common(task, files, output, task.epochs, seed), "--learning-rate", "1e-4"]
    if arm == "gold":
        command = ["finetune", "--model", options.student, *flags]
    else:
        start = "tinybert-4l-312d" if arm == "init" else options.student
        command = ["distill", "--teacher", str(folder / "teacher"), "--student", start, *flags]
        command += ["--intermediate-learning-rate", "3e-4", "--num-intermediate-epochs", str(task.epochs * 4 // 7)]
        command += ["--save-total-limit", "1", "--teacher-mixed-precision", "bf16"]
        command += ["--teacher-cache", "logits", "--teacher-cache-dir", str(folder / "cache")]
    threads = max((os.cpu_count() or 1) // options.jobs, 1)
    results.run_on(command, output, folder / f"{arm}-{seed}.log", threads)


def table(options: argparse.Namespace) -> str:
    """Markdown: a row a task, with the mean over seeds of each student."""
    lines = [
        f"| task | metric | teacher | {' | '.join(ARMS.values())} |",
        "| --- | --- | --- |" + " --- |" * len(ARMS),
    ]
    for name, task in TASKS.items():
        folder = options.output / name

        def score(run: Path, task: Task = task) -> float | None:
            path = run / "eval_results.json"
            return task.scale * json.loads(path.read_text())[f"eval_{task.metric}"] if path.is_file() else None

        cells = []
        for run in ("teacher", *ARMS):
            runs = [folder / run] if run == "teacher" else sorted(folder.glob(f"{run}-[0-9]*/"))
            known = [value for value in map(score, runs) if value is not None]
            cells.append(f"{sum(known) / len(known):.2f}" if known else "-")
        lines.append(f"| {name} | {task.metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
