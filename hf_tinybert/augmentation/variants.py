"""Variants of a text, sampled from its candidates; no model is run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_tinybert.augmentation.candidates import Candidates, Text, parse
from hf_tinybert.augmentation.words import with_replacements
from hf_tinybert.utils.hashing import json_digest


@dataclass(frozen=True)
class Variant:
    """A new text.

    Attributes:
        text: in the form of the original, a string or tokens.
        replaced: number of words that differ from the original's.
        of_model: number of these that come from the masked language model.
    """

    text: Text
    replaced: int
    of_model: int


@dataclass(frozen=True)
class VariantWriter:
    """The inner loops of algorithm 1: n attempts, in each of which every word is replaced with probability p.

    The variants depend only on the text, its candidates, the column and these numbers.

    Attributes:
        n: attempts; a variant that equals the original or an earlier one is dropped.
        p: probability that a word is replaced.
        seed: of the random choices.
    """

    n: int
    p: float
    seed: int

    def write(self, text: Text, candidates: Candidates, column: str = "") -> list[Variant]:
        """The variants of a text, in the order of the attempts."""
        written, words = parse(text)
        numbers = list(candidates.words)
        if not numbers:
            return []
        generator = np.random.default_rng(self._seed_of(written, column))
        choices = np.array([len(candidates.words[number]) for number in numbers])
        seen, variants = {written}, []
        for _ in range(self.n):
            picks = (generator.random(len(numbers)) * choices).astype(int)
            replaced = np.flatnonzero(generator.random(len(numbers)) < self.p)
            chosen = {numbers[i]: candidates.words[numbers[i]][picks[i]] for i in replaced}
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
        return int(json_digest([self.seed, column, text])[:32], 16)
