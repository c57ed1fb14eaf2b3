"""`TextAugmenter`: algorithm 1 of TinyBERT as a transformation of `datasets`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, List, Value, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation import rows
from hf_tinybert.augmentation.candidates import CandidateFinder, Text
from hf_tinybert.augmentation.stop_words import stop_words as words_of_language
from hf_tinybert.augmentation.variants import VariantWriter
from hf_tinybert.augmentation.word_vectors import WordVectors
from hf_tinybert.utils.resumable_map import ResumableMap
from hf_tinybert.utils.work_sharing import default_folder


class TextAugmenter:
    """Variants of texts in which some words are replaced (Jiao et al. 2020, algorithm 1).

    The candidates of a word that is one token are the k most likely words of the masked language model at its
    position; those of any other word are its k nearest neighbours among word vectors. In each of n attempts, every
    word is replaced by one of its candidates with probability p. Case, punctuation and spaces are unchanged.

    The variants of a text depend only on the text, its column, the models, these numbers and the seed.

    Args:
        masked_lm: a masked language model, or None for word vectors alone.
        tokenizer: its tokenizer.
        word_vectors: in which neighbours are searched. Default: the masked language model's input embeddings.
        n: attempts at a variant of each text; duplicates are dropped.
        k: candidates of a word.
        p: probability that a word is replaced.
        stop_words: words that are not replaced: those of a language, a collection of words, or None.
        seed: of the random choices.
        second_segment: the original text is appended to the masked one as second segment, as in the paper's code.
        batch_size: masks in one forward pass of the model.

    Raises:
        ValueError: a number is out of range, neither model nor vectors are given, or the language is unknown.
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
                f"n, k and batch_size must be at least 1, and p above 0 and at most 1; got n={n}, k={k}, "
                f"batch_size={batch_size}, p={p}."
            )
        if masked_lm is None and word_vectors is None:
            raise ValueError("Give a masked language model with its tokenizer, word vectors, or both.")
        if masked_lm is not None and tokenizer is None:
            raise ValueError("A masked language model needs its tokenizer: pass tokenizer=.")
        if word_vectors is None:
            assert masked_lm is not None
            assert tokenizer is not None
            word_vectors = WordVectors.from_embeddings(masked_lm, tokenizer)
        words = words_of_language(stop_words)
        self.finder = CandidateFinder(masked_lm, tokenizer, word_vectors, k, words, second_segment, batch_size)
        self.writer = VariantWriter(n, p, seed)

    def augment(self, texts: Sequence[Text]) -> list[list[Text]]:
        """The variants of every text, distinct and different from it; none where no word can be replaced."""
        return [
            [variant.text for variant in self.writer.write(text, candidates)]
            for text, candidates in zip(texts, self.finder.find(texts), strict=True)
        ]

    def map(
        self,
        dataset: Dataset | IterableDataset,
        columns: str | Sequence[str] | None = None,
        num_proc: int | None = None,
        rows_at_once: int = 1000,
        cache_dir: str | Path | None = None,
    ) -> Dataset | IterableDataset:
        """Every row of a data set, followed by its variants.

        A variant differs from its row in one column; of a pair, each side is varied in turn. All other columns are
        copied, labels and tags included. Three columns are added: `augmented` marks variants, `words_replaced` counts
        their new words, and `words_of_model` counts those that come from the masked language model.

        Candidates are found and stored in chunks of rows: an interrupted run resumes, and several processes on the
        same data share the chunks. Nothing is stored for an `IterableDataset`.

        Args:
            dataset: with texts, or with sentences that are already split into words (lists of strings).
            columns: the column to vary, or the two of a pair. Default: the usual names (`text`, `sentence`,
                `sentence1` and `sentence2`, `tokens`, ...).
            num_proc: processes that write variants, besides the one with the model.
            rows_at_once: rows of a chunk.
            cache_dir: in which chunks are stored. Default: hf_tinybert/augmentation in `HF_HOME`.

        Raises:
            ValueError: the data set does not have such a column, or it holds no texts.
        """
        if isinstance(dataset, IterableDataset):
            names = self._columns(dataset, columns)
            find = partial(rows.find, columns=names, finder=self.finder)
            write = partial(rows.expand, columns=names, writer=self.writer)
            with_candidates = dataset.map(find, batched=True, batch_size=rows_at_once)
            return with_candidates.map(write, batched=True, batch_size=rows_at_once, remove_columns=[rows.FOUND])
        return self.write(self.find(dataset, columns, rows_at_once, cache_dir), columns, num_proc, rows_at_once)

    def find(
        self,
        dataset: Dataset,
        columns: str | Sequence[str] | None = None,
        rows_at_once: int = 1000,
        cache_dir: str | Path | None = None,
    ) -> Dataset:
        """The first half of `map`: the data set with a column of candidates. Processes share the work."""
        names = self._columns(dataset, columns)
        if not len(dataset):
            return dataset.add_column(rows.FOUND, [])
        folder = Path(cache_dir or default_folder("augmentation"))
        pieces = ResumableMap(dataset, names, self.finder.key(), rows_at_once, folder)
        find = partial(rows.find, columns=names, finder=self.finder)
        candidates = pieces.ensure(find, "Finding candidates", Features({rows.FOUND: List(Value("string"))}))
        return concatenate_datasets([dataset, candidates], axis=1)

    def write(
        self,
        found: Dataset,
        columns: str | Sequence[str] | None = None,
        num_proc: int | None = None,
        rows_at_once: int = 1000,
    ) -> Dataset:
        """The second half of `map`, with the same columns: every row, followed by its variants."""
        return found.map(
            rows.expand,
            batched=True,
            batch_size=rows_at_once,
            num_proc=num_proc,
            remove_columns=[rows.FOUND],
            fn_kwargs={"columns": self._columns(found, columns), "writer": self.writer},
            desc="Writing variants",
        )

    def _columns(self, dataset: Dataset | IterableDataset, columns: str | Sequence[str] | None) -> list[str]:
        if rows.AUGMENTED in (dataset.features or {}):
            raise ValueError(
                f"The data set has a column {rows.AUGMENTED!r}: it has been augmented before. Give the original rows."
            )
        return rows.text_columns(dataset, columns)
