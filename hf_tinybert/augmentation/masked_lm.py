"""Replacement candidates of a masked language model, for many words in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.augmentation.word_vectors import whole_words
from hf_tinybert.augmentation.words import Word
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import freeze

#: The order of two logits that differ by less may depend on the batch, which changes logits by about 1e-5.
_NEAR = 1e-3


@dataclass(frozen=True)
class Place:
    """A word in a text that may be replaced."""

    text: str
    word: Word


@dataclass
class _Tokens:
    """An encoded text, with the original as second segment or without."""

    ids: list[int]
    types: list[int] | None


@dataclass
class Found:
    """The model's candidates for some places.

    Attributes:
        candidates: of words that are one token, ordered by token id.
        several: words of several tokens, or of the unknown token.
        unseen: words beyond the model's maximum length.
    """

    candidates: dict[Place, tuple[str, ...]] = field(default_factory=dict)
    several: set[Place] = field(default_factory=set)
    unseen: set[Place] = field(default_factory=set)


class MaskedCandidates:
    """The k most likely whole words at masked places.

    Candidates do not depend on the rest of a batch: where the k-th and the next logit nearly tie, the place is
    computed again on its own.

    Args:
        model: a masked language model.
        tokenizer: its tokenizer, a fast one.
        k: candidates of a place.
        second_segment: the original text is appended as second segment, as in the paper's code.
        batch_size: masks in one forward pass.

    Raises:
        ValueError: the tokenizer has no mask token or no character offsets, or the model has no head.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        k: int = 15,
        second_segment: bool = True,
        batch_size: int = 64,
    ) -> None:
        """Find the model's whole words."""
        if not tokenizer.is_fast or tokenizer.mask_token_id is None:
            raise ValueError(
                f"The tokenizer {type(tokenizer).__name__} must be a fast one with a mask token, to know which token "
                "belongs to which word: use that of the masked language model, loaded by AutoTokenizer."
            )
        self._head = model.get_output_embeddings()
        if self._head is None:
            raise ValueError(
                f"{type(model).__name__} has no masked language modelling head: load it by AutoModelForMaskedLM."
            )
        self.model, self.tokenizer = freeze(model), tokenizer
        self.k, self.second_segment, self.batch_size = k, second_segment, batch_size
        # A tokenizer without a limit has one of 10^30.
        self._longest = Encoder.from_model(model).at_most(min(tokenizer.model_max_length, 10**6))
        by_id = sorted((number, text) for text, number in whole_words(tokenizer).items())
        self._texts = [text for _, text in by_id]
        self._whole = torch.tensor([number for number, _ in by_id], device=model.device)

    def find(self, places: Iterable[Place]) -> Found:
        """Candidates of many places; each distinct one is computed once."""
        distinct = list(dict.fromkeys(places))
        found = Found()
        texts = {text: number for number, text in enumerate(dict.fromkeys(place.text for place in distinct))}
        masks = self._masks(distinct, texts, found)
        masks.sort(key=lambda mask: len(mask[1].ids), reverse=True)
        for start in range(0, len(masks), self.batch_size):
            batch = masks[start : start + self.batch_size]
            values, order = self._ranked([mask[1:] for mask in batch])
            ties = values[:, -2] - values[:, -1] < _NEAR if values.shape[1] > self.k else [False] * len(batch)
            for row, mask in enumerate(batch):
                best = order[row]
                if ties[row] and len(batch) > 1:
                    best = self._ranked([mask[1:]])[1][0]
                found.candidates[mask[0]] = tuple(self._texts[n] for n in sorted(best[: self.k].tolist()))
        return found

    def _masks(self, places: Sequence[Place], texts: dict[str, int], found: Found) -> list[tuple[Place, _Tokens, int]]:
        """The places that are one token, each with the tokens of its text and the position of its token."""
        if not texts:
            return []
        written = list(texts)
        encoded = self.tokenizer(
            written,
            written if self.second_segment else None,
            truncation="longest_first" if self.second_segment else True,
            max_length=self._longest,
        )
        masks = []
        for place in places:
            number, word = texts[place.text], place.word
            first, last = (encoded.char_to_token(number, c, 0) for c in (word.start, word.end - 1))
            ids = encoded["input_ids"][number]
            if last is None:
                found.unseen.add(place)
            elif first != last or ids[first] == self.tokenizer.unk_token_id:
                found.several.add(place)
            else:
                types = encoded["token_type_ids"][number] if "token_type_ids" in encoded else None
                masks.append((place, _Tokens(ids, types), first))
        return masks

    @torch.inference_mode()
    def _ranked(self, masks: Sequence[tuple[_Tokens, int]]) -> tuple[Tensor, Tensor]:
        """The logits of the best k + 1 whole words at every mask, and their indices, `[masks, k + 1]`."""
        width, pad = max(len(tokens.ids) for tokens, _ in masks), self.tokenizer.pad_token_id or 0
        inputs = {
            "input_ids": _padded([tokens.ids for tokens, _ in masks], width, pad),
            "attention_mask": _padded([[1] * len(tokens.ids) for tokens, _ in masks], width, 0),
        }
        types = [tokens.types for tokens, _ in masks if tokens.types is not None]
        if types:
            inputs["token_type_ids"] = _padded(types, width, 0)
        rows, positions = torch.arange(len(masks)), torch.tensor([position for _, position in masks])
        inputs["input_ids"][rows, positions] = self.tokenizer.mask_token_id
        device = self.model.device
        handle = self._head.register_forward_pre_hook(_at(rows.to(device), positions.to(device)))
        try:
            logits = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
        finally:
            handle.remove()
        best = logits[:, 0].index_select(1, self._whole).float().topk(min(self.k + 1, len(self._texts)))
        return best.values.cpu(), best.indices.cpu()


def _at(rows: Tensor, positions: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A hook that passes one position of each row to the head, so that no other logits are computed."""

    def gather(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows, positions].unsqueeze(1), *args[1:])

    return gather


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
