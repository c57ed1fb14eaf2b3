"""A student's embedding tables from a teacher's.

A BERT adds rows of its word, position and token type tables and normalises the sum. Where the teacher does the same,
its rows are projected to the student's space. Where it maps the normalised sum to another width (ALBERT, small
ELECTRA), the tables are fitted to what its embedding block returns for every token at many positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture
from hf_tinybert.student.layer_init import StudentSpace, input_of
from hf_tinybert.student.linear_fit import fit_layer_norm
from hf_tinybert.student.teacher_trace import TeacherTrace

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertEmbeddings

#: How often each token is looked at, and how far sums of a teacher's tables may be from what its block returns.
_LOOKS, _TOLERANCE = 4, 1e-4
#: Alternating means of the fit.
_ROUNDS = 5


def init_embeddings(student: BertEmbeddings, trace: TeacherTrace, space: StudentSpace) -> list[Tensor]:
    """Set a student's embedding block.

    Args:
        student: is changed.
        trace: of the teacher.
        space: of the student.

    Returns:
        What the student's block returns, `[B, S, d']` of each chunk.

    Raises:
        ValueError: the student has more positions than the teacher's table.
    """
    texts, tables = trace.texts, _Tables.from_model(trace.teacher)
    if tables is not None and tables.explain(trace):
        if tables.positions is not None and student.position_embeddings.num_embeddings > len(tables.positions):
            raise ValueError(
                f"init='teacher': the student has {student.position_embeddings.num_embeddings} positions, more than "
                f"the teacher's {len(tables.positions)}."
            )
        _write(student.word_embeddings, space(tables.words))
        for table, rows in (
            (student.position_embeddings, tables.positions),
            (student.token_type_embeddings, tables.token_types),
        ):
            _write(table, None if rows is None else space(rows))
        if space.is_whole and not trace.parts.pre_norm:
            student.LayerNorm.load_state_dict(tables.norm.state_dict())
            return [student(**_inputs(chunk)) for chunk in texts.chunks]
    else:
        _fit_tables(student, trace, space)
    sums = [input_of(student.LayerNorm, student, **_inputs(chunk)) for chunk in texts.chunks]
    fit_layer_norm(student.LayerNorm, texts.pack(sums), space(trace.states[0]))
    return [student.LayerNorm(each) for each in sums]


@dataclass(frozen=True)
class _Tables:
    """A teacher's tables, of which it normalises the sum.

    Attributes:
        words: `[V, d]`.
        positions: `[P, d]` from the first position on (RoBERTa's and MPNet's follow the padding id), or None.
        token_types: `[T, d]`, or None.
        norm: the LayerNorm of the sum.
        skips_padding: padding has no position of its own.
    """

    words: Tensor
    positions: Tensor | None
    token_types: Tensor | None
    norm: nn.LayerNorm
    skips_padding: bool = False

    @classmethod
    def from_model(cls, teacher: PreTrainedModel) -> _Tables | None:
        """The tables of an embedding block; None where they are not as wide as the layers."""
        encoder = Encoder.from_model(teacher)
        words = teacher.base_model.get_input_embeddings()
        norms = (
            []
            if encoder.embeddings is None
            else [m for m in encoder.embeddings.modules() if isinstance(m, nn.LayerNorm)]
        )
        if not isinstance(words, nn.Embedding) or words.embedding_dim != encoder.hidden_size or len(norms) != 1:
            return None
        positions = getattr(encoder.embeddings, "position_embeddings", None)
        token_types = getattr(encoder.embeddings, "token_type_embeddings", None)
        skips_padding = positions is not None and positions.padding_idx is not None
        if positions is not None:
            positions = positions.weight[0 if positions.padding_idx is None else positions.padding_idx + 1 :]
        return cls(
            words.weight, positions, None if token_types is None else token_types.weight, norms[0], skips_padding
        )

    def explain(self, trace: TeacherTrace) -> bool:
        """Whether the normalised sum of the tables' rows is what the teacher's embedding block returns."""
        chunk, mask = trace.texts.chunks[0], trace.texts.masks[0]
        total = F.embedding(chunk["input_ids"], self.words)
        if self.positions is not None:
            places = (
                (chunk["attention_mask"].cumsum(dim=1) - 1).clamp(min=0) if self.skips_padding else _positions(chunk)
            )
            total = total + F.embedding(places, self.positions)
        if self.token_types is not None:
            types = chunk.get("token_type_ids", torch.zeros_like(chunk["input_ids"]))
            total = total + F.embedding(types, self.token_types)
        known = self.norm(total)[mask]
        return torch.allclose(known, trace.hidden[0][: len(known)], rtol=0, atol=_TOLERANCE)


def _positions(chunk: Mapping[str, Tensor]) -> Tensor:
    """The positions of tokens as a BERT counts them, `[1, S]`."""
    return torch.arange(chunk["input_ids"].shape[1], device=chunk["input_ids"].device).unsqueeze(0)


def _write(table: nn.Embedding, rows: Tensor | None) -> None:
    """Copy rows into a table as far as it reaches; without rows, it is set to 0."""
    if rows is None:
        table.weight.zero_()
        return
    count = min(table.num_embeddings, len(rows))
    table.weight[:count] = rows[:count]


def _inputs(chunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: chunk[name] for name in ("input_ids", "token_type_ids") if name in chunk}


def _fit_tables(student: BertEmbeddings, trace: TeacherTrace, space: StudentSpace) -> None:
    """Rows whose sums are closest to what the teacher's embedding block returns.

    Every token is looked at several times at different positions, and the rows of both tables are alternating means.
    """
    words, positions = student.word_embeddings, student.position_embeddings
    length = min(positions.num_embeddings, trace.encoder.max_length or positions.num_embeddings)
    generator = torch.Generator().manual_seed(0)
    looks = torch.cat([torch.randperm(words.num_embeddings, generator=generator) for _ in range(_LOOKS)])
    looks = torch.cat([looks, looks[: -len(looks) % length]]).view(-1, length).to(words.weight.device)
    wanted = torch.cat([space(_block(trace, {"input_ids": rows})) for rows in looks.split(8)])
    tokens, places = looks.flatten(), _positions({"input_ids": looks}).expand_as(looks).flatten()
    wanted = wanted.flatten(0, 1)
    positions.weight.zero_()
    student.token_type_embeddings.weight.zero_()
    for _ in range(_ROUNDS):
        _write(words, _means(wanted - positions.weight[places], tokens, words.num_embeddings))
        rest = _means(wanted - words.weight[tokens], places, positions.num_embeddings)
        _write(positions, rest - rest.mean(dim=0))
    kinds = min(student.token_type_embeddings.num_embeddings, getattr(trace.teacher.config, "type_vocab_size", 0))
    rows = looks[:8]
    first = _block(trace, {"input_ids": rows})
    for kind in range(1, kinds):
        given = _block(trace, {"input_ids": rows, "token_type_ids": torch.full_like(rows, kind)})
        student.token_type_embeddings.weight[kind] = space((given - first).flatten(0, 1)).mean(dim=0)


def _block(trace: TeacherTrace, inputs: dict[str, Tensor]) -> Tensor:
    """What a teacher's embedding block returns, `[B, S, d]`."""
    capture = FeatureCapture(trace.encoder, (0,), ())
    try:
        with capture.recording(stop=True) as features:
            trace.teacher.base_model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), **PLAIN_OUTPUT)
        return features.hidden[0].float()
    finally:
        capture.remove()


def _means(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """The mean of the values of each group, `[count, d]`; 0 for a group without any."""
    sums = values.new_zeros(count, values.shape[1]).index_add_(0, groups, values)
    sizes = torch.bincount(groups, minlength=count).clamp(min=1)
    return sums / sizes.unsqueeze(1)
