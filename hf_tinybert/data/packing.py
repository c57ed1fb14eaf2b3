"""Plain text, packed into sequences of full length: the data of general distillation."""

from __future__ import annotations

import json
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from hf_tinybert.utils.hashing import json_digest
from hf_tinybert.utils.types import Columns

DOCUMENTS = ("row", "blank")
#: Raise it when the meaning of kept sequences changes.
_FORMAT = 1
COLUMN = "input_ids"


class Packer:
    """Makes sequences of tokens from rows of text; a batched function for `datasets.Dataset.map`.

    The tokens of a document follow each other through its sequences, each of which is `max_length` long with the
    special tokens around it; the last is as long as what is left. No sequence holds two documents.

    Args:
        tokenizer: the teacher's.
        max_length: of a sequence in tokens, special ones included.
        column: of the text.
        documents: `"row"`: each row is a document. `"blank"`: a document ends where a row is empty (or the batch
            ends), as in files of one sentence a line.

    Raises:
        ValueError: no text fits beside the special tokens, or `documents` is unknown.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, column: str = "text", documents: str = "row"
    ) -> None:
        """Find the special tokens that the tokenizer puts around a text."""
        if documents not in DOCUMENTS:
            raise ValueError(f"documents must be one of {', '.join(DOCUMENTS)}, got {documents!r}.")
        self._tokenizer, self.column, self._documents = tokenizer, column, documents
        bare, whole = (list(tokenizer("a", add_special_tokens=special)[COLUMN]) for special in (False, True))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self._before, self._after = whole[:start], whole[start + len(bare) :]
        self._max_length, self._room = max_length, max_length - len(self._before) - len(self._after)
        if self._room < 1:
            raise ValueError(
                f"max_length must be more than a sequence's {len(whole) - len(bare)} special tokens, got {max_length}."
            )

    def __call__(self, batch: Columns) -> dict[str, list[list[int]]]:
        """The sequences of a batch of rows, as `input_ids`."""
        sequences = []
        for tokens in self._token_documents([str(text or "") for text in batch[self.column]]):
            for start in range(0, len(tokens), self._room):
                sequences.append([*self._before, *tokens[start : start + self._room], *self._after])
        return {COLUMN: sequences}

    def key(self) -> str:
        """64 hexadecimal digits that change with everything that changes the sequences of a text."""
        parts = [_FORMAT, _definition(self._tokenizer), self._max_length, self.column, self._documents]
        return json_digest(parts)

    def _token_documents(self, texts: list[str]) -> Iterator[list[int]]:
        # Longer than the model takes is what a document may be: no warning about it.
        rows = self._tokenizer(texts, add_special_tokens=False, verbose=False)[COLUMN] if texts else []
        document: list[int] = []
        for text, tokens in zip(texts, rows, strict=True):
            if self._documents == "row" or not text.strip():
                if document:
                    yield document
                document = []
            document += tokens
        if document:
            yield document


def _definition(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything that decides how a tokenizer splits text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
