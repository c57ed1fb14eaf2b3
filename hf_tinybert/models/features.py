"""Features for the losses: outputs of chosen layers, caught by forward hooks.

The model keeps its fast (SDPA) attention: queries and keys are read from their linear projections, and no attention
map is computed. Where several layer numbers share one module, its calls are counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_tinybert.models.architectures import Attention, Encoder
from hf_tinybert.models.output_types import LABELS

#: Arguments of a forward pass in which layers return what the hooks expect, whatever the configuration is.
PLAIN_OUTPUT = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
#: A forward hook with keyword arguments: module, arguments, keyword arguments, output.
_Hook: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], object], None]
_ProjectionHook: TypeAlias = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass
class Features:
    """One model's features of a batch, by layer number (0 is the embedding block).

    Attributes:
        logits: `[B, C]` or `[B, S, C]`, or None where the prediction level is not compared.
        hidden: layer -> `[B, S, d]`, the layer's output after its last LayerNorm. A family that normalises before its
            layers (ModernBERT) has the final LayerNorm after the last layer alone.
        queries: layer -> `[B, S, heads * head_size]`, before any scaling.
        keys: layer -> `[B, S, heads * head_size]`.
        values: layer -> `[B, S, heads * head_size]`, where they are compared.
        bias: layer -> `[B, heads, S, S]`, added to Q K^T / sqrt(head_size) in some families.
    """

    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    bias: dict[int, Tensor] = field(default_factory=dict)

    @property
    def by_layer(self) -> tuple[dict[int, Tensor], ...]:
        """Everything but the logits."""
        return self.hidden, self.queries, self.keys, self.values, self.bias

    def forget(self, layer: int) -> None:
        """Release the features of a layer."""
        for tensors in self.by_layer:
            tensors.pop(layer, None)


def accepted_inputs(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that a model's forward pass takes, without labels; some models take no token types."""
    names = inspect.signature(model.forward).parameters.keys() - {*LABELS, *PLAIN_OUTPUT}
    return {name: value for name, value in inputs.items() if name in names}


def states_of(output: object) -> Tensor:
    """The hidden states `[B, S, d]` among what a layer returns: DistilBERT may return the map `[B, h, S, S]` first."""
    values = output if isinstance(output, tuple) else (output,)
    return next(value for value in values if isinstance(value, Tensor) and value.dim() == 3)


class _Enough(Exception):
    """All features have been caught; the rest of the forward pass is not needed."""


class FeatureCapture:
    """Owns the hooks on one model's layers; they are active inside `recording()` only.

    Args:
        encoder: the parts of the model.
        hidden: layers whose output is caught; 0 is the embedding block, whose output is the input of layer 1.
        attention: layers whose queries, keys, ... are caught.
        kinds: features of these layers: `queries`, `keys`, `values`, and `bias` where the family has one.
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden: Iterable[int],
        attention: Iterable[int],
        kinds: Collection[str] = ("queries", "keys", "bias"),
    ) -> None:
        """Register the hooks."""
        self._features: Features | None = None
        self._handles: list[RemovableHandle] = []
        self._stopping = False
        self._calls: dict[int, int] = {}
        self._projected: dict[int, dict[str, Tensor]] = {}
        self._unread: list[tuple[Attention, int, dict[str, Tensor], dict[str, Tensor]]] = []
        self._encoder, self._hidden, self._attention = encoder, set(hidden), set(attention)
        self._kinds = {kind for kind in kinds if kind != "bias" or encoder.biased}
        self._wanted = len(self._hidden) + len(self._attention) * len(self._kinds)
        self.attach()

    @property
    def biased_layers(self) -> set[int]:
        """Layers whose bias is caught."""
        return self._attention if "bias" in self._kinds else set()

    def attach(self) -> None:
        """Register the hooks on the model, unless they are registered."""
        if self._handles:
            return
        encoder = self._encoder
        if 0 in self._hidden:
            self._handles.append(encoder.layers[0].register_forward_pre_hook(self._catch_input, with_kwargs=True))
        self._watch(encoder.outputs, self._hidden - {0}, partial(self._catcher, "hidden"))
        if encoder.attention[0].read is None:
            for kind in sorted(self._kinds):
                modules = [getattr(layer, kind) for layer in encoder.attention]
                self._watch(modules, self._attention, partial(self._catcher, kind))
            return
        of_module = {layer.module: layer for layer in encoder.attention}
        modules = [layer.module for layer in encoder.attention]
        self._watch(modules, self._attention, partial(self._reader, of_module))

    @contextmanager
    def recording(self, stop: bool = False) -> Iterator[Features]:
        """Catch the features of the forward pass made inside; a recomputation afterwards is ignored.

        Args:
            stop: leave the forward pass, and the `with` block, as soon as everything is caught.
        """
        self._features = features = Features()
        self._stopping = stop
        self._calls.clear()
        try:
            with suppress(_Enough):
                yield features
            self._features = None
            self._read(features)
        finally:
            self._features = None
            self._projected.clear()
            self._unread.clear()

    def remove(self) -> None:
        """Remove every hook from the model."""
        while self._handles:
            self._handles.pop().remove()

    def _watch(
        self,
        modules: Sequence[nn.Module],
        wanted: set[int],
        hook: Callable[[nn.Module, list[int]], _Hook],
    ) -> None:
        """Register a hook on each module of a wanted layer; modules are listed by layer, in the order of calls."""
        numbers: dict[nn.Module, list[int]] = {}
        for number, module in enumerate(modules, start=1):
            numbers.setdefault(module, []).append(number if number in wanted else -1)
        for module, layers in numbers.items():
            if any(layer > 0 for layer in layers):
                self._handles.append(module.register_forward_hook(hook(module, layers), with_kwargs=True))

    def _number(self, hook_id: int, numbers: list[int]) -> int:
        """The layer number of this call of a module, or -1 where it is not wanted."""
        if len(numbers) == 1:
            return numbers[0]
        call = self._calls.get(hook_id, 0)
        self._calls[hook_id] = call + 1
        return numbers[call] if call < len(numbers) else -1

    def _catch_input(self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        if self._features is not None and 0 not in self._features.hidden:
            self._keep(self._features.hidden, 0, args[0] if args else kwargs["hidden_states"])

    def _catcher(self, kind: str, module: nn.Module, numbers: list[int]) -> _Hook:
        hook_id = len(self._handles)

        def catch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> None:
            if self._features is not None and (number := self._number(hook_id, numbers)) > 0:
                self._keep(getattr(self._features, kind), number, states_of(output))

        return catch

    def _reader(self, of_module: dict[nn.Module, Attention], module: nn.Module, numbers: list[int]) -> _Hook:
        """A hook for attention whose features are made of its projections' outputs and its own arguments."""
        attention = of_module[module]
        hook_id, names = len(self._handles), list(inspect.signature(module.forward).parameters)
        for kind in ("queries", "keys", "values"):
            projection = getattr(attention, kind)
            self._handles.append(projection.register_forward_hook(self._projection_hook(module, kind)))

        def note(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object) -> None:
            if self._features is not None and id(module) in self._projected:
                projected, number = self._projected.pop(id(module)), self._number(hook_id, numbers)
                if number > 0:
                    arguments = dict(zip(names, args, strict=False)) | kwargs
                    self._unread.append((attention, number, arguments, projected))
                    self._leave()

        return note

    def _read(self, features: Features) -> None:
        """Make features of what was noted: after the forward pass, whose parts may be recomputed without hooks."""
        for attention, number, arguments, projected in self._unread:
            assert attention.read is not None
            for kind, value in attention.read(attention.module, arguments, projected).items():
                if kind in self._kinds:
                    getattr(features, kind).setdefault(number, value)

    def _projection_hook(self, module: nn.Module, kind: str) -> _ProjectionHook:
        def keep(projection: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self._features is not None:
                # The first call: DeBERTa projects its relative positions with the same modules afterwards.
                self._projected.setdefault(id(module), {}).setdefault(kind, output)

        return keep

    def _keep(self, store: dict[int, Tensor], layer: int, value: Tensor) -> None:
        """Keep a feature; a further call of the layer (DeBERTa's z_steps) changes nothing."""
        store.setdefault(layer, value)
        self._leave()

    def _leave(self) -> None:
        """Stop the forward pass, where that is allowed, once everything is caught."""
        if self._stopping and self._features is not None:
            caught = sum(map(len, self._features.by_layer)) + len(self._unread) * len(self._kinds)
            if caught == self._wanted:
                raise _Enough
