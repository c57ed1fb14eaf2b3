"""Teacher sources that read the cache, and run the teacher only for what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_tinybert.models.features import Features
from hf_tinybert.teacher.cache import layout, rows
from hf_tinybert.teacher.cache.logits import LogitsTable
from hf_tinybert.teacher.cache.store import FeatureStore
from hf_tinybert.teacher.source import OnlineTeacher
from hf_tinybert.utils.types import AnyDataset, Batch, Collator


class CachedLogits:
    """The teacher runs for its layers, and once for each row's logits.

    Args:
        live: the teacher.
        table: of logits by row.
        per_token: logits are of tokens.
    """

    def __init__(self, live: OnlineTeacher, table: LogitsTable, per_token: bool) -> None:
        """Keep them."""
        self.live = live
        self.table = table
        self._per_token = per_token

    def data(self, dataset: AnyDataset, collator: Collator) -> tuple[AnyDataset, Collator]:
        """Data and collator whose batches hold their rows' numbers."""
        return rows.numbered(dataset), rows.NumberedCollator(collator, _positions if self._per_token else None)

    def start_phase(self, layers: bool) -> None:
        """Begin a phase of the live teacher."""
        self.live.start_phase(layers)

    def features(self, inputs: Batch, intermediate: bool, prediction: bool) -> Features:
        """Cached logits, or the teacher's, which are cached from then on, also where layers alone are compared."""
        numbers = rows.numbers_of(inputs)
        if numbers is None:
            return self.live.features(inputs, intermediate, prediction)
        positions = rows.knowledge_of(inputs)["positions"] if self._per_token else None
        cached = self.table.get(numbers)
        if cached is None:
            features = self.live.features(inputs, intermediate, prediction=True)
            assert features.logits is not None
            logits = features.logits
            self.table.put(numbers, logits if positions is None else layout.real_tokens(logits, positions))
            return features
        features = self.live.features(inputs, True, prediction=False) if intermediate else Features()
        features.logits = cached if positions is None else layout.spread(cached, positions, _shape(inputs))
        return features

    def flush(self, wait: Callable[[], None] | None = None) -> None:
        """Write the table, and read what other processes have written."""
        self.table.flush()
        if wait is not None:
            wait()
            self.table.refresh()

    def close(self) -> None:
        """Write the table, and close the teacher."""
        try:
            self.table.flush()
        finally:
            self.live.close()


class CachedFeatures:
    """All features are read from disk; the teacher runs for rows that are not training data.

    Args:
        live: the teacher, for evaluation.
        store: complete and checked.
    """

    def __init__(self, live: OnlineTeacher, store: FeatureStore) -> None:
        """Keep them."""
        self.live = live
        self.store = store
        # Shared with the data loader's workers.
        self._wants_layers = torch.ones((), dtype=torch.bool).share_memory_()

    def data(self, dataset: AnyDataset, collator: Collator) -> tuple[AnyDataset, Collator]:
        """Data and collator whose batches hold their features, read where they are collated."""
        return rows.numbered(dataset), rows.NumberedCollator(collator, self._read)

    def start_phase(self, layers: bool) -> None:
        """Read layers only while they are matched."""
        self._wants_layers.fill_(layers)
        self.live.start_phase(layers)

    def features(self, inputs: Batch, intermediate: bool, prediction: bool) -> Features:
        """The features that the batch holds, on its device."""
        if rows.numbers_of(inputs) is None:
            return self.live.features(inputs, intermediate, prediction)
        knowledge = rows.knowledge_of(inputs)
        shape, positions = _shape(inputs), knowledge["positions"]
        features = Features()
        if intermediate:
            features = self.store.layout.unpack(knowledge["tokens"], positions, shape)
            features.bias = self.live.position_bias(inputs)
        if prediction:
            logits = knowledge["logits"]
            features.logits = layout.spread(logits, positions, shape) if self.store.layout.per_token else logits
        return features

    def flush(self, wait: Callable[[], None] | None = None) -> None:
        """Do nothing: the cache is complete."""

    def close(self) -> None:
        """Close the teacher."""
        self.live.close()

    def _read(self, numbers: Sequence[int], mask: Tensor) -> dict[str, Tensor]:
        knowledge = _positions(numbers, mask)
        if self._wants_layers:
            knowledge["tokens"] = self.store.tokens(numbers)
        if self.store.layout.classes:
            knowledge["logits"] = self.store.logits(numbers)
        return knowledge


def _shape(inputs: Batch) -> tuple[int, int]:
    """(B, S) of a batch."""
    batch_size, length = inputs["input_ids"].shape
    return batch_size, length


def _positions(numbers: Sequence[int], mask: Tensor) -> dict[str, Tensor]:
    return {"positions": layout.real_positions(mask)}
