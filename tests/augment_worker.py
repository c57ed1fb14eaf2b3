"""Augmentation in a process of its own, which may be killed: `python augment_worker.py FOLDER [KILL_AFTER]`.

Candidates come from a real model's embeddings and are kept in FOLDER/cache; the result is FOLDER/augmented.jsonl.
With KILL_AFTER the process ends by SIGKILL while it finds that piece. Every piece it finds is a line of FOLDER/found.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import datasets
import factories
from datasets import Dataset
from transformers import AutoModel

from hf_tinybert.augmentation import TextAugmenter, WordVectors, rows

ROWS_AT_ONCE = 20
ROWS = 100


def data(count=ROWS) -> Dataset:
    """The household requests with their labels."""
    columns = {"text": factories.requests(count), "label": factories.household()["train"]["labels"][:count]}
    return Dataset.from_dict(columns | {"id": [f"row {n}" for n in range(count)]})


def vectors() -> WordVectors:
    return WordVectors.from_embeddings(AutoModel.from_pretrained(factories.encoder()), factories.tokenizer())


def main(folder: Path, kill_after: int | None) -> None:
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    usual, calls = rows.find, []

    def counted(*args, **kwargs):
        calls.append(1)
        if kill_after is not None and len(calls) > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = usual(*args, **kwargs)
        with (folder / "found").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return found

    rows.find = counted
    augmenter = TextAugmenter(word_vectors=vectors(), n=4, seed=3)
    augmented = augmenter.map(data(), rows_at_once=ROWS_AT_ONCE, cache_dir=folder / "cache")
    augmented.to_json(str(folder / "augmented.jsonl"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
