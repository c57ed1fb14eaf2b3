"""Nearest neighbours of words: from GloVe or word2vec files, gensim's KeyedVectors, or a model's embeddings."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.augmentation.words import words_of
from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.hashing import file_digest, json_digest, stream_digest
from hf_tinybert.utils.work_sharing import default_folder

logger = logging.get_logger(__name__)

#: As in the paper's code: the most frequent words of a file, which come first.
MAX_WORDS = 100_000
#: Raise it when the meaning of a stored index changes.
_FORMAT = 1
_QUERIES_AT_ONCE = 1024
#: Additional neighbours that are ranked again in float64, so that float32 rounding does not change the result.
_SPARE = 8

Vectors: TypeAlias = NDArray[np.float32]


class KeyedVectors(Protocol):
    """The attributes that are used of gensim's `KeyedVectors`."""

    index_to_key: Sequence[str]
    vectors: Vectors


class WordVectors:
    """Words, their vectors, and exact search among them by cosine.

    Args:
        words: n distinct words, from which neighbours are taken.
        vectors: `[n, d]`, one for each word, no row of zeros.
        compose: returns the vector `[d]` of a word that is not among them, or None if it has none.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: Vectors,
        compose: Callable[[str], Vectors | None] | None = None,
    ) -> None:
        """Normalise every vector to length 1."""
        self.words = list(words)
        self.unit = _normalised(np.asarray(vectors, dtype=np.float32))
        self._number = {word: number for number, word in enumerate(self.words)}
        self._compose = compose

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], max_words: int = MAX_WORDS, cache_dir: str | os.PathLike[str] | None = None
    ) -> WordVectors:
        """Read a text file in the format of GloVe or word2vec, plain or gzipped; the index is stored for later calls.

        Args:
            path: one word a line, followed by its numbers, separated by spaces; a first line of two integers is
                word2vec's header. Lines of another length or with other content than numbers are skipped and counted
                in a warning, as are repeated words.
            max_words: maximum number of words.
            cache_dir: in which the index is stored. Default: hf_tinybert/word_vectors in `HF_HOME`.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: no line holds a vector.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"The word vectors {path} do not exist: give a text file of GloVe or word2vec.")
        folder = Path(cache_dir or default_folder("word_vectors"))
        index = folder / f"{json_digest([_FORMAT, file_digest(path), max_words])}.safetensors"
        if not index.is_file():
            words, vectors = _read(path, max_words)
            folder.mkdir(parents=True, exist_ok=True)
            with file_beside(index) as file:
                save_file({"vectors": vectors}, str(file), metadata={"words": json.dumps(words)})
        with safe_open(str(index), framework="numpy") as opened:
            return cls(json.loads(opened.metadata()["words"]), opened.get_tensor("vectors"))

    @classmethod
    def from_keyed_vectors(cls, keyed_vectors: KeyedVectors, max_words: int = MAX_WORDS) -> WordVectors:
        """Use gensim's `KeyedVectors`, or any object with its `index_to_key` and `vectors`."""
        words, vectors = list(keyed_vectors.index_to_key)[:max_words], np.asarray(keyed_vectors.vectors)[:max_words]
        real = np.flatnonzero(_usable(vectors))
        return cls([words[row] for row in real], vectors[real])

    @classmethod
    def from_embeddings(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> WordVectors:
        """Use a model's input embeddings: neighbours are whole-word tokens; a word of several tokens is their mean."""
        table = model.get_input_embeddings().weight.detach().float().cpu().numpy()
        whole = whole_words(tokenizer)
        real = [(text, number) for text, number in whole.items() if number < len(table) and table[number].any()]

        def compose(word: str) -> Vectors | None:
            pieces = list(tokenizer(word, add_special_tokens=False)["input_ids"])
            return table[pieces].mean(axis=0) if pieces and tokenizer.unk_token_id not in pieces else None

        return cls([text for text, _ in real], table[[number for _, number in real]], compose)

    def neighbours(self, words: Sequence[str], k: int) -> list[list[str]]:
        """The k nearest other words of each word by cosine, nearest first; none for a word without a vector.

        A word is looked up as written, then in lower case. The word itself, in any case, is not a neighbour.
        """
        neighbours: list[list[str]] = [[] for _ in words]
        queried = [(number, vector) for number, word in enumerate(words) if (vector := self._vector(word)) is not None]
        for start in range(0, len(queried), _QUERIES_AT_ONCE):
            part = queried[start : start + _QUERIES_AT_ONCE]
            queries = np.stack([vector for _, vector in part])
            wanted = min(k + _SPARE, len(self.words))
            near = np.argpartition(-(queries @ self.unit.T), wanted - 1, axis=1)[:, :wanted]
            for (number, query), rows in zip(part, near, strict=True):
                rows = np.sort(rows)
                exact = (self.unit[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
                order = rows[np.argsort(-exact, kind="stable")]
                folded = words[number].casefold()
                neighbours[number] = [self.words[row] for row in order if self.words[row].casefold() != folded][:k]
        return neighbours

    def digest(self) -> str:
        """The digest of the words and their vectors."""
        return stream_digest([json.dumps([self.words, self._compose is not None]), self.unit.tobytes()])

    def _vector(self, word: str) -> Vectors | None:
        for written in (word, word.lower()):
            if written in self._number:
                return self.unit[self._number[written]]
        vector = self._compose(word) if self._compose is not None else None
        if vector is None or not np.any(vector):
            return None
        return _normalised(np.asarray(vector, dtype=np.float32)[None])[0]


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that are whole words of letters: text -> token id.

    A token is a whole word if the tokenizer encodes its text, after a space, as this token. This excludes continuation
    pieces, special tokens and byte pieces, however the vocabulary marks them.
    """
    special = set(tokenizer.all_special_ids)
    texts: dict[str, None] = {}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        text = tokenizer.convert_tokens_to_string([token]).strip()
        words = words_of(text)
        if number not in special and len(words) == 1 and words[0].text == text:
            texts[text] = None
    before = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    pieces = tokenizer([f"a {text}" for text in texts], add_special_tokens=False)["input_ids"]
    return {
        text: ids[-1]
        for text, ids in zip(texts, pieces, strict=True)
        if len(ids) == before + 1 and ids[-1] not in special
    }


def _read(path: Path, max_words: int) -> tuple[list[str], Vectors]:
    words: dict[str, Vectors] = {}
    broken = repeated = 0
    size = _size(path)
    for number, line in enumerate(_lines(path)):
        parts = line.split(" ")
        if number == 0 and len(parts) == 2 and all(part.isdigit() for part in parts):
            continue
        # Some words of the largest GloVe file contain spaces.
        word, vector = " ".join(parts[:-size]), _numbers(parts[-size:])
        if not word or vector is None or len(vector) != size:
            broken += 1
        elif word in words:
            repeated += 1
        else:
            words[word] = vector
        if len(words) == max_words:
            break
    if not words:
        raise ValueError(
            f"No line of {path} is a word and its numbers, separated by spaces: give a text file of GloVe or word2vec."
        )
    if broken or repeated:
        logger.warning(f"{path}: {broken} broken lines and {repeated} repeated words were skipped.")
    return list(words), np.stack(list(words.values()))


def _size(path: Path) -> int:
    """The dimension of the vectors: the most frequent number of values among the first lines."""
    counts = Counter(len(line.split(" ")) - 1 for line in islice(_lines(path), 100))
    return max(counts.most_common(1)[0][0] if counts else 1, 1)


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            yield line.rstrip()


def _numbers(parts: Sequence[str]) -> Vectors | None:
    try:
        vector = np.array(parts, dtype=np.float32)
    except ValueError:
        return None
    return vector if _usable(vector[None])[0] else None


def _usable(vectors: Vectors) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))


def _normalised(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
