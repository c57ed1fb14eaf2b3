"""`TextAugmenter`: algorithm 1 of TinyBERT as a transformation of `datasets`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets
from filelock import FileLock
from huggingface_hub.constants import HF_HOME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation.candidates import CandidateFinder, Candidates, Text
from hf_tinybert.augmentation.stop_words import stop_words as words_of_language
from hf_tinybert.augmentation.variants import Variant, VariantWriter
from hf_tinybert.augmentation.word_vectors import WordVectors

#: Columns that augmentation adds: whether a row is a variant, and which words of it are whose.
AUGMENTED = "augmented"
_FOUND = "augmentation_candidates"


class TextAugmenter:
    """New texts in which some words are replaced by others that fit (Jiao et al. 2020, algorithm 1).

    A word that is one token of the masked language model gets the model's k most likely words at its place, any other
    its k nearest neighbours among word vectors. Each of n times every word is replaced with probability p by one of
    its candidates. Everything else stays as it is: case, punctuation, spaces.

    A text's variants depend on the text, its column, the models, the numbers here and the seed, and on nothing else.

    Args:
        masked_lm: a masked language model, or None for word vectors alone.
        tokenizer: its tokenizer.
        word_vectors: where neighbours come from. Default: the masked language model's own embeddings.
        n: attempts at a variant of each text; repeated ones are dropped.
        k: candidates of a word.
        p: probability that a word is replaced.
        stop_words: words that stay: a language's, a collection of one's own, or None.
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
        if word_vectors is None:
            assert masked_lm is not None
            assert tokenizer is not None
            word_vectors = WordVectors.from_embeddings(masked_lm, tokenizer)
        words = words_of_language(stop_words)
        self.finder = CandidateFinder(masked_lm, tokenizer, word_vectors, k, words, second_segment, batch_size)
        self.writer = VariantWriter(n, p, seed)

    def augment(self, texts: Sequence[Text]) -> list[list[Text]]:
        """The variants of every text: different from it and from each other; none where no word can be replaced."""
        found = self.finder.find(texts)
        return [
            [variant.text for variant in self.writer.write(text, candidates)]
            for text, candidates in zip(texts, found, strict=True)
        ]
