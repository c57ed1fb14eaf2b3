"""Augmentation of SST-2: ours, and algorithm 1 with a model call for each word.

    python examples/benchmarks/augmentation.py --masked-lm ../shared/models/minilm-mlm \
        --word-vectors ../shared/data/glove/glove.6B.50d.top2445.txt --data ../shared/data

All jobs take the same sentences, the same models and the same settings of the paper (n = 20, k = 15, p = 0.4), one
after the other in rounds, in one process; medians of the rounds. Candidates are then compared, word for word.

- ours: `TextAugmenter.augment`.
- word: a model call for each word of a sentence, whose candidates all n variants share, as the authors' code does.
- variant: a model call for each word of each variant, replaced or not, as the paper's algorithm 1 is written, nothing
  shared. (The call sees the original sentence, as the authors' code does, so that the candidates are the same.)

The neighbours of a word of several pieces are looked up among all vectors whenever they are needed in the last two.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path

import glue
import numpy as np
import torch
from training_step import machine, write
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_tinybert.augmentation import TextAugmenter, WordVectors
from hf_tinybert.augmentation.stop_words import stop_words
from hf_tinybert.augmentation.word_vectors import whole_words
from hf_tinybert.augmentation.words import Word, in_the_case_of, replaceable, with_replacements, words_of

N, K, P, SAMPLE_SEED = 20, 15, 0.4, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masked-lm", required=True)
    parser.add_argument("--word-vectors", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/SST-2")
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/augmentation.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = [row["sentence"] for row in glue.rows(options.data, "SST-2")]
    texts = random.Random(SAMPLE_SEED).sample(texts, options.sentences)
    model = AutoModelForMaskedLM.from_pretrained(options.masked_lm, dtype=torch.float32).to(options.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.masked_lm)
    vectors = WordVectors.from_file(options.word_vectors)
    slow = OneCallForEachWord(model, tokenizer, vectors)
    ours = TextAugmenter(model, tokenizer, vectors, n=N, k=K, p=P)
    jobs = {
        "ours": lambda: ours.augment(texts),
        "word": lambda: [slow.variants(text, shared=True) for text in texts],
        "variant": lambda: [slow.variants(text, shared=False) for text in texts],
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    same, places = compare(ours, slow, texts)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "sentences": len(texts),
        "seconds": seconds,
        "sentences_per_second": {name: len(texts) / value for name, value in medians.items()},
        "words_with_candidates": places,
        "words_with_equal_candidates": same,
        "device": options.device,
        "machine": machine(options.device),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write(options.output, (json.dumps(result, indent=2) + "\n").encode())
    print("| job | sentences per second | ours is faster by |\n| --- | --- | --- |")
    for name, value in medians.items():
        print(f"| {name} | {len(texts) / value:.2f} | {value / medians['ours']:.1f} |")
    print(f"\ncandidates agree at {same} of {places} words")


class OneCallForEachWord:
    """Algorithm 1, the plain way."""

    def __init__(self, model: torch.nn.Module, tokenizer: object, vectors: WordVectors) -> None:
        self.model, self.tokenizer, self.vectors = model, tokenizer, vectors
        self.whole = {number: text for text, number in whole_words(tokenizer).items()}
        self.stop_words = stop_words("english")

    def variants(self, text: str, shared: bool) -> set[str]:
        words = [(number, word) for number, word in enumerate(words_of(text)) if replaceable(word, self.stop_words)]
        known = {number: self.candidates(text, word) for number, word in words} if shared else {}
        found = set()
        for _ in range(N):
            chosen = {}
            for number, word in words:
                candidates = known[number] if shared else self.candidates(text, word)
                if candidates and random.random() < P:
                    chosen[number] = random.choice(candidates)
            found.add(with_replacements(text, words_of(text), chosen))
        return found - {text}

    @torch.no_grad()
    def candidates(self, text: str, word: Word) -> list[str]:
        encoded = self.tokenizer(text, text, return_tensors="pt", return_offsets_mapping=True)
        spans = encoded.pop("offset_mapping")[0].tolist()
        position = next((place for place, span in enumerate(spans) if span == [word.start, word.end]), None)
        if position is None or encoded["input_ids"][0, position] == self.tokenizer.unk_token_id:
            found = self.neighbours(word.text)
        else:
            encoded["input_ids"][0, position] = self.tokenizer.mask_token_id
            logits = self.model(**encoded.to(self.model.device)).logits[0, position]
            found = []
            for number in logits.argsort(descending=True).tolist():
                if number in self.whole:
                    found.append(self.whole[number])
                    if len(found) == K:
                        break
        return [in_the_case_of(word.text, candidate) for candidate in found]

    def neighbours(self, word: str) -> list[str]:
        names = self.vectors.words
        place = next((names.index(name) for name in (word, word.lower()) if name in names), None)
        if place is None:
            return []
        order = np.argsort(-(self.vectors.unit.astype(np.float64) @ self.vectors.unit[place].astype(np.float64)))
        return [names[row] for row in order if names[row].casefold() != word.casefold()][:K]


def compare(ours: TextAugmenter, slow: OneCallForEachWord, texts: list[str]) -> tuple[int, int]:
    """Words whose candidates are the same, and words that have any."""
    same = places = 0
    for text, found in zip(texts, ours.finder.find(texts), strict=True):
        for number, word in enumerate(words_of(text)):
            if replaceable(word, slow.stop_words):
                expected = slow.candidates(text, word)
                places += bool(expected or number in found.words)
                same += bool(expected) and set(expected) == set(found.words.get(number, ()))
    return same, places


if __name__ == "__main__":
    main()
