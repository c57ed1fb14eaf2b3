"""The teacher's features of a batch, behind one interface: computed by the model, or read from a cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from hf_tinybert.models import architectures
from hf_tinybert.models.features import PLAIN_OUTPUT, FeatureCapture, Features
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import freeze
from hf_tinybert.models.output_types import LABELS, logits_of
from hf_tinybert.teacher import inputs as teacher_inputs
from hf_tinybert.teacher import positions
from hf_tinybert.utils.types import AnyDataset, Autocast, Batch, Collator


class TeacherSource(Protocol):
    """A source of the teacher's features."""

    def data(self, dataset: AnyDataset, collator: Collator) -> tuple[AnyDataset, Collator]:
        """Training data and collator, changed so that batches hold what `features` needs."""

    def start_phase(self, layers: bool) -> None:
        """Begin a phase that matches layers, or logits alone."""

    def features(self, inputs: Batch, intermediate: bool, prediction: bool) -> Features:
        """The teacher's features of a batch, for the levels that are compared."""

    def flush(self, wait: Callable[[], None] | None = None) -> None:
        """Write the cache, if there is one, to disk; called after every epoch and with every checkpoint.

        Args:
            wait: waits for the other processes, where there are any.
        """

    def close(self) -> None:
        """Training is over, or has failed."""


class OnlineTeacher:
    """A source that runs the teacher on every batch, frozen and in eval mode.

    Args:
        model: the teacher.
        hidden: teacher layers whose output is matched (0 is the embedding block).
        attention: teacher layers whose attention is matched.
        autocast: makes the context in which the teacher runs, for mixed precision. The layers' linear weights are
            cast once and kept beside the model: autocast would cast frozen ones in every batch.
        compile_kwargs: `backend` and `mode` of `torch.compile` for the teacher, or None to run it without.
        kinds: features of the layers whose attention is matched (see `FeatureCapture`).
        pooling: of a model without a head: how its pooled vector is made (see `models.output_types.logits_of`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        hidden: Iterable[int],
        attention: Iterable[int],
        autocast: Autocast = nullcontext,
        compile_kwargs: Mapping[str, str] | None = None,
        kinds: Collection[str] = ("queries", "keys", "bias"),
        pooling: str | None = None,
    ) -> None:
        """Freeze the model and put hooks on its layers."""
        self.model = freeze(model)
        self._pooling = pooling
        #: The models whose weights determine the features, with their shares of the logits.
        self.sources: list[tuple[PreTrainedModel, float]] = [(self.model, 1.0)]
        self.own_inputs = set(inspect.signature(model.forward).parameters) - {*LABELS, *PLAIN_OUTPUT}
        #: Columns of a batch that the teacher may read.
        self.inputs = self.own_inputs.union(teacher_inputs.COLUMNS)
        hidden, attention = list(hidden), list(attention)
        encoder = architectures.Encoder.from_model(model)
        last = max([*hidden, *attention], default=0)
        # A compiled forward pass cannot be stopped early.
        self._stops = compile_kwargs is None and (last < encoder.num_layers or last not in hidden)
        self._capture = FeatureCapture(encoder, hidden, attention, kinds)
        self._autocast = autocast
        self._encoder = encoder
        self._cast: dict[bool, dict[str, Tensor]] = {}
        # Compiled training code may keep the features for its backward pass, which inference tensors forbid.
        self._no_gradient: Callable[[], AbstractContextManager[object]] = (
            torch.inference_mode if compile_kwargs is None else torch.no_grad
        )
        self._layers: Callable[[Batch, bool], Features] = self._run_layers
        self._logits: Callable[[Batch], Features] = self._run_logits
        if compile_kwargs is not None:
            backend, mode = compile_kwargs.get("backend", "inductor"), compile_kwargs.get("mode")
            self._layers = torch.compile(self._layers, backend=backend, mode=mode)
            self._logits = torch.compile(self._logits, backend=backend, mode=mode)

    def data(self, dataset: AnyDataset, collator: Collator) -> tuple[AnyDataset, Collator]:
        """The data and the collator, unchanged."""
        return dataset, collator

    def start_phase(self, layers: bool) -> None:
        """Remove the hooks where no layers are matched."""
        if layers:
            self._capture.attach()
        else:
            self._capture.remove()

    def features(self, inputs: Batch, intermediate: bool, prediction: bool) -> Features:
        """Run the teacher: up to the last matched layer where no logits are compared."""
        places = inputs.get(positions.COLUMN)
        inputs = {name: value for name, value in teacher_inputs.of_teacher(inputs).items() if name in self.own_inputs}
        with self._no_gradient(), self._autocast():
            if not self._cast:
                self._cast_weights()
            features = self._layers(inputs, prediction) if intermediate else self._logits(inputs)
            return positions.at_student_positions(features, places)

    @property
    def bias_is_of_positions(self) -> bool:
        """Whether `position_bias` knows the bias of the scores, where there is one."""
        return self._encoder.position_bias is not None

    def position_bias(self, inputs: Batch) -> dict[int, Tensor]:
        """The bias of the matched layers' scores, computed without running the model: layer -> `[B, heads, S, S]`.

        Args:
            inputs: a batch, of which the lengths and the map of positions are read.

        Returns:
            Nothing where no bias is caught, or where it depends on the tokens.
        """
        if not self._capture.biased_layers or self._encoder.position_bias is None:
            return {}
        batch_size, length = teacher_inputs.of_teacher(inputs)["input_ids"].shape
        with self._no_gradient():
            bias = self._encoder.position_bias(length).expand(batch_size, -1, -1, -1)
            features = Features(bias=dict.fromkeys(self._capture.biased_layers, bias))
            return positions.at_student_positions(features, inputs.get(positions.COLUMN)).bias

    def flush(self, wait: Callable[[], None] | None = None) -> None:
        """Do nothing: there is no cache."""

    def close(self) -> None:
        """Remove the hooks from the teacher."""
        self._capture.remove()
        self._cast.clear()

    def _run_layers(self, inputs: Batch, prediction: bool) -> Features:
        with self._capture.recording(stop=self._stops and not prediction) as features:
            output = self._run(inputs, whole=prediction)
            if prediction:
                features.logits = self._predictions(output, inputs)
        return features

    def _run_logits(self, inputs: Batch) -> Features:
        return Features(logits=self._predictions(self._run(inputs, whole=True), inputs))

    def _predictions(self, output: Batch, inputs: Batch) -> Tensor | None:
        return logits_of(output, inputs.get("attention_mask"), self._pooling)

    def _run(self, inputs: Batch, whole: bool) -> Batch:
        return functional_call(self._module(whole), self._cast[whole], kwargs={**inputs, **PLAIN_OUTPUT})

    def _module(self, whole: bool) -> nn.Module:
        return self.model if whole else self.model.base_model

    def _cast_weights(self) -> None:
        """Keep the weights in the type to which autocast, if it is on, casts them, by their names in both modules."""
        cast: dict[int, Tensor] = {}
        modules = (module for layer in self._encoder.layers for module in layer.modules())
        for weight in (module.weight for module in modules if type(module) is nn.Linear):
            if torch.is_autocast_enabled(weight.device.type) and weight.dtype == torch.float32:
                cast[id(weight)] = weight.to(torch.get_autocast_dtype(weight.device.type))
        for whole in (True, False):
            named = self._module(whole).named_parameters()
            self._cast[whole] = {name: cast[id(weight)] for name, weight in named if id(weight) in cast}


class TeacherEnsemble(OnlineTeacher):
    """Several models whose logits are averaged; layers are the first one's.

    Args:
        models: the teachers, whose labels are the first one's in any order.
        weights: their shares of the logits, which add up to 1.
        hidden: layers of the first teacher, as in `OnlineTeacher`.
        attention: layers of the first teacher.
        autocast: as in `OnlineTeacher`.
        compile_kwargs: as in `OnlineTeacher`.
        kinds: as in `OnlineTeacher`.
        pooling: as in `OnlineTeacher`.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        weights: Sequence[float],
        hidden: Iterable[int],
        attention: Iterable[int],
        autocast: Autocast = nullcontext,
        compile_kwargs: Mapping[str, str] | None = None,
        kinds: Collection[str] = ("queries", "keys", "bias"),
        pooling: str | None = None,
    ) -> None:
        """Put hooks on the first; freeze all."""
        super().__init__(models[0], hidden, attention, autocast, compile_kwargs, kinds, pooling)
        self.sources = list(zip(models, weights, strict=True))
        self._others = [
            OnlineTeacher(model, (), (), autocast, compile_kwargs, pooling=pooling) for model in models[1:]
        ]
        self._orders = [LabelAlignment.from_configs(models[0].config, model.config) for model in models[1:]]
        self.inputs = self.inputs.union(*(other.inputs for other in self._others))

    def features(self, inputs: Batch, intermediate: bool, prediction: bool) -> Features:
        """The first teacher's layers, and the weighted mean of all logits."""
        features = super().features(inputs, intermediate, prediction)
        if features.logits is not None:
            total = self.sources[0][1] * features.logits.float()
            for other, order, (_, weight) in zip(self._others, self._orders, self.sources[1:], strict=True):
                logits = other.features(inputs, intermediate=False, prediction=True).logits
                assert logits is not None
                total = total + weight * order.logits(logits.float())
            features.logits = total
        return features

    def close(self) -> None:
        """Remove the hooks and release the cast weights."""
        super().close()
        for other in self._others:
            other.close()
