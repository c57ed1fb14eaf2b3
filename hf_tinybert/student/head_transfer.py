"""The student's head from the teacher's, by what the teacher's computes, whatever its parts are called.

The linear layers that the teacher calls behind its last layer are watched. Where they are those of a BERT, the
student's are the same maps: a tanh of a linear layer of the first token and a linear layer (BERT, RoBERTa, XLM-R,
CamemBERT, MPNet, ALBERT), one linear layer for each token, or a masked language model's transform. Otherwise, and in a
narrower space, the student's head is fitted to the teacher's logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import PLAIN_OUTPUT, accepted_inputs, states_of
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import auto_class
from hf_tinybert.models.output_types import OF_ROWS, VECTORS, logits_of, output_type
from hf_tinybert.student.layer_init import StudentSpace, strongest
from hf_tinybert.student.linear_fit import Affine, fit_layer_norm, refit_validated, shift_of
from hf_tinybert.student.teacher_trace import TeacherTrace

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

logger = logging.get_logger(__name__)

#: Positions to which a masked language model's head is fitted, and numbers in the logits of one forward pass, at most.
_POSITIONS, _LOGITS = 4096, 2**28
#: How far two computations of the same numbers may be apart.
_TOLERANCE = 1e-4
#: Standard deviations by which a transform's neurons are shifted to where its activation is nearly the identity.
_SHIFT = 6.0


@dataclass
class _Linear:
    """A linear layer behind the teacher's last layer.

    Attributes:
        module: the layer.
        read: its inputs, `[n, in]`.
        returned: its outputs, `[n, out]`.
    """

    module: nn.Linear
    read: Tensor
    returned: Tensor

    @property
    def affine(self) -> Affine:
        """Its map."""
        return Affine.from_linear(self.module)


@dataclass(frozen=True)
class _HeadTrace:
    """What the teacher's head computes, at rows or positions that are the same for all tensors.

    Attributes:
        states: of the last layer, `[n, d]`; of sequence-level tasks those of the first token.
        linears: in the order of their calls.
        norms: the LayerNorms outside of the layers and the embedding block.
        logits: `[n, C]`; empty of a masked language model, whose logits are a vocabulary wide.
    """

    states: Tensor
    linears: tuple[_Linear, ...]
    norms: tuple[nn.LayerNorm, ...]
    logits: Tensor


def transfer_head(
    student: PreTrainedModel, trace: TeacherTrace, states: Sequence[Tensor], space: StudentSpace | None
) -> None:
    """Set a student's head, and its pooler.

    Args:
        student: a BERT whose layers are set.
        trace: of a teacher of the same task.
        states: what the student's last layer returns, `[B, S, d']` of each chunk.
        space: of the student in the teacher's, or None for a student of other layers than the teacher's.
    """
    teacher, picker = trace.teacher, _Picker(trace)
    head = _watch(trace, picker)
    inputs = picker.pick(states)
    if space is None:
        space = StudentSpace.from_pair(inputs, head.states)
    if picker.kind == VECTORS:
        _set_pooler(student, head, space)
    elif picker.of_rows:
        _set_pooled_head(student, teacher, head, inputs, space)
    elif picker.is_masked_lm:
        _set_masked_lm_head(student, head, inputs, space)
    else:
        _set_token_head(student, teacher, head, inputs, space)


class _Picker:
    """Picks the rows or positions of the fit: first tokens, or real tokens, at most so many of a masked LM."""

    def __init__(self, trace: TeacherTrace) -> None:
        teacher = trace.teacher
        self.kind = output_type(teacher)
        self.of_rows = self.kind in OF_ROWS
        self._masks = trace.texts.masks
        real = sum(int(mask.sum()) for mask in self._masks)
        self.is_masked_lm = auto_class(teacher).__name__ == "AutoModelForMaskedLM"
        if self.is_masked_lm and real > _POSITIONS:
            generator = torch.Generator().manual_seed(0)
            self._masks = [
                mask & (torch.rand(mask.shape, generator=generator) < _POSITIONS / real).to(mask.device)
                for mask in self._masks
            ]

    def pick_of_chunk(self, value: Tensor, number: int, rows: slice = slice(None)) -> Tensor:
        """`[B, S, ...]` of some rows of a chunk to `[n, ...]`; what has no positions stays as it is."""
        if self.of_rows:
            return value[:, 0] if value.dim() == 3 else value
        return value[self._masks[number][rows]]

    def pick(self, values: Sequence[Tensor]) -> Tensor:
        """`[n, ...]` of all chunks."""
        return torch.cat([self.pick_of_chunk(value, number) for number, value in enumerate(values)])


def _watch(trace: TeacherTrace, picker: _Picker) -> _HeadTrace:
    """Run the teacher, and note what its linear layers behind the last layer read and return."""
    teacher = trace.teacher
    seen: dict[nn.Linear, tuple[list[Tensor], list[Tensor]]] = {}
    states: list[Tensor] = []
    logits: list[Tensor] = []
    size = teacher.config.vocab_size if picker.is_masked_lm else 1
    for number, chunk in enumerate(trace.texts.chunks):
        rows, length = chunk["input_ids"].shape
        step = max(_LOGITS // (size * length), 1)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            with _watching_linears(teacher, trace.encoder) as (calls, last):
                output = teacher(
                    **accepted_inputs(teacher, {name: value[part] for name, value in chunk.items()}), **PLAIN_OUTPUT
                )
            states.append(picker.pick_of_chunk(last[0], number, part).float())
            found = logits_of(output)
            if found is not None and not picker.is_masked_lm:  # whose logits are a vocabulary wide
                logits.append(picker.pick_of_chunk(found, number, part).float())
            for module, read, returned in calls:
                stores = seen.setdefault(module, ([], []))
                if picker.is_masked_lm and returned.shape[-1] == size:
                    returned = returned[..., :0]
                for store, value in zip(stores, (read, returned), strict=True):
                    store.append(picker.pick_of_chunk(value, number, part).float())
    linears = [_Linear(module, *map(torch.cat, stores)) for module, stores in seen.items()]
    inner = {
        m for block in (*trace.encoder.layers, trace.encoder.embeddings) if block is not None for m in block.modules()
    }
    norms = tuple(m for m in teacher.modules() if isinstance(m, nn.LayerNorm) and m not in inner)
    return _HeadTrace(
        torch.cat(states), tuple(linears), norms, torch.cat(logits) if logits else states[0].new_zeros(0)
    )


@contextmanager
def _watching_linears(
    teacher: PreTrainedModel, encoder: Encoder
) -> Iterator[tuple[list[tuple[nn.Linear, Tensor, Tensor]], list[Tensor]]]:
    """The linear layers' calls after the last layer, and what that returned, in the forward pass made inside."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []
    last: list[Tensor] = []
    inner = {module for layer in encoder.layers for module in layer.modules()}
    count = 0

    def note_layer(module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        nonlocal count
        count += 1
        if count >= encoder.num_layers:
            last[:] = [states_of(output)]

    def note_norm(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        last[:] = [output]

    def note_linear(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if last and isinstance(module, nn.Linear):
            calls.append((module, args[0], output))

    handles: list[RemovableHandle] = [m.register_forward_hook(note_layer) for m in dict.fromkeys(encoder.layers)]
    if encoder.outputs[-1] is not encoder.layers[-1]:
        handles.append(encoder.outputs[-1].register_forward_hook(note_norm))
    outside = (m for m in teacher.modules() if isinstance(m, nn.Linear) and m not in inner)
    handles += [module.register_forward_hook(note_linear) for module in outside]
    try:
        yield calls, last
    finally:
        for handle in handles:
            handle.remove()


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=_TOLERANCE)


def _aligned(affine: Affine, order: LabelAlignment) -> Affine:
    """A classifier with its classes in the student's order."""
    return Affine(order.logits(affine.weight.T).T, order.logits(affine.bias))


def _set_pooler(student: PreTrainedModel, head: _HeadTrace, space: StudentSpace) -> None:
    """The pooler of a model without a head, of which nothing is known but its weights."""
    pooler = getattr(student, "pooler", None)
    if pooler is not None and head.linears and head.linears[-1].returned.shape[-1] == len(space.basis):
        space.reading(head.linears[-1].affine, head.states).then(space.basis.T).write(pooler.dense)


def _set_pooled_head(
    student: PreTrainedModel, teacher: PreTrainedModel, head: _HeadTrace, inputs: Tensor, space: StudentSpace
) -> None:
    """A pooler and a classifier: V tanh(W x + b) + c of the first token's state x."""
    dense, out = student.base_model.pooler.dense, student.classifier
    order = LabelAlignment.from_configs(student.config, teacher.config)
    logits, width = order.logits(head.logits), dense.out_features
    last = head.linears[-1] if head.linears and _close(head.linears[-1].returned, head.logits) else None
    first = head.linears[-2] if len(head.linears) > 1 else None
    start = Affine.zero(out.out_features, inputs)
    if first is None:
        # A linear head, or one that is not known: the tanh is nearly linear in small numbers.
        reading = Affine(torch.eye(width, device=inputs.device), -inputs.mean(dim=0))
        reading.scaled(float(0.3 / inputs.std().clamp(min=1e-6))).write(dense)
    else:
        of_first_token = _close(first.read, head.states)
        if not of_first_token:
            logger.warning(
                "The teacher's head does not read the first token alone (it may take the mean over tokens), as a BERT "
                "student's does: the student's head is fitted to the first token, which can say less."
            )
        reading = space.reading(first.affine, head.states)
        is_tanh = last is not None and _close(first.returned.tanh(), last.read)
        if of_first_token and is_tanh and space.is_whole and last is not None:
            reading.write(dense)
            _aligned(last.affine, order).write(out)
            return
        # The teacher's neurons that matter most, as functions of the student's state.
        outgoing = inputs.new_ones(1, len(reading.weight)) if last is None else last.affine.weight
        chosen = strongest(first.returned.tanh(), outgoing, width)
        refit_validated(reading.rows(chosen), inputs, first.returned[:, chosen]).write(dense)
        if is_tanh and last is not None:
            aligned = _aligned(last.affine, order)
            start.weight[:, : len(chosen)] = aligned.weight[:, chosen]
            start = Affine(start.weight, aligned.bias)
    refit_validated(start, dense(inputs).tanh(), logits).write(out)


def _set_token_head(
    student: PreTrainedModel, teacher: PreTrainedModel, head: _HeadTrace, inputs: Tensor, space: StudentSpace
) -> None:
    """One linear layer for each token: tags, or starts and ends of spans."""
    out = student.qa_outputs if hasattr(student, "qa_outputs") else student.classifier
    order = (
        LabelAlignment()
        if out is getattr(student, "qa_outputs", None)
        else LabelAlignment.from_configs(student.config, teacher.config)
    )
    last = head.linears[-1] if head.linears else None
    if last is not None and _close(last.read, head.states) and _close(last.returned, head.logits):
        start = space.reading(_aligned(last.affine, order), head.states)
        if space.is_whole:
            start.write(out)
            return
    else:
        start = Affine.zero(out.out_features, inputs)
    refit_validated(start, inputs, order.logits(head.logits)).write(out)


def _set_masked_lm_head(student: PreTrainedModel, head: _HeadTrace, inputs: Tensor, space: StudentSpace) -> None:
    """A transform, and a decoder: the student's word table, or one of its own if the teacher's is not tied to its."""
    transform, decoder = student.cls.predictions.transform, student.cls.predictions.decoder
    if len(head.linears) < 2:
        return
    first, last = head.linears[-2], head.linears[-1].affine
    decoder.bias.copy_(last.bias)
    if decoder.weight is not student.get_input_embeddings().weight:
        decoder.weight.copy_(last.weight @ space.basis if last.weight.shape[1] == len(space.basis) else last.weight)
    goal = _decoder_inputs(decoder.weight, last.weight, head.linears[-1].read)
    reading = space.reading(first.affine, head.states)
    if space.is_whole and _close(first.read, head.states) and len(reading.weight) == transform.dense.out_features:
        reading.write(transform.dense)
        for norm in head.norms:
            transform.LayerNorm.weight.copy_(norm.weight)
            transform.LayerNorm.bias.copy_(shift_of(norm))
            if _close(transform(inputs), head.linears[-1].read):
                return
    ways = (_projected_transform, _linear_transform)
    errors = [_distance(decoder.weight, way(transform, inputs, reading, space, goal), goal) for way in ways]
    if errors[0] < errors[1]:  # the second was written last
        _projected_transform(transform, inputs, reading, space, goal)
    # The mean of what the table cannot say.
    read = head.linears[-1].read.mean(dim=0)
    decoder.bias.add_(last.weight @ read - decoder.weight @ transform(inputs).mean(dim=0))


def _decoder_inputs(student: Tensor, teacher: Tensor, read: Tensor) -> Tensor:
    """What a student's decoder would have to read for logits closest to the teacher's, `[n, d']`.

    Args:
        student: the decoder's weight `[V, d']`.
        teacher: the teacher's `[V, d]`.
        read: what the teacher's decoder reads, `[n, d]`.
    """
    moment = (student.T @ student).double()
    moment.diagonal().add_(1e-4 * moment.diagonal().mean())
    return read @ torch.linalg.solve(moment, (student.T @ teacher).double()).T.to(read.dtype)


def _distance(decoder: Tensor, found: Tensor, goal: Tensor) -> float:
    """The squared distance of the logits."""
    difference = found - goal
    return float(((difference @ (decoder.T @ decoder)) * difference).sum())


def _projected_transform(
    transform: BertPredictionHeadTransform, inputs: Tensor, reading: Affine, space: StudentSpace, goal: Tensor
) -> Tensor:
    """The teacher's neurons, projected, with a LayerNorm fitted to the goal; returns what the transform returns."""
    if len(reading.weight) == len(space.basis):
        reading = reading.then(space.basis.T)
    reading.write(transform.dense)
    return fit_layer_norm(transform.LayerNorm, transform.transform_act_fn(transform.dense(inputs)), goal)


def _linear_transform(
    transform: BertPredictionHeadTransform, inputs: Tensor, reading: Affine, space: StudentSpace, goal: Tensor
) -> Tensor:
    """A linear map: in large numbers the activation is the identity, and the LayerNorm removes the shift."""
    reader = refit_validated(Affine.zero(goal.shape[1], inputs), inputs, goal)
    reader = reader.scaled(float(1.0 / goal.std().clamp(min=1e-6)))
    Affine(reader.weight, reader.bias + _SHIFT).write(transform.dense)
    return fit_layer_norm(transform.LayerNorm, transform.transform_act_fn(transform.dense(inputs)), goal)
