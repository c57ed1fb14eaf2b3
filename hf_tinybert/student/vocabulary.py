"""Smaller vocabularies: the tokens that a corpus needs, and a student with an embedding for each of these.

A student of a multilingual teacher consists mostly of embeddings: 250,000 tokens of width 312 are 78 million numbers.
Removing the tokens that a corpus never uses does not change how it is encoded:

- WordPiece takes the longest token that fits. Removing unused tokens leaves the longest one the same.
- BPE applies merges. All merges that lead to a kept token are kept.
- Unigram takes the most probable sequence. It remains the most probable one among fewer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 1000
_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
#: A part of a tokenizer's state, as JSON.
_Json: TypeAlias = dict[str, Any]


def trim_vocabulary(
    tokenizer: PreTrainedTokenizerBase, student: PreTrainedModel, texts: Iterable[str]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Copies of a tokenizer and a student that are reduced to the tokens which a corpus needs.

    Special and added tokens and all tokens of one character (or byte) are kept, so that any other text can still be
    encoded, with more tokens. The arguments are not modified.

    Args:
        tokenizer: a fast WordPiece, BPE or Unigram tokenizer.
        student: a model whose input ids are the tokenizer's.
        texts: the corpus. It is read twice, so a generator is refused.

    Raises:
        ValueError: the tokenizer is of another type, the texts can be read only once, the model has fewer embeddings
            than the tokenizer tokens, or a text would be encoded differently than before.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"trim_vocabulary needs a fast tokenizer, got {type(tokenizer).__name__}.")
    if isinstance(texts, Iterator):
        raise ValueError("trim_vocabulary reads the texts twice: pass a list or a column of a data set, no generator.")
    table = student.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    if len(tokenizer) > table.num_embeddings:
        raise ValueError(f"The tokenizer has {len(tokenizer)} tokens and the model {table.num_embeddings} embeddings.")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    algorithm = state["model"]["type"]
    if algorithm not in _REQUIRED:
        raise ValueError(f"trim_vocabulary supports {', '.join(_REQUIRED)} tokenizers, got {algorithm}.")
    used: set[int] = set()
    for batch in _batches(texts):
        for ids in tokenizer(batch, add_special_tokens=True)["input_ids"]:
            used.update(ids)
    added = {token["id"] for token in state["added_tokens"]}
    kept = sorted(used | added | _REQUIRED[algorithm](state["model"], used) | set(tokenizer.all_special_ids))
    new_ids = {old: new for new, old in enumerate(kept)}
    small = _with_state(tokenizer, _trimmed(state, new_ids))
    for batch in _batches(texts):
        old, new = (encode(batch, add_special_tokens=True)["input_ids"] for encode in (tokenizer, small))
        for text, before, after in zip(batch, old, new, strict=True):
            if [new_ids[token] for token in before] != after:
                raise ValueError(f"The text {text[:80]!r} would be encoded differently with a smaller vocabulary.")
    return small, _with_rows(student, table.num_embeddings, torch.tensor(kept), new_ids)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


# The tokens that an algorithm needs beside those that were used.


def _of_word_piece(model: _Json, used: set[int]) -> set[int]:
    prefix = model["continuing_subword_prefix"]
    return {index for token, index in model["vocab"].items() if len(token.removeprefix(prefix)) == 1} | {
        model["vocab"][model["unk_token"]]
    }


def _of_bpe(model: _Json, used: set[int]) -> set[int]:
    vocabulary: dict[str, int] = model["vocab"]
    merged_from: dict[str, list[tuple[str, str]]] = {}
    for left, right in map(_pair, model["merges"]):
        merged_from.setdefault(left + right, []).append((left, right))
    names = {index: token for token, index in vocabulary.items()}
    waiting, needed = [names[index] for index in used if index in names], set()
    while waiting:
        token = waiting.pop()
        if token not in needed:
            needed.add(token)
            waiting += [part for pair in merged_from.get(token, ()) for part in pair]
    return {vocabulary[token] for token in needed if token in vocabulary} | {
        index for token, index in vocabulary.items() if len(token) == 1 or _is_byte(token)
    }


def _of_unigram(model: _Json, used: set[int]) -> set[int]:
    short = {index for index, (token, _) in enumerate(model["vocab"]) if len(token) == 1 or _is_byte(token)}
    return short | {model["unk_id"]}


_REQUIRED = {"WordPiece": _of_word_piece, "BPE": _of_bpe, "Unigram": _of_unigram}


def _is_byte(token: str) -> bool:
    """Whether a token is a byte of an unknown character, such as <0x0A>."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge, stored as a pair or, by older tokenizers, as one text."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


# The smaller tokenizer


def _trimmed(state: _Json, new_ids: dict[int, int]) -> _Json:
    """The tokenizer's state with the kept tokens and their new ids."""
    state = copy.deepcopy(state)
    model = state["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [piece for index, piece in enumerate(model["vocab"]) if index in new_ids]
        model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {token: new_ids[index] for token, index in model["vocab"].items() if index in new_ids}
    if model["type"] == "BPE":
        kept = model["vocab"]
        model["merges"] = [merge for merge in model["merges"] if {*_pair(merge), "".join(_pair(merge))} <= kept.keys()]
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    if state.get("padding"):
        state["padding"]["pad_id"] = new_ids[state["padding"]["pad_id"]]
    if state.get("post_processor"):
        _renumber(state["post_processor"], new_ids)
    return state


def _renumber(processor: _Json, new_ids: dict[int, int]) -> None:
    """Replace the ids of special tokens in a post-processor."""
    for part in processor.get("processors", ()):
        _renumber(part, new_ids)
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            token, index = processor[name]
            processor[name] = [token, new_ids[index]]
    if isinstance(processor.get("special_tokens"), dict):
        for token in processor["special_tokens"].values():
            token["ids"] = [new_ids[index] for index in token["ids"]]


def _with_state(tokenizer: PreTrainedTokenizerBase, state: _Json) -> PreTrainedTokenizerBase:
    small = copy.deepcopy(tokenizer)
    small._tokenizer = Tokenizer.from_str(json.dumps(state))
    # The files of the slow tokenizer still hold the old vocabulary.
    if getattr(small, "vocab_file", None) is not None:
        small.vocab_file = None
    small.init_kwargs.pop("vocab_file", None)
    return small


# The smaller student


def _with_rows(
    student: PreTrainedModel, old_size: int, kept: torch.Tensor, new_ids: dict[int, int]
) -> PreTrainedModel:
    """A copy of the model with the kept rows of every tensor that has one row for each token."""
    config = copy.deepcopy(student.config)
    config.vocab_size = len(kept)
    for name in _SPECIAL_IDS:
        index = getattr(config, name, None)
        if isinstance(index, int):
            setattr(config, name, new_ids.get(index, index if index < len(kept) else None))
    small = type(student)(config)
    state = {}
    target = small.state_dict()
    for name, value in student.state_dict().items():
        if name in target and value.shape != target[name].shape and value.shape[0] == old_size:
            value = value[kept.to(value.device)]
        state[name] = value
    small.load_state_dict(state)
    return small.to(student.device, student.dtype).train(student.training)
