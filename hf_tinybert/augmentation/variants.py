"""Variants of a text, from candidates that were found before: choices alone, no model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from hf_tinybert.augmentation.candidates import Candidates, Text, parse
from hf_tinybert.augmentation.words import with_replacements


@dataclass(frozen=True)
class Variant:
    """A new text.

    Attributes:
        text: in the form of the original, a string or tokens.
        replaced: how many words differ from the original's.
        of_model: how many of these are the masked language model's.
    """

    text: Text
    replaced: int
    of_model: int


@dataclass(frozen=True)
class VariantWriter:
    """Algorithm 1's inner loops: n times, each word with probability p.

    What it writes depends on the text, its candidates, the column and these numbers alone.

    Attributes:
        n: attempts; a variant that equals the original or an earlier one is dropped.
        p: probability that a word is replaced.
        seed: of all choices.
    """

    n: int
    p: float
    seed: int

    def write(self, text: Text, candidates: Candidates, column: str = "") -> list[Variant]:
        """The variants of a text, in the order in which they were made."""
        written, words = parse(text)
        numbers = list(candidates.words)
        if not numbers:
            return []
        generator = np.random.default_rng(self._seed_of(written, column))
        choices = np.array([len(candidates.words[number]) for number in numbers])
        seen, variants = {written}, []
        for _ in range(self.n):
            picks = (generator.random(len(numbers)) * choices).astype(int)
            places = np.flatnonzero(generator.random(len(numbers)) < self.p)
            chosen = {numbers[i]: candidates.words[numbers[i]][picks[i]] for i in places}
            new = with_replacements(written, words, chosen)
            if new in seen:
                continue
            seen.add(new)
            changed = [number for number, word in chosen.items() if word != words[number].text]
            of_model = sum(number in candidates.of_model for number in changed)
            in_form: Text = new
            if not isinstance(text, str):
                in_form = [chosen.get(number, word.text) for number, word in enumerate(words)]
            variants.append(Variant(in_form, len(changed), of_model))
        return variants

    def _seed_of(self, text: str, column: str) -> int:
        digest = hashlib.sha256(json.dumps([self.seed, column, text]).encode()).digest()
        return int.from_bytes(digest[:16], "big")
