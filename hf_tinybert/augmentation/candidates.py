"""Replacement candidates of every word: from a masked language model, or neighbours among word vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation.masked_lm import MaskedCandidates, Place
from hf_tinybert.augmentation.word_vectors import WordVectors
from hf_tinybert.augmentation.words import Word, in_the_case_of, replaceable, words_of, words_of_tokens
from hf_tinybert.utils.hashing import json_digest, weights_digest

#: A text, or a sentence that is already split into words (token-level tasks).
Text = str | Sequence[str]
#: Raise it when the meaning of stored candidates changes.
_FORMAT = 2


@dataclass
class Candidates:
    """Replacement candidates for the words of a text.

    Attributes:
        words: index of a word -> its candidates, in the case of that word.
        of_model: indices of the words whose candidates come from the masked language model.
    """

    words: dict[int, tuple[str, ...]] = field(default_factory=dict)
    of_model: set[int] = field(default_factory=set)

    def to_json(self) -> str:
        """As JSON, to be stored in a column."""
        return json.dumps([list(self.words.items()), sorted(self.of_model)], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Candidates:
        """Read the output of `to_json`."""
        words, of_model = json.loads(text)
        return cls({number: tuple(candidates) for number, candidates in words}, set(of_model))


def parse(text: Text) -> tuple[str, list[Word]]:
    """A text as a string, and its words; a sentence that is already split has one word for each token."""
    return (text, words_of(text)) if isinstance(text, str) else words_of_tokens(text)


class CandidateFinder:
    """Finds the candidates of many texts at once.

    Args:
        masked_lm: a masked language model, or None.
        tokenizer: its tokenizer.
        word_vectors: for words of several tokens; without a model, for all words.
        k: candidates of a word.
        stop_words: words that are not replaced, in lower case.
        second_segment: the original text is appended to the masked one as second segment.
        batch_size: masks in one forward pass.
    """

    def __init__(
        self,
        masked_lm: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        word_vectors: WordVectors,
        k: int,
        stop_words: frozenset[str],
        second_segment: bool,
        batch_size: int,
    ) -> None:
        """Keep them."""
        self._model: MaskedCandidates | None = None
        if masked_lm is not None:
            assert tokenizer is not None
            self._model = MaskedCandidates(masked_lm, tokenizer, k, second_segment, batch_size)
        self._vectors, self._k, self._stop_words = word_vectors, k, stop_words

    def find(self, texts: Sequence[Text]) -> list[Candidates]:
        """The candidates of every text."""
        wanted: list[tuple[int, int, Place]] = []
        for row, text in enumerate(texts):
            written, words = parse(text)
            places = ((number, Place(written, word)) for number, word in enumerate(words))
            wanted += [(row, number, p) for number, p in places if replaceable(p.word, self._stop_words)]
        predicted: dict[Place, tuple[str, ...]] = {}
        unseen: set[Place] = set()
        if self._model is not None:
            found = self._model.find(place for _, _, place in wanted)
            predicted, unseen = found.candidates, found.unseen
        others = [place.word.text for _, _, place in wanted if place not in predicted and place not in unseen]
        others = list(dict.fromkeys(others))
        neighbours = dict(zip(others, self._vectors.neighbours(others, self._k), strict=True))
        results = [Candidates() for _ in texts]
        for row, number, place in wanted:
            word, result = place.word.text, results[row]
            candidates = predicted.get(place) or neighbours.get(word, ())
            if not candidates:
                continue
            result.words[number] = tuple(in_the_case_of(word, candidate) for candidate in candidates)
            if place in predicted:
                result.of_model.add(number)
        return results

    def key(self) -> str:
        """A digest of all that determines the candidates."""
        model = self._model
        parts = {
            "format": _FORMAT,
            "k": self._k,
            "stop_words": sorted(self._stop_words),
            "vectors": self._vectors.digest(),
            "model": None if model is None else weights_digest(model.model),
            "tokenizer": None if model is None else model.tokenizer.backend_tokenizer.to_str(),
            "second_segment": None if model is None else model.second_segment,
        }
        return json_digest(parts)
