"""Teacher sources that read what is cached, and run the teacher only for what is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_tinybert.models.features import Features
from hf_tinybert.teacher.cache import layout, rows
from hf_tinybert.teacher.cache.logits import LogitsTable
from hf_tinybert.teacher.cache.store import FeatureStore
from hf_tinybert.teacher.source import OnlineTeacher


class CachedLogits:
    """The teacher runs for layers, and once for each row's logits.

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

    def data(self, dataset: Any, collator: Any) -> tuple[Any, Any]:
        """Batches carry their rows' numbers."""
        return rows.numbered(dataset), rows.NumberedCollator(collator, _positions if self._per_token else None)

    def start_phase(self, layers: bool) -> None:
        """As the live teacher does."""
        self.live.start_phase(layers)

    def features(self, inputs: Mapping[str, Any], intermediate: bool, prediction: bool) -> Features:
        """Known logits, or the teacher's, which are known from then on: also where only layers were wanted."""
        numbers = rows.numbers_of(inputs)
        if numbers is None:
            return self.live.features(inputs, intermediate, prediction)
        positions = inputs[rows.KNOWLEDGE]["positions"] if self._per_token else None
        known = self.table.get(numbers)
        if known is None:
            features = self.live.features(inputs, intermediate, prediction=True)
            assert features.logits is not None
            logits = features.logits
            self.table.put(numbers, logits if positions is None else layout.real_tokens(logits, positions))
            return features
        features = self.live.features(inputs, True, prediction=False) if intermediate else Features()
        features.logits = known if positions is None else layout.spread(known, positions, inputs["input_ids"].shape)
        return features

    def flush(self, wait: Callable[[], None] | None = None) -> None:
        """Write the table, and take in what other processes have written."""
        self.table.flush()
        if wait is not None:
            wait()
            self.table.refresh()

    def close(self) -> None:
        """Write the table, and let the teacher go."""
        try:
            self.table.flush()
        finally:
            self.live.close()


class CachedFeatures:
    """Everything comes from disk; the teacher runs for rows that are not training data.

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

    def data(self, dataset: Any, collator: Any) -> tuple[Any, Any]:
        """Batches carry what is known of them, read where they are collated."""
        return rows.numbered(dataset), rows.NumberedCollator(collator, self._read)

    def start_phase(self, layers: bool) -> None:
        """Layers are read only while they are matched."""
        self._wants_layers.fill_(layers)
        self.live.start_phase(layers)

    def features(self, inputs: Mapping[str, Any], intermediate: bool, prediction: bool) -> Features:
        """What the batch carries, on its device."""
        if rows.numbers_of(inputs) is None:
            return self.live.features(inputs, intermediate, prediction)
        known = inputs[rows.KNOWLEDGE]
        shape, positions = tuple(inputs["input_ids"].shape), known["positions"]
        features = Features()
        if intermediate:
            features = self.store.layout.unpack(known["tokens"], positions, shape)
        if prediction:
            logits = known["logits"]
            features.logits = layout.spread(logits, positions, shape) if self.store.layout.per_token else logits
        return features

    def flush(self, wait: Callable[[], None] | None = None) -> None:
        """Everything is written."""

    def close(self) -> None:
        """Let the teacher go."""
        self.live.close()

    def _read(self, numbers: Sequence[int], mask: Tensor) -> dict[str, Tensor]:
        known = _positions(numbers, mask)
        if self._wants_layers:
            known["tokens"] = self.store.tokens(numbers)
        if self.store.layout.classes:
            known["logits"] = self.store.logits(numbers)
        return known


def _positions(numbers: Sequence[int], mask: Tensor) -> dict[str, Tensor]:
    return {"positions": layout.real_positions(mask)}
