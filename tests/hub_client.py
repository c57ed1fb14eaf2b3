"""A process that does what it is told with the real Hub client: JSON lines in, JSON lines out."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from asking import serve
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForSequenceClassification

from hf_tinybert import create_student
from hf_tinybert.cli import main
from hf_tinybert.hub import upload as hub
from hf_tinybert.student.projection_init import offered


def push(folder, repo_id, **kwargs):
    private = kwargs.pop("private", None)
    name = hub.create_repository(repo_id, kwargs.get("token"), private)
    return hub.push(folder, name, **kwargs).oid


def push_and_save_again(folder, repo_id):
    """Two pushes in the background, whose weights are written anew before the second begins."""
    name = hub.create_repository(repo_id)
    weights = Path(folder) / "model.safetensors"
    pushes = []
    for content in (b"first", b"second"):
        weights.write_bytes(content * 100_000)
        pushes.append(hub.push_later(folder, name))
    weights.write_bytes(b"third" * 100_000)
    return [push.result().oid for push in pushes]


def upload(folder, repo_id):
    """Everything that lies in a folder, as users upload who do not use `hf-tinybert push`."""
    HfApi().create_repo(repo_id)
    return HfApi().upload_folder(folder_path=folder, repo_id=repo_id).oid


@contextlib.contextmanager
def printed_into(out, err):
    """What this process and its threads print, also by log handlers that stay when this is over."""
    kept = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        for number, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, was in zip((1, 2), kept, strict=True):
            os.dup2(was, number)
            os.close(was)
        out.seek(0)
        err.seek(0)


def command(argv):
    """A command of `hf-tinybert`: its exit status and what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with printed_into(out, err):
            try:
                code = main(argv)
            except SystemExit as end:
                code = end.code
        return {"code": code, "out": out.read().decode(), "err": err.read().decode()}


def train(strategies, **given):
    """What was measured with each strategy (`hub_training`), the error that ended it, and everything printed."""
    import hub_training

    measured, error = {}, None
    with tempfile.TemporaryFile() as file:
        with printed_into(file, file):
            try:
                for strategy in strategies:
                    measured[strategy] = hub_training.train(strategy=strategy, **given)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
                traceback.print_exc()
        return {"measured": measured, "error": error, "output": file.read().decode()}


def pull(teacher_folder, weights, repo_id):
    """A student of a repository, against the published weights: how its tensors, labels and projection compare."""
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder)
    student = create_student(teacher, repo_id)
    published = torch.load(weights, weights_only=True)
    own = {name: value for name, value in student.state_dict().items() if name.startswith("bert.")}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in own.items()
        if "pooler" not in name
    }
    offers = offered(student)
    return {
        "different": [name for name, value in old.items() if not torch.equal(published[name], value)],
        "tensors": len(old),
        "labels": list(student.config.id2label.values()),
        "type": student.config.model_type,
        "projection": torch.equal(offers["shared.weight"], published["fit_dense.weight"]),
        "bias": torch.equal(offers["shared.bias"], published["fit_dense.bias"]),
    }


ACTIONS = {
    "ready": lambda: True,
    "upload": upload,
    "push": push,
    "push_and_save_again": push_and_save_again,
    "download": snapshot_download,
    "command": command,
    "train": train,
    "pull": pull,
}

serve(ACTIONS)
