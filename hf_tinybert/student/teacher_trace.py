"""What the teacher computes on the calibration texts, in the terms of a BERT.

A BERT normalises after each block: its hidden states, and the sums that its LayerNorms read, are what a student is
fitted to. A teacher that normalises before each block (ModernBERT) has the same in other words: with n(r) the
normalised residual stream, its queries are linear in n(r), and n(r + a) = n(n(r) + a / s), where s is the spread of r.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.architectures.encoder import Attention
from hf_tinybert.models.architectures.specs import LayerParts
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, accepted_inputs, states_of
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.linear_fit import Affine, shift_of

#: Positional and keyword arguments of a module's call.
_Call: TypeAlias = tuple[tuple[object, ...], dict[str, object]]


@dataclass(frozen=True)
class LayerActivations:
    """A teacher layer's activations at the real positions of the calibration texts, each `[n, ...]`.

    Attributes:
        entering: the state that the layer reads.
        queries: `[n, h * head_size]`, without position terms.
        keys: the same.
        values: the same.
        attention_sum: what the LayerNorm of attention reads, in units of the entering state.
        middle: what it returns.
        neurons: what the second linear layer of the feed-forward block reads.
        output_sum: what the LayerNorm of the output reads.
    """

    entering: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    attention_sum: Tensor
    middle: Tensor
    neurons: Tensor
    output_sum: Tensor


@dataclass(frozen=True)
class LayerWeights:
    """A teacher layer's maps in the terms of a BERT.

    Attributes:
        queries: from the entering state.
        keys: from the entering state.
        values: from the entering state.
        attention_output: from the heads' contexts.
        neurons: from the middle state, before the activation; of a gated block, inputs and gates one after another.
        feed_forward_output: from the neurons.
        attention_norm: the LayerNorm behind attention; None of a teacher that normalises before its blocks.
        output_norm: the LayerNorm of the output, likewise.
    """

    queries: Affine
    keys: Affine
    values: Affine
    attention_output: Affine
    neurons: Affine
    feed_forward_output: Affine
    attention_norm: nn.Module | None
    output_norm: nn.Module | None


class TeacherTrace:
    """The teacher's forward pass on the calibration texts.

    Args:
        teacher: in eval mode and float32.
        texts: on its device.
        layers: the layers whose activations are wanted.

    Attributes:
        teacher: as given.
        encoder: its parts.
        texts: as given.
        states: layer -> the state of a BERT, `[n, d]`; 0 is the embedding block.
        hidden: layer -> hidden state as the losses compare it, `[n, d]`: the same but for a teacher that normalises
            before its blocks.
    """

    def __init__(self, teacher: PreTrainedModel, texts: CalibrationTexts, layers: Sequence[int]) -> None:
        """Run the teacher's encoder once."""
        self.teacher = teacher
        self.encoder = Encoder.from_model(teacher)
        self.texts = texts
        wanted = {0, *layers}
        self._calls: dict[int, list[_Call]] = {layer: [] for layer in layers}
        states: dict[int, list[Tensor]] = {layer: [] for layer in wanted}
        capture = FeatureCapture(self.encoder, wanted, ())
        try:
            for chunk, mask in zip(texts.chunks, texts.masks, strict=True):
                with self._noting_calls(), capture.recording() as features:
                    teacher.base_model(**accepted_inputs(teacher.base_model, chunk), **PLAIN_OUTPUT)
                for layer in wanted:
                    states[layer].append(features.hidden[layer][mask].float())
        finally:
            capture.remove()
        self.hidden = {layer: torch.cat(parts) for layer, parts in states.items()}
        self.states = {layer: self._state(hidden) for layer, hidden in self.hidden.items()}

    @property
    def parts(self) -> LayerParts:
        """Where the teacher's layers keep their parts.

        Raises:
            ValueError: that is not known.
        """
        if self.encoder.parts is None:
            raise ValueError("The teacher's architecture does not name the parts of its layers.")
        return self.encoder.parts

    def _state(self, hidden: Tensor) -> Tensor:
        return normalised(hidden) if self.parts.pre_norm else hidden

    @contextmanager
    def _noting_calls(self) -> Iterator[None]:
        """Note the arguments of the wanted layers; a shared module's calls are counted."""
        number = 0

        def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            nonlocal number
            number += 1
            if number in self._calls:
                self._calls[number].append((args, kwargs))

        handles = [
            module.register_forward_pre_hook(note, with_kwargs=True) for module in dict.fromkeys(self.encoder.layers)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def activations(self, layer: int) -> LayerActivations:
        """The activations of a layer, which is run once more."""
        module, attention, parts = self.encoder.layers[layer - 1], self.encoder.attention[layer - 1], self.parts
        watched: dict[str, tuple[nn.Module, bool]] = {
            "entering": (module, True),
            "queries": (attention.queries, False),
            "keys": (attention.keys, False),
            "values": (attention.values, False),
            "before_attention_norm": (module.get_submodule(parts.attention_norm), True),
            "attention_norm": (module.get_submodule(parts.attention_norm), False),
            "neurons": (module.get_submodule(parts.feed_forward_out), True),
            "before_output_norm": (module.get_submodule(parts.output_norm), True),
            "layer": (module, False),
        }
        seen: dict[str, list[Tensor]] = {name: [] for name in watched}
        for (args, kwargs), mask in zip(self._calls[layer], self.texts.masks, strict=True):
            with watching(watched) as values:
                module(*args, **kwargs)
            for name, parts_of in seen.items():
                parts_of.append(values[name][mask].float())
        found = {name: torch.cat(values) for name, values in seen.items()}
        if attention.queries is attention.keys:
            found |= dict(zip(("queries", "keys", "values"), found["queries"].chunk(3, dim=-1), strict=True))
        found["queries"] = found["queries"] / math.sqrt(attention.terms)
        sums, middle = (found["before_attention_norm"], found["before_output_norm"]), found["attention_norm"]
        if parts.pre_norm:
            # What the output norm reads is the residual stream between the blocks.
            between = found["before_output_norm"]
            sums = _in_units_of(between, found["entering"]), _in_units_of(found["layer"], between)
            middle = normalised(between)
        return LayerActivations(
            entering=self._state(found["entering"]),
            queries=found["queries"],
            keys=found["keys"],
            values=found["values"],
            attention_sum=sums[0],
            middle=middle,
            neurons=found["neurons"],
            output_sum=sums[1],
        )

    def weights(self, layer: int) -> LayerWeights:
        """The maps of a layer."""
        module, attention, parts = self.encoder.layers[layer - 1], self.encoder.attention[layer - 1], self.parts
        paths = (parts.attention_output, parts.feed_forward_in, parts.feed_forward_out)
        attention_output, neurons, feed_forward_output = (_linear(module.get_submodule(path)) for path in paths)
        maps = _projections(attention)
        norms: list[nn.Module | None] = [module.get_submodule(p) for p in (parts.attention_norm, parts.output_norm)]
        if parts.pre_norm:
            maps, neurons = [_behind(each, norms[0]) for each in maps], _behind(neurons, norms[1])
            norms = [None, None]
        queries, keys, values = maps
        queries = queries.scaled(1.0 / math.sqrt(attention.terms))
        return LayerWeights(queries, keys, values, attention_output, neurons, feed_forward_output, norms[0], norms[1])


def normalised(x: Tensor) -> Tensor:
    """Each vector with mean 0 and variance 1."""
    return nn.functional.layer_norm(x, (x.shape[-1],))


def _in_units_of(x: Tensor, stream: Tensor) -> Tensor:
    """The centred vectors, divided by the spread of a residual stream's vectors."""
    return (x - x.mean(dim=-1, keepdim=True)) / stream.std(dim=-1, keepdim=True, correction=0).clamp(min=1e-6)


@contextmanager
def watching(modules: Mapping[str, tuple[nn.Module, bool]]) -> Iterator[dict[str, Tensor]]:
    """What modules read (where the flag is set) or return in the call made inside; of several calls the first."""
    values: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def keep_input(name: str, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        values.setdefault(name, args[0] if args else kwargs["hidden_states"])

    def keep_output(name: str, module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        values.setdefault(name, states_of(output))

    try:
        for name, (module, of_input) in modules.items():
            if of_input:
                handles.append(module.register_forward_pre_hook(partial(keep_input, name), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(partial(keep_output, name)))
        yield values
    finally:
        for handle in handles:
            handle.remove()


def _linear(module: nn.Module) -> Affine:
    assert isinstance(module, nn.Linear)
    return Affine.from_linear(module)


def _projections(attention: Attention) -> list[Affine]:
    """Queries, keys and values, of three linear layers or of a fused one."""
    if attention.queries is not attention.keys:
        return [_linear(attention.queries), _linear(attention.keys), _linear(attention.values)]
    fused = _linear(attention.queries)
    size = len(fused.weight) // 3
    return [fused.rows(slice(at * size, (at + 1) * size)) for at in range(3)]


def _behind(linear: Affine, norm: nn.Module | None) -> Affine:
    """A linear layer with the scale and shift of the LayerNorm before it."""
    if not isinstance(norm, nn.LayerNorm):
        return linear
    return Affine(linear.weight * norm.weight.detach(), linear.bias + linear.weight @ shift_of(norm))
