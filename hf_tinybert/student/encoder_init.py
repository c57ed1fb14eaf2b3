"""Another encoder as the start of a student: read from a folder, and made to read the teacher's token ids."""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.models.loading import brings_tokenizer, check_folder, describe, load_tokenizer

logger = logging.get_logger(__name__)

#: Special tokens by role, in the order in which they are looked up.
_ROLES = (
    ("cls_token_id", "bos_token_id"),
    ("sep_token_id", "eos_token_id"),
    ("pad_token_id",),
    ("mask_token_id",),
    ("unk_token_id",),
)
#: Share of the teacher's tokens that the encoder must know.
_LEAST_SHARED = 0.5


def load_encoder(
    name: str | os.PathLike[str], teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, str]:
    """Load an encoder, and give it the teacher's vocabulary.

    A token of the teacher has the embedding of the encoder's token of the same name, or of the same role if it is a
    special one; a token that the encoder does not know has the mean of all embeddings.

    Args:
        name: folder or Hub id.
        teacher: whose token ids the encoder is to read.
        tokenizer: the teacher's; by default it is read from the teacher's folder.

    Returns:
        The encoder without a head, in float32 and eval mode, and what it is recorded as (see
        `models.loading.describe`).

    Raises:
        ValueError: the folder holds no model, or no tokenizer, or the teacher's tokenizer is not known, or too few of
            the teacher's tokens are known to the encoder.
    """
    check_folder(str(name), "start")
    try:
        encoder: PreTrainedModel = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
    except OSError as error:
        raise ValueError(
            f"init is 'teacher', 'random', or the folder or Hub id of an encoder; {str(name)!r} could not be loaded: "
            f"{error}"
        ) from None
    folder = getattr(teacher.config, "_name_or_path", "")
    if tokenizer is None and folder and brings_tokenizer(folder):
        tokenizer = load_tokenizer(folder, "teacher")
    if tokenizer is None:
        raise ValueError(
            f"The start {name} may have another vocabulary than the teacher: pass the teacher's tokenizer "
            "(create_student(..., tokenizer=...), or processing_class of DistillationTrainer)."
        )
    own = load_tokenizer(name, "start")
    if own.get_vocab() == tokenizer.get_vocab():
        return encoder, describe(encoder)
    indices = _matched(own, tokenizer, teacher.config.vocab_size)
    known = int((indices >= 0).sum()) / max(len(tokenizer), 1)
    if known < _LEAST_SHARED:
        raise ValueError(
            f"The start {name} knows {known:.0%} of the teacher's tokens: its tokenizer cuts texts in another way. "
            "Take an encoder with the teacher's kind of vocabulary, or student_init='teacher'."
        )
    logger.info(f"The start {name} knows {known:.1%} of the teacher's tokens.")
    return _with_rows(encoder, indices), describe(encoder)


def _matched(own: PreTrainedTokenizerBase, teachers: PreTrainedTokenizerBase, size: int) -> Tensor:
    """The encoder's id of each of the teacher's `size` ids, -1 where it has none."""
    indices = torch.full((size,), -1)
    vocabulary = own.get_vocab()
    for token, index in teachers.get_vocab().items():
        if token in vocabulary and index < size:
            indices[index] = vocabulary[token]
    for names in _ROLES:
        pair = [_first_id(tokenizer, names) for tokenizer in (own, teachers)]
        if pair[0] is not None and pair[1] is not None and pair[1] < size:
            indices[pair[1]] = pair[0]
    return indices


def _first_id(tokenizer: PreTrainedTokenizerBase, names: tuple[str, ...]) -> int | None:
    return next((index for name in names if (index := getattr(tokenizer, name, None)) is not None), None)


def _with_rows(encoder: PreTrainedModel, indices: Tensor) -> PreTrainedModel:
    """A copy whose word table has the rows of these indices; for -1 the mean of all."""
    table = encoder.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    rows = table.weight.detach()[indices.clamp(min=0)]
    rows[indices < 0] = table.weight.detach().mean(dim=0)
    changed = copy.deepcopy(encoder)
    changed.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
    changed.config.vocab_size = len(indices)
    return changed
