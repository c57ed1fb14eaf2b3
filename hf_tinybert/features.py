"""What a model hands to the losses: outputs of chosen layers, caught by forward hooks.

Hooks leave the model free to run its fast (SDPA) attention: queries and keys are read from their linear
projections, and no attention map is ever asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hf_tinybert.families import Encoder

#: Arguments of a forward pass in which layers return what the hooks expect, whatever the configuration says.
PLAIN_OUTPUT = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}


@dataclass
class Features:
    """One model's view of a batch, by layer number (0 is the embedding block).

    Attributes:
        logits: `[B, C]` or `[B, S, C]`, or None where the prediction level is not wanted.
        hidden: layer -> `[B, S, d]`, the layer's output after its last LayerNorm.
        queries: layer -> `[B, S, heads * head_size]`, before any scaling.
        keys: layer -> `[B, S, heads * head_size]`.
    """

    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)

    def forget(self, layer: int) -> None:
        """Let go of what a layer gave."""
        for tensors in (self.hidden, self.queries, self.keys):
            tensors.pop(layer, None)


class _Enough(Exception):
    """Everything that was wanted has been caught; the rest of the forward pass is not needed."""


class FeatureCapture:
    """Owns the hooks on one model's layers; outside `recording()` they do nothing.

    Args:
        encoder: the parts of the model.
        hidden: layers whose output is wanted; 0 is the embedding block, taken as the input of layer 1.
        attention: layers whose queries and keys are wanted.
    """

    def __init__(self, encoder: Encoder, hidden: Iterable[int], attention: Iterable[int]) -> None:
        """Register the hooks."""
        self._features: Features | None = None
        self._handles: list[Any] = []
        self._stopping = False
        for layer in hidden:
            if layer == 0:
                handle = encoder.layers[0].register_forward_pre_hook(self._catch_input, with_kwargs=True)
            else:
                handle = encoder.layers[layer - 1].register_forward_hook(self._catcher("hidden", layer))
            self._handles.append(handle)
        for layer in attention:
            for kind, modules in (("queries", encoder.queries), ("keys", encoder.keys)):
                hook = self._catcher(kind, layer)
                self._handles.append(modules[layer - 1].register_forward_hook(hook))
        self._wanted = len(self._handles)

    @contextmanager
    def recording(self, stop: bool = False) -> Iterator[Features]:
        """Catch the features of the forward pass made inside; a recomputation afterwards is not caught.

        Args:
            stop: leave the forward pass, and the `with` block, as soon as everything is caught.
        """
        self._features = features = Features()
        self._stopping = stop
        try:
            yield features
        except _Enough:
            pass
        finally:
            self._features = None

    def remove(self) -> None:
        """Take every hook off the model."""
        while self._handles:
            self._handles.pop().remove()

    def _catch_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._features is not None:
            self._features.hidden[0] = args[0] if args else kwargs["hidden_states"]
            self._leave(self._features)

    def _catcher(self, kind: str, layer: int) -> Any:
        def catch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._features is not None:
                # DistilBERT's layers may put the attention map `[B, h, S, S]` first.
                values = output if isinstance(output, tuple) else (output,)
                getattr(self._features, kind)[layer] = next(value for value in values if value.dim() == 3)
                self._leave(self._features)

        return catch

    def _leave(self, features: Features) -> None:
        caught = len(features.hidden) + len(features.queries) + len(features.keys)
        if self._stopping and caught == self._wanted:
            raise _Enough
