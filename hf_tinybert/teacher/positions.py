"""Which position of the teacher's tokens belongs to each of the student's, where two tokenizers cut texts alike.

Two vocabularies can hold the same word pieces under other ids, and two tokenizers can put other special tokens around
the same pieces (BERT's and MPNet's: one separator between a pair of texts, or two). Layers are then compared position
by position through a map. The special tokens of a run belong to those of the same run, in order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_tinybert.models.features import Features
from hf_tinybert.utils.types import Example

#: Column of a batch: `[B, S]`, the teacher's position for each of the student's.
COLUMN = "teacher_positions"


def boundary_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of the special tokens that stand around texts."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
    return frozenset(index for name in names if (index := getattr(tokenizer, name, None)) is not None)


def position_map(
    student: Sequence[int], teacher: Sequence[int], boundaries: tuple[Collection[int], Collection[int]]
) -> list[int]:
    """The teacher's position for each of the student's.

    Args:
        student: token ids of a row, without padding.
        teacher: the same text's.
        boundaries: the ids of special tokens of both (see `boundary_ids`).

    Raises:
        ValueError: the two rows have other numbers of tokens between their special ones.
    """
    runs = [_runs(ids, special) for ids, special in zip((student, teacher), boundaries, strict=True)]
    fits = [is_special or len(places) == len(others) for (is_special, places), (_, others) in zip(*runs, strict=False)]
    kinds = [[is_special for is_special, _ in each] for each in runs]
    if kinds[0] != kinds[1] or not all(fits):
        raise ValueError(
            f"Teacher and student cut a text into other tokens ({len(teacher)} and {len(student)}), so their layers "
            "have no positions in common: use phases='prediction', which compares sequence-level outputs."
        )
    found: list[int] = []
    for (_, places), (_, others) in zip(*runs, strict=True):
        found += [others[min(offset, len(others) - 1)] for offset in range(len(places))]
    return found


def padded_maps(
    examples: Sequence[Example],
    batch: Mapping[str, Tensor],
    teacher_ids: str,
    boundaries: tuple[Collection[int], Collection[int]],
) -> Tensor:
    """The maps of a batch, `[B, S]`; 0 at padding.

    Args:
        examples: rows with the token ids of both.
        batch: the same rows, padded on either side, with the masks of both.
        teacher_ids: column of the teacher's ids.
        boundaries: as in `position_map`.

    Raises:
        ValueError: as in `position_map`.
    """
    found = torch.zeros_like(batch["input_ids"])
    masks = [_mask(batch, name) for name in ("input_ids", teacher_ids)]
    for row, example in enumerate(examples):
        places, teacher_places = (mask[row].nonzero().squeeze(1) for mask in masks)
        mapped = position_map(_ids(example["input_ids"]), _ids(example[teacher_ids]), boundaries)
        found[row, places] = teacher_places[torch.tensor(mapped, dtype=torch.long)]
    return found


def _ids(values: object) -> list[int]:
    return torch.as_tensor(values).tolist()


def _mask(batch: Mapping[str, Tensor], ids: str) -> Tensor:
    """The mask that belongs to a column of token ids."""
    return batch[ids.replace("input_ids", "attention_mask")].bool()


def _runs(ids: Sequence[int], special: Collection[int]) -> list[tuple[bool, list[int]]]:
    """The positions of runs of special tokens and of other tokens, in turns."""
    runs: list[tuple[bool, list[int]]] = []
    for position, index in enumerate(ids):
        is_special = index in special
        if not runs or runs[-1][0] != is_special:
            runs.append((is_special, []))
        runs[-1][1].append(position)
    return runs


def at_student_positions(features: Features, positions: Tensor | None) -> Features:
    """The teacher's features at the student's positions.

    Args:
        features: of the teacher's tokens.
        positions: `[B, S]`, or None where both models read the same tokens.
    """
    if positions is None:
        return features
    rows = torch.arange(len(positions), device=positions.device).unsqueeze(1)
    stores = (features.hidden, features.queries, features.keys, features.values)
    hidden, queries, keys, values = ({layer: x[rows, positions] for layer, x in store.items()} for store in stores)
    pairs = rows.unsqueeze(2), positions.unsqueeze(2), positions.unsqueeze(1)
    bias = {layer: x.movedim(1, -1)[pairs].movedim(-1, 1) for layer, x in features.bias.items()}
    logits = features.logits
    if logits is not None and logits.dim() == 3:
        logits = logits[rows, positions]
    return Features(logits, hidden, queries, keys, values, bias)
