"""Notes what a card will say while training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from hf_tinybert.model_card.facts import Scores


class Recorder(TrainerCallback):
    """Keeps the metrics that belong to the weights a model has now: of its last step, or of the best one loaded.

    Metrics of the teacher are set beside the student's on the same data set.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._students: dict[int, dict[str, tuple[Any, dict[str, float]]]] = {}
        self._teachers: list[tuple[Any, dict[str, float]]] = []
        self._step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What was measured before belongs to other weights."""
        self._students.clear()
        self._step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights are those of this step."""
        self._step = state.global_step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note of which step the weights are, and what was logged of it before a run was resumed."""
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        self._step = state.global_step if best is None else int(str(best).rpartition("-")[2])
        if self._step not in self._students:
            logged = [entry for entry in state.log_history if entry.get("step") == self._step and "eval_loss" in entry]
            for entry in logged[-1:]:
                self.note_student({k: v for k, v in entry.items() if k.startswith("eval_")}, "eval", None)

    def note_student(self, metrics: Mapping[str, Any], prefix: str, dataset: Any) -> None:
        """Note metrics of the student as it is now.

        Args:
            metrics: with their prefix.
            prefix: what the split is called.
            dataset: that they are of.
        """
        self._students.setdefault(self._step, {})[prefix] = (dataset, _numbers(metrics, prefix))

    def note_teacher(self, metrics: Mapping[str, Any], prefix: str, dataset: Any) -> None:
        """Note the teacher's metrics; the arguments are those of `note_student`."""
        self._teachers = [known for known in self._teachers if known[0] is not dataset]
        self._teachers.append((dataset, _numbers(metrics, prefix)))

    def scores(self) -> list[Scores]:
        """Metrics of the weights that are there now, split by split."""
        found = []
        for split, (dataset, student) in self._students.get(self._step, {}).items():
            teacher = next((known for own, known in self._teachers if own is dataset and own is not None), {})
            found.append(Scores(split, student, teacher))
        return found


def _numbers(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Those metrics that are numbers, without their prefix."""
    start = f"{prefix}_"
    return {
        name.removeprefix(start): float(value)
        for name, value in metrics.items()
        if name.startswith(start) and isinstance(value, int | float) and not isinstance(value, bool)
    }
