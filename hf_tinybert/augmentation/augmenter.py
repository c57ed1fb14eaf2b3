"""`TextAugmenter`: algorithm 1 of TinyBERT as a transformation of `datasets`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation.masked_lm import MaskedCandidates, Place
from hf_tinybert.augmentation.stop_words import stop_words as words_of_language
from hf_tinybert.augmentation.word_vectors import WordVectors
from hf_tinybert.augmentation.words import (
    Word,
    in_the_case_of,
    replaceable,
    with_replacements,
    words_of,
    words_of_tokens,
)

#: A text, or a sentence that was cut into words before (token-level tasks).
Text = str | Sequence[str]


@dataclass
class Counts:
    """What was done, over all texts so far.

    Attributes:
        originals: texts.
        variants: new texts.
        words: words that were replaced in them.
        by_model: how many of those replacements came from the masked language model; the others from word vectors.
        without: replaceable words for which neither knew anything.
    """

    originals: int = 0
    variants: int = 0
    words: int = 0
    by_model: int = 0
    without: int = 0


@dataclass
class _Parsed:
    """A text, its words, and what may stand in their places."""

    text: str
    words: list[Word]
    cut: bool
    candidates: dict[int, tuple[str, ...]] = field(default_factory=dict)
    by_model: set[int] = field(default_factory=set)

    def write(self, chosen: Mapping[int, str]) -> Text:
        """The text with some words replaced, in the form it came in."""
        if self.cut:
            return [chosen.get(number, word.text) for number, word in enumerate(self.words)]
        return with_replacements(self.text, self.words, chosen)


class TextAugmenter:
    """New texts in which some words are replaced by others that fit (Jiao et al. 2020, algorithm 1).

    A word that is one token of the masked language model gets the model's k most likely words at its place, any other
    its k nearest neighbours among word vectors. Each of n times every replaceable word is replaced with probability p
    by one of its candidates. Everything else in the text stays as it is: case, punctuation, spaces.

    A text's variants depend on the text, the models, the numbers here and the seed, and on nothing else.

    Args:
        masked_lm: a masked language model, or None for word vectors alone.
        tokenizer: its tokenizer.
        word_vectors: where neighbours come from. Default: the masked language model's own embeddings.
        n: attempts at a variant of each text; repeated ones are dropped.
        k: candidates of a word.
        p: probability that a word is replaced.
        stop_words: words that stay: a language's (see `stop_words`), a collection of one's own, or None.
        seed: of all choices.
        second_segment: the model sees the original text beside the masked one, as in the paper's code.
        batch_size: masks in one pass of the model.

    Raises:
        ValueError: a number is out of range, there is neither model nor vectors, or the language is unknown.
    """

    def __init__(
        self,
        masked_lm: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        word_vectors: WordVectors | None = None,
        n: int = 20,
        k: int = 15,
        p: float = 0.4,
        stop_words: str | Collection[str] | None = "english",
        seed: int = 0,
        second_segment: bool = True,
        batch_size: int = 64,
    ) -> None:
        """Check the numbers."""
        if n < 1 or k < 1 or batch_size < 1 or not 0 < p <= 1:
            raise ValueError(
                f"n, k and batch_size are at least 1 and p is above 0 and at most 1, got n={n}, k={k}, "
                f"batch_size={batch_size}, p={p}."
            )
        if masked_lm is None and word_vectors is None:
            raise ValueError("Give a masked language model with its tokenizer, word vectors, or both.")
        if masked_lm is not None and tokenizer is None:
            raise ValueError("A masked language model needs its tokenizer.")
        self.n, self.k, self.p, self.seed = n, k, p, seed
        self.stop_words = words_of_language(stop_words)
        self._model = None
        if masked_lm is not None:
            self._model = MaskedCandidates(masked_lm, tokenizer, k, second_segment, batch_size)
        self.word_vectors = word_vectors or WordVectors.from_embeddings(masked_lm, tokenizer)
        self.counts = Counts()

    def augment(self, texts: Sequence[Text]) -> list[list[Text]]:
        """The variants of every text: different from it and from each other; none where no word can be replaced."""
        parsed = [self._parse(text) for text in texts]
        self._find_candidates(parsed)
        return [self._variants(one) for one in parsed]

    def _parse(self, text: Text) -> _Parsed:
        if isinstance(text, str):
            return _Parsed(text, words_of(text), cut=False)
        joined, words = words_of_tokens(text)
        return _Parsed(joined, words, cut=True)

    def _find_candidates(self, parsed: Sequence[_Parsed]) -> None:
        wanted = [
            (one, number, Place(one.text, word))
            for one in parsed
            for number, word in enumerate(one.words)
            if replaceable(word, self.stop_words)
        ]
        known: dict[Place, tuple[str, ...]] = {}
        unseen: set[Place] = set()
        if self._model is not None:
            found = self._model.find(place for _, _, place in wanted)
            known, unseen = found.candidates, found.unseen
        others = dict.fromkeys(
            place.word.text for _, _, place in wanted if place not in known and place not in unseen
        )
        near = dict(zip(others, self.word_vectors.neighbours(list(others), self.k), strict=True))
        for one, number, place in wanted:
            candidates = known.get(place) or tuple(near.get(place.word.text, ()))
            if candidates:
                one.candidates[number] = tuple(in_the_case_of(place.word.text, word) for word in candidates)
            else:
                self.counts.without += 1
            if place in known:
                one.by_model.add(number)

    def _variants(self, one: _Parsed) -> list[Text]:
        self.counts.originals += 1
        numbers = list(one.candidates)
        if not numbers:
            return []
        generator = np.random.default_rng(self._seed_of(one.text))
        sizes = np.array([len(one.candidates[number]) for number in numbers])
        seen, variants = {one.text}, []
        for _ in range(self.n):
            picks = (generator.random(len(numbers)) * sizes).astype(int)
            replaced = np.flatnonzero(generator.random(len(numbers)) < self.p)
            chosen = {numbers[place]: one.candidates[numbers[place]][picks[place]] for place in replaced}
            written = one.write(chosen)
            text = written if isinstance(written, str) else " ".join(written)
            if text in seen:
                continue
            seen.add(text)
            variants.append(written)
            changed = [number for number, word in chosen.items() if word != one.words[number].text]
            self.counts.words += len(changed)
            self.counts.by_model += sum(number in one.by_model for number in changed)
        self.counts.variants += len(variants)
        return variants

    def _seed_of(self, text: str) -> int:
        digest = hashlib.sha256(json.dumps([self.seed, text]).encode()).digest()
        return int.from_bytes(digest[:16], "big")
