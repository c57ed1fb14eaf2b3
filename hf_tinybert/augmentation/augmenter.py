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

    def map(
        self,
        dataset: Dataset | IterableDataset,
        columns: str | Sequence[str] | None = None,
        num_proc: int | None = None,
        rows_at_once: int = 1000,
        cache_dir: str | Path | None = None,
    ) -> Dataset | IterableDataset:
        """Every row of a data set, followed by its variants.

        A variant differs from its row in one column; of a pair, each side is varied in turn. Every other column is
        carried along, labels and tags too. The column `augmented` says which rows are variants, `words_replaced` how
        many of their words are new, and `words_of_model` how many of those are the masked language model's.

        Candidates are found piece by piece, and each piece is kept: a run that is killed goes on where it was, and
        several processes on the same data share the pieces. A stream keeps nothing.

        Args:
            dataset: with texts, or with sentences that were cut into words before (lists of strings).
            columns: which column to vary, or the two of a pair. Default: the usual names (`text`, `sentence`,
                `sentence1` and `sentence2`, `tokens`, ...).
            num_proc: processes that write variants, beside the one with the model.
            rows_at_once: rows of a piece.
            cache_dir: where pieces are kept. Default: hf_tinybert/augmentation in `HF_HOME`.

        Raises:
            ValueError: the data set has no such column, or one of another type.
        """
        if isinstance(dataset, IterableDataset):
            names = self._columns(dataset, columns)
            find = partial(rows.find, columns=names, finder=self.finder)
            write = partial(rows.expand, columns=names, writer=self.writer)
            found = dataset.map(find, batched=True, batch_size=rows_at_once)
            return found.map(write, batched=True, batch_size=rows_at_once, remove_columns=[rows.FOUND])
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
        found = pieces.ensure(find, "Finding candidates", Features({rows.FOUND: List(Value("string"))}))
        return concatenate_datasets([dataset, found], axis=1)

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
            raise ValueError(f"The data set has a column {rows.AUGMENTED!r}: it has been augmented before.")
        return rows.text_columns(dataset, columns)
