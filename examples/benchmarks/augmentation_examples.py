"""Ten variants each of SST-2, MRPC and CLINC150, chosen by a seed, as a table for the documentation.

    python examples/benchmarks/augmentation_examples.py --masked-lm ../shared/models/minilm-mlm \
        --word-vectors ../shared/data/glove/glove.6B.50d.top2445.txt --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import glue
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_tinybert.augmentation import TextAugmenter, WordVectors

TEN, SEED = 10, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masked-lm", required=True)
    parser.add_argument("--word-vectors", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with glue and clinc150")
    options = parser.parse_args()
    augmenter = TextAugmenter(
        AutoModelForMaskedLM.from_pretrained(options.masked_lm, dtype=torch.float32),
        AutoTokenizer.from_pretrained(options.masked_lm),
        WordVectors.from_file(options.word_vectors),
        seed=SEED,
    )
    for name, texts in read(options.data).items():
        chosen = random.Random(SEED).sample(texts, TEN)
        print(f"\n### {name}\n\n| original | one of its variants |\n| --- | --- |")
        for text, variants in zip(chosen, augmenter.augment(chosen), strict=True):
            variant = random.Random(SEED).choice(variants) if variants else "(none)"
            print(f"| {shown(text)} | {shown(variant)} |")


def read(folder: Path) -> dict[str, list[str]]:
    def column(task: str, *names: str) -> list[str]:
        return [row[name] for row in glue.rows(folder, task) for name in names]

    clinc = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    return {
        "SST-2": column("SST-2", "sentence"),
        "MRPC": column("MRPC", "#1 String", "#2 String"),
        "CLINC150": [text for text, _ in clinc["train"]],
    }


def shown(text: str) -> str:
    return text.strip().replace("|", "\\|")


if __name__ == "__main__":
    main()
