"""The teachers of headline.py: what they are fine-tuned from, how, and on which rows.

- minilm: all-MiniLM-L6-v2 (6 layers, 384 wide), as results.py and tasks.py fine-tune it, on MRPC and STS-B for six
  epochs.
- mpnet: all-mpnet-base-v2 (12 layers, 768 wide; mpnet.py), in bf16, a number of epochs fixed beforehand.

MPNet does not see the rows of `--choose`: of SST-2 1,000 training sentences that are not among the 10,000 of the
students, of CLINC150 the validation set. MiniLM, whose SST-2 teacher is that of results.py, has seen them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import glue
import mpnet as pretrained
import results
import tasks

MINILM_EPOCHS = 6  # of MRPC and STS-B; the others have results.py's
MPNET: dict[str, tuple[int, str]] = {  # epochs and learning rate
    "sst2": (1, "3e-5"),
    "mrpc": (5, "5e-5"),
    "stsb": (4, "5e-5"),
    "clinc150": (6, "5e-5"),
}
CHOICE_ROWS = 1000


def minilm(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Train and measure files, and the teacher's folder under `teacher`.

    Raises:
        ValueError: rows for choices are asked for.
    """
    if options.choose:
        raise ValueError("--choose is for --teacher mpnet: MiniLM's teachers have seen those rows.")
    if name in ("mrpc", "stsb"):
        files = tasks.prepare(name, options.data, folder)
        task = replace(tasks.TASKS[name], teacher_epochs=MINILM_EPOCHS)
        return files | {"teacher": Path(tasks.teacher(task, files, folder))}
    known = results.TASKS[name.removesuffix("-full")]
    found = results.prepare(known, options.data, options.results / known.name)
    results.train_teacher(known, found, options.results / known.name)
    files = {split: path for split, path in found.items() if split in ("train", "eval", "test")}
    if name.endswith("-full"):
        files["train"] = found["teacher"]
    return files | {"teacher": options.results / known.name / "teacher"}


def mpnet(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Train, measure and choice files, and the teacher's folder under `teacher`."""
    task = name.removesuffix("-full")
    files = texts(task, options.output / task, options)
    if name.endswith("-full"):
        files["train"] = files["whole"]
    output = options.output / task / "teacher"
    split = "test" if "test" in files else "eval"
    if not (output / f"{split}_results.json").is_file():
        epochs, rate = MPNET[task]
        model = pretrained.fetch(options.output / "pretrained")
        command = ["finetune", "--model", str(model), "--train-file", str(files["whole"])]
        command += [f"--{split}-file", str(files[split]), "--output-dir", str(output)]
        command += ["--num-train-epochs", str(epochs), "--learning-rate", rate, *results.warmup_flags()]
        command += ["--per-device-train-batch-size", "32", "--weight-decay", "0.01", "--bf16", "--use-cpu"]
        command += ["--save-steps", "200", "--save-total-limit", "1", "--max-length", "128"]
        command += ["--logging-steps", "100", "--disable-tqdm", "True", "--seed", "42"]
        results.run_on(command, output, output.with_suffix(".log"), threads=os.cpu_count() or 1)
    return files | {"teacher": output}


def texts(task: str, folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The files: `train` of the students, `whole` of the teacher, `eval` or `test` to measure, `choice` to choose."""
    folder.mkdir(parents=True, exist_ok=True)
    if task in ("mrpc", "stsb"):
        files = tasks.prepare(task, options.data, folder)
        return files | {"whole": files["train"]}
    found = results.prepare(results.TASKS[task], options.data, options.results / task)
    if task == "clinc150":
        return {"train": found["train"], "whole": found["teacher"], "test": found["test"], "choice": found["eval"]}
    files = {"train": found["train"], "eval": found["eval"], "whole": folder / "whole.jsonl"}
    files["choice"] = folder / "choice.jsonl"
    chosen = {json.loads(line)["sentence"] for line in files["train"].read_text(encoding="utf-8").splitlines()}
    rows = [{"sentence": row["sentence"], "label": int(row["label"])} for row in glue.rows(options.data, "SST-2")]
    others = sorted({row["sentence"] for row in rows} - chosen)
    held_out = set(random.Random(1).sample(others, CHOICE_ROWS))
    for name, inside in (("whole", False), ("choice", True)):
        lines = [json.dumps(row) + "\n" for row in rows if (row["sentence"] in held_out) == inside]
        files[name].write_text("".join(lines), encoding="utf-8")
    return files


PREPARE: dict[str, Callable[[str, Path, argparse.Namespace], dict[str, Path]]] = {"minilm": minilm, "mpnet": mpnet}
