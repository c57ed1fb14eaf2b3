"""Every task: a teacher, the same student from gold labels, and distilled.

    python examples/benchmarks/tasks.py --data ../shared/data

| task | rows (training, held out) | from |
| --- | --- | --- |
| mrpc | 3,668 pairs, 408 | GLUE |
| stsb | 5,749 pairs with a number, 1,500 | GLUE |
| wnut17 | 3,394 texts with tagged words, 1,287 | WNUT-17, its test set |
| several | 3,000 texts of one to three requests with the intents of all, 900 | the first 30 intents of CLINC150 |
| questions | 4,000 questions which of five requests is about an intent, 1,000 | CLINC150 |
| masked | 16,584 paragraphs and sentences, 2,719; the share of hidden tokens that is guessed | Wikipedia |
| vectors | the sentences of STS-B's training pairs, without their numbers; 1,500 pairs ranked | GLUE |

The teachers of the last two are taken as they are: a masked language model (`--masked-lm`, without which that row is
left out) and the pretrained encoder, a sentence encoder. There are no gold labels for vectors.

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
    teacher_epochs: int  # 0: taken as it is
    epochs: int  # of a student; four sevenths of them match layers
    arms: tuple[str, ...] = ("gold", "distilled", "init")


TASKS = {
    "mrpc": Task("text-classification", "accuracy", 100, 128, 3, 5),
    "stsb": Task("text-classification", "pearson", 100, 128, 2, 4),
    "wnut17": Task("token-classification", "f1", 100, 96, 5, 7),
    "several": Task("text-classification", "f1", 100, 64, 4, 12),
    "questions": Task("question-answering", "f1", 1, 96, 2, 5),
    "masked": Task("fill-mask", "accuracy", 100, 128, 0, 4),
    "vectors": Task("feature-extraction", "spearman", 100, 64, 0, 5, arms=("distilled", "init")),
}
ARMS = {"gold": "gold labels", "distilled": "distilled", "init": "distilled, init=teacher"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/, clinc150/ and wnut17/")
    parser.add_argument("--student", help="checkpoint from which gold and distilled start (default: see above)")
    parser.add_argument("--masked-lm", help="masked language model that teaches `masked`")
    parser.add_argument("--output", type=Path, default=Path("runs/tasks"))
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with its share of the cores")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if options.student is None and not options.table:
        options.student = str(reduced_encoder(options.data, options.output / "start"))
    chosen = [name for name in options.task if name != "masked" or options.masked_lm]
    for name in [] if options.table else chosen:
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        files = prepare(name, options.data, folder)
        task = TASKS[name]
        taught_by = options.masked_lm if name == "masked" else teacher(task, files, folder)
        arms = [arm for arm in options.arms if arm in task.arms]
        jobs = [(task, files, folder, taught_by, arm, seed, options) for seed in options.seeds for arm in arms]
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
        rows = ROWS[name](data, split)
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


def masked(data: Path, split: str) -> Iterator[dict[str, Any]]:
    names = ["wikitext2/valid.txt", "wiki_sentences.txt"] if split == "train" else ["wikitext2/test.txt"]
    lines = [line for name in names for line in (data / name).read_text(encoding="utf-8").splitlines()]
    words = [[word for word in line.split() if word != "<unk>"] for line in lines]
    yield from ({"text": " ".join(line)} for line in words if len(line) > 3)


def vectors(data: Path, split: str) -> Iterator[dict[str, Any]]:
    for row in stsb(data, split):
        yield {name: value for name, value in row.items() if split == "eval" or name != "score"}


ROWS = {
    "mrpc": mrpc,
    "stsb": stsb,
    "several": several,
    "questions": questions,
    "masked": masked,
    "vectors": vectors,
}


def clinc(data: Path, split: str) -> list[tuple[str, str]]:
    whole = json.loads((data / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    return [(text, intent) for text, intent in whole["train" if split == "train" else "test"]]


def common(task: Task, files: dict[str, Path], output: Path, epochs: int, seed: int) -> list[str]:
    flags = ["--task", task.kind, "--train-file", str(files["train"]), "--eval-file", str(files["eval"])]
    flags += ["--max-length", str(task.max_length), "--output-dir", str(output), "--num-train-epochs", str(epochs)]
    flags += ["--seed", str(seed), "--weight-decay", "0.01", *results.warmup_flags(), "--use-cpu"]
    return [*flags, "--logging-steps", "100", "--disable-tqdm", "True"]


def teacher(task: Task, files: dict[str, Path], folder: Path) -> str:
    if not task.teacher_epochs:
        return results.body()
    output = folder / "teacher"
    if not (output / "eval_results.json").is_file():
        command = ["finetune", "--model", results.body(), *common(task, files, output, task.teacher_epochs, 42)]
        results.run([*command, "--learning-rate", "1e-4"], folder / "teacher.log", threads=os.cpu_count() or 1)
    return str(output)


def student(
    task: Task,
    files: dict[str, Path],
    folder: Path,
    taught_by: str,
    arm: str,
    seed: int,
    options: argparse.Namespace,
) -> None:
    output = folder / f"{arm}-{seed}"
    if (output / "eval_results.json").is_file():
        return
    flags = [*common(task, files, output, task.epochs, seed), "--learning-rate", "1e-4"]
    if arm == "gold":
        command = ["finetune", "--model", options.student, *flags]
    else:
        start = "tinybert-4l-312d" if arm == "init" else options.student
        command = ["distill", "--teacher", taught_by, "--student", start, *flags]
        command += [
            "--phases",
            "two_phase",
            "--intermediate-learning-rate",
            "3e-4",
            "--num-intermediate-epochs",
            str(task.epochs * 4 // 7),
        ]
        command += ["--save-total-limit", "1", "--teacher-mixed-precision", "bf16"]
        if task.kind != "fill-mask":  # whose hidden tokens are others in every epoch
            command += ["--teacher-cache", "logits", "--teacher-cache-dir", str(folder / "cache")]
    threads = max((os.cpu_count() or 1) // options.jobs, 1)
    results.run_on(command, output, folder / f"{arm}-{seed}.log", threads)


def scores(task: Task, folder: Path, run: str) -> list[float]:
    """One score a seed; a teacher taken as it is was measured beside its first student."""
    if run != "teacher":
        files = [path / "eval_results.json" for path in sorted(folder.glob(f"{run}-[0-9]*/"))]
    else:
        files = [folder / "teacher" / "eval_results.json"]
    found = [json.loads(path.read_text())[f"eval_{task.metric}"] for path in files if path.is_file()]
    if run == "teacher" and not found:
        summaries = sorted(folder.glob("*/summary.json"))[:1]
        found = [json.loads(path.read_text())["teacher"]["score"] for path in summaries]
    return [task.scale * value for value in found]


def table(options: argparse.Namespace) -> str:
    """Markdown: a row a task, with the mean over seeds of each student."""
    lines = [
        f"| task | metric | teacher | {' | '.join(ARMS.values())} |",
        "| --- | --- | --- |" + " --- |" * len(ARMS),
    ]
    for name, task in TASKS.items():
        folder = options.output / name

        cells = []
        for run in ("teacher", *ARMS):
            found = scores(task, folder, run)
            cells.append(f"{sum(found) / len(found):.2f}" if found else "-")
        lines.append(f"| {name} | {task.metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
