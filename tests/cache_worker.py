"""Teacher caches for the tests: small data and models, and jobs for processes that may be killed.

`python cache_worker.py TEACHER FOLDER 'JSON of arguments'` distils once with each cache in FOLDER/cache, and writes
what `ddp_worker` writes to FOLDER/features.safetensors and FOLDER/logits.safetensors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import ddp_worker
import factories
import tiny_models
import torch
from datasets import Dataset
from safetensors.torch import save

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.teacher.cache import policy
from hf_tinybert.teacher.cache.policy import Request, open_source
from hf_tinybert.teacher.cache.store import FeatureStore
from hf_tinybert.teacher.source import OnlineTeacher

PADDING = 1
SHARD_BYTES = 4000
BATCH = 64


def data(rows=40, per_token=False, padded=None, **changes) -> Dataset:
    """The household requests in the tiny models' vocabulary; `padded` to one length on the left or right."""
    real = factories.household()["train"]
    real = real.select(range(0, rows * 7, 7))
    ids = [[token % 80 + 5 for token in row] for row in real["input_ids"]]
    columns = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
    columns["labels"] = [[token % 3 for token in row] for row in ids] if per_token else [n % 3 for n in range(rows)]
    if padded is not None:
        width = max(map(len, ids)) + 1
        for name, value in (("input_ids", PADDING), ("attention_mask", 0)):
            for number, row in enumerate(columns[name]):
                padding = [value] * (width - len(row))
                columns[name][number] = row + padding if padded == "right" else padding + row
    return Dataset.from_dict(columns | changes)


def collate(examples, side="right") -> dict[str, torch.Tensor]:
    """A batch padded as far as its longest row."""
    batch = {}
    width = max(len(example["input_ids"]) for example in examples)
    for name, filler in (("input_ids", PADDING), ("attention_mask", 0), ("labels", -100)):
        rows = [example[name] for example in examples]
        if isinstance(rows[0], list):
            padding = [[filler] * (width - len(row)) for row in rows]
            pairs = zip(rows, padding, strict=True)
            rows = [row + more if side == "right" else more + row for row, more in pairs]
        batch[name] = torch.tensor(rows)
    return batch


class Passes:
    """Counts how often a model starts a forward pass, and may slow it down."""

    def __init__(self, model, seconds=0.0):
        self.count = 0
        self._seconds = seconds
        self._handle = Encoder.from_model(model).layers[0].register_forward_pre_hook(self._note)

    def remove(self):
        self._handle.remove()

    def _note(self, *_):
        self.count += 1
        time.sleep(self._seconds)


def request(folder, choice="features", dataset=None, **changes) -> Request:
    settings = {
        "choice": choice,
        "folder": Path(folder),
        "dtype": "float32",
        "dataset": data() if dataset is None else dataset,
        "collator": collate,
        "intermediate_passes": 3.0,
        "joint": False,
        "prediction_passes": 1.0,
        "batch_size": BATCH,
        "device": torch.device("cpu"),
    }
    return Request(**(settings | changes))


def live(model=None) -> OnlineTeacher:
    return OnlineTeacher(model or tiny_models.model(), [0, 1, 3], [2, 3])


def small_shards():
    """A few rows in each shard from here on."""
    policy.FeatureStore = partial(FeatureStore, shard_bytes=SHARD_BYTES)


def build(folder, report=None, seconds=0.0, die_at_file=None, ready=None) -> None:
    """Build the features of `data()`, with one pass of the teacher for each shard, and report how many there were.

    Args:
        folder: of the caches.
        report: a file for the number of passes.
        seconds: how much longer each pass takes.
        die_at_file: die by SIGKILL when so many files have been written, and the next lacks nothing but its name.
        ready: a barrier to wait at before anything is opened.
    """
    torch.set_num_threads(1)
    small_shards()
    teacher = live()
    passes = Passes(teacher.model, seconds)
    if die_at_file is not None:
        die_in_rename(die_at_file)
    if ready is not None:
        ready.wait(timeout=60)
    open_source(teacher, request(folder)).close()
    if report is not None:
        Path(report).write_text(str(passes.count), encoding="utf-8")


def die_in_rename(number) -> None:
    rename, done = os.replace, []

    def replace(source, target):
        if str(target).endswith(".safetensors"):
            if len(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(target)
        rename(source, target)

    os.replace = replace


def distil(teacher_folder, folder, options, rows=48, dropout=0.0, kill_after=None, resume=None):
    """A real distillation of a few epochs; returns gradients, final weights and the trainer."""
    torch.set_num_threads(1)
    teacher = factories.load(teacher_folder)
    settings = {
        "max_steps": 18,
        "intermediate_share": 0.5,
        "logging_steps": 1,
        "teacher_cache_dir": str(Path(folder) / "cache"),
        "teacher_cache_dtype": "float32",
    }
    args = factories.arguments(Path(folder) / "out", **(settings | options))
    gradients = ddp_worker.Gradients(steps=(0, round(args.max_steps * args.intermediate_share)))
    callbacks = [gradients] + ([ddp_worker.Die(kill_after)] if kill_after is not None else [])
    dataset = factories.household()["train"].select(range(rows))
    student = factories.small_student(teacher, dropout=dropout)
    trained = factories.trainer(student, teacher, args, train_dataset=dataset, callbacks=callbacks)
    trained.train(resume_from_checkpoint=resume)
    return gradients.kept | factories.weights(trained), trained


def distil_to_file(result, *args, **kwargs) -> None:
    """For a process of its own."""
    kept, _ = distil(*args, **kwargs)
    Path(result).write_bytes(save({name: value.contiguous() for name, value in kept.items()}))


if __name__ == "__main__":
    for choice in ("features", "logits"):
        options = json.loads(sys.argv[3]) | {"teacher_cache": choice}
        first = int(os.environ.get("RANK", "0")) == 0
        distil_to_file(f"{sys.argv[2]}/{choice}.safetensors" if first else os.devnull, *sys.argv[1:3], options)
