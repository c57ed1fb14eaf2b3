"""Notes what a card will say while training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from hf_tinybert.card.facts import Scores


class Recorder(TrainerCallback):
    """Keeps the metrics that belong to the weights a model has now: of its last step, or of the best one loaded."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._students: dict[int, dict[str, dict[str, float]]] = {}
        self._teachers: dict[str, dict[str, float]] = {}
        self._last_split: str | None = None
        self._step = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """What was measured before belongs to other weights."""
        self._students.clear()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, float], **kwargs: Any) -> None:
        """Note the student's metrics."""
        for name, value in metrics.items():
            split, _, metric = name.partition("_")
            if metric and isinstance(value, int | float):
                self._students.setdefault(self._loaded(state), {}).setdefault(split, {})[metric] = float(value)
                self._last_split = split

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note of which step the weights are."""
        best = getattr(state, "best_model_checkpoint", None)
        chosen = args.load_best_model_at_end and best is not None
        self._step = int(str(best).rpartition("-")[2]) if chosen else state.global_step
        self._trained = state.global_step

    def note_teacher(self, metrics: Mapping[str, float], prefix: str, own_data: bool) -> None:
        """Note the teacher's metrics, on the trainer's own evaluation data or on what the student was last shown."""
        split = self._last_split if own_data else "eval"
        if split is not None:
            known = {name.removeprefix(f"{prefix}_"): float(value) for name, value in metrics.items()}
            self._teachers[split] = known

    def scores(self) -> list[Scores]:
        """Metrics of the weights that are there now, split by split."""
        found = self._students.get(self._step, {})
        return [Scores(split, student, self._teachers.get(split, {})) for split, student in found.items()]

    def _loaded(self, state: Any) -> int:
        """The step of the weights that are measured: after training that may be an earlier one than the last."""
        after = getattr(self, "_trained", None) == state.global_step
        return self._step if after else state.global_step
