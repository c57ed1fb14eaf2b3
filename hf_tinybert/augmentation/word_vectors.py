"""Nearest neighbours of words: from GloVe or word2vec files, gensim's KeyedVectors, or a model's own embeddings."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.augmentation.words import words_of
from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.work_sharing import default_folder

logger = logging.get_logger(__name__)

#: As in the paper's code: a file's most frequent words, which it lists first.
MAX_WORDS = 100_000
#: Raise it when the meaning of a kept index changes.
_FORMAT = 1
_QUERIES_AT_ONCE = 1024
#: Looked at once more, exactly, so that the rounding of large products does not decide.
_SPARE = 8


class WordVectors:
    """Words, their vectors, and exact search among them by cosine.

    Args:
        words: each once; neighbours are taken from these.
        vectors: `[n, d]`, one for each word, no row of zeros.
        compose: makes a vector of a word that is not among them, or None where it cannot.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: np.ndarray,
        compose: Callable[[str], np.ndarray | None] | None = None,
    ) -> None:
        """Bring every vector to length 1."""
        self.words = list(words)
        self.unit = _normalised(np.asarray(vectors, dtype=np.float32))
        self._number = {word: number for number, word in enumerate(self.words)}
        self._compose = compose

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], max_words: int = MAX_WORDS, cache_dir: str | os.PathLike[str] | None = None
    ) -> WordVectors:
        """Read a text file of GloVe's or word2vec's form, plain or gzipped; what was read is kept for the next time.

        Args:
            path: one word a line, then its numbers, separated by spaces; a first line with two whole numbers is
                word2vec's header. Lines of another length, or with something that is no number, are left out and
                counted in a warning; so are words that came before.
            max_words: how many lines are read at most.
            cache_dir: where the index is kept. Default: hf_tinybert/word_vectors in `HF_HOME`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no line of it holds a vector.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"The word vectors {path} do not exist: give a text file of GloVe or word2vec.")
        folder = Path(cache_dir or default_folder("word_vectors"))
        kept = folder / f"{_key(path, max_words)}.safetensors"
        if not kept.is_file():
            words, vectors = _read(path, max_words)
            folder.mkdir(parents=True, exist_ok=True)
            with file_beside(kept) as file:
                save_file({"vectors": vectors}, str(file), metadata={"words": json.dumps(words)})
        with safe_open(str(kept), framework="numpy") as opened:
            return cls(json.loads(opened.metadata()["words"]), opened.get_tensor("vectors"))

    @classmethod
    def from_keyed_vectors(cls, keyed_vectors: Any, max_words: int = MAX_WORDS) -> WordVectors:
        """Take gensim's `KeyedVectors`, or anything with its `index_to_key` and `vectors`."""
        words, vectors = list(keyed_vectors.index_to_key)[:max_words], np.asarray(keyed_vectors.vectors)[:max_words]
        real = np.flatnonzero(_usable(vectors))
        return cls([words[row] for row in real], vectors[real])

    @classmethod
    def from_embeddings(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> WordVectors:
        """Take a model's input embeddings: neighbours are its whole-word tokens, a word of several is their mean."""
        table = model.get_input_embeddings().weight.detach().float().cpu().numpy()
        whole = whole_words(tokenizer)
        real = [(text, number) for text, number in whole.items() if number < len(table) and table[number].any()]

        def compose(word: str) -> np.ndarray | None:
            pieces = list(tokenizer(word, add_special_tokens=False)["input_ids"])
            known = [number for number in pieces if number != tokenizer.unk_token_id]
            return table[known].mean(axis=0) if known and len(known) == len(pieces) else None

        return cls([text for text, _ in real], table[[number for _, number in real]], compose)

    def neighbours(self, words: Sequence[str], k: int) -> list[list[str]]:
        """The k nearest other words of each word, nearest first; none for a word without a vector.

        A word is looked up as it is written, then in lower case. Itself in any case is no neighbour.
        """
        found: list[list[str]] = [[] for _ in words]
        asked = [(place, vector) for place, word in enumerate(words) if (vector := self._vector(word)) is not None]
        for start in range(0, len(asked), _QUERIES_AT_ONCE):
            part = asked[start : start + _QUERIES_AT_ONCE]
            queries = np.stack([vector for _, vector in part])
            wanted = min(k + _SPARE, len(self.words))
            near = np.argpartition(-(queries @ self.unit.T), wanted - 1, axis=1)[:, :wanted]
            for (place, query), rows in zip(part, near, strict=True):
                rows = np.sort(rows)
                exact = (self.unit[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
                order = rows[np.argsort(-exact, kind="stable")]
                own = words[place].casefold()
                found[place] = [self.words[row] for row in order if self.words[row].casefold() != own][:k]
        return found

    def digest(self) -> str:
        """SHA-256 of the words and their vectors, in hexadecimal."""
        digest = hashlib.sha256(json.dumps([self.words, self._compose is not None]).encode())
        digest.update(np.ascontiguousarray(self.unit).tobytes())
        return digest.hexdigest()

    def _vector(self, word: str) -> np.ndarray | None:
        for written in (word, word.lower()):
            if written in self._number:
                return self.unit[self._number[written]]
        vector = self._compose(word) if self._compose is not None else None
        if vector is None or not np.any(vector):
            return None
        return _normalised(np.asarray(vector, dtype=np.float32)[None])[0]


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The tokens that are a word of letters by themselves, as they are written -> their ids.

    A token is one if the tokenizer, given its text after a space, gives it back: so continuation pieces, special
    tokens and pieces of bytes are out, whatever their marks are in this vocabulary.
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


def _read(path: Path, max_words: int) -> tuple[list[str], np.ndarray]:
    words: dict[str, np.ndarray] = {}
    broken = repeated = 0
    size = _size(path)
    for number, line in enumerate(_lines(path)):
        parts = line.split(" ")
        if number == 0 and len(parts) == 2 and all(part.isdigit() for part in parts):
            continue
        # GloVe's largest file has words with spaces in them.
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
        raise ValueError(f"No line of {path} is a word and its numbers, separated by spaces, as GloVe's lines are.")
    if broken or repeated:
        logger.warning(f"{path}: {broken} broken lines and {repeated} repeated words are left out.")
    return list(words), np.stack(list(words.values()))


def _size(path: Path) -> int:
    """Numbers in a line: what most of the first lines have."""
    counts = Counter(len(line.split(" ")) - 1 for line in islice(_lines(path), 100))
    return max(counts.most_common(1)[0][0] if counts else 1, 1)


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            yield line.rstrip()


def _numbers(parts: Sequence[str]) -> np.ndarray | None:
    try:
        vector = np.array(parts, dtype=np.float32)
    except ValueError:
        return None
    return vector if _usable(vector[None])[0] else None


def _usable(vectors: np.ndarray) -> np.ndarray:
    return np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _key(path: Path, max_words: int) -> str:
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps([_FORMAT, content, max_words]).encode()).hexdigest()
