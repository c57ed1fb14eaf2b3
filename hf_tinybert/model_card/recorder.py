"""Records the metrics of a model card during training."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tinybert.model_card.facts import Scores


class Recorder(TrainerCallback):
    """Records the metrics of a model's current weights: those of the last step, or of the best checkpoint if loaded.

    Metrics of the teacher are paired with the student's on the same data set.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._students: dict[int, dict[str, tuple[object, dict[str, float]]]] = {}
        self._teachers: list[tuple[object, dict[str, float]]] = []
        self._step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Forget the metrics of earlier weights."""
        self._students.clear()
        self._step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Record the step of the current weights."""
        self._step = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Record the step of the final weights, and its metrics if they were logged before the run was resumed."""
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        self._step = state.global_step if best is None else int(str(best).rpartition("-")[2])
        if self._step not in self._students:
            logged = [entry for entry in state.log_history if entry.get("step") == self._step and "eval_loss" in entry]
            for entry in logged[-1:]:
                self.note_student({k: v for k, v in entry.items() if k.startswith("eval_")}, "eval", None)

    def note_student(self, metrics: Mapping[str, object], prefix: str, dataset: object) -> None:
        """Record metrics of the student's current weights.

        Args:
            metrics: with their prefix.
            prefix: name of the split.
            dataset: on which they were measured.
        """
        self._students.setdefault(self._step, {})[prefix] = (dataset, _numbers(metrics, prefix))

    def note_teacher(self, metrics: Mapping[str, object], prefix: str, dataset: object) -> None:
        """Record metrics of the teacher; the arguments are those of `note_student`."""
        self._teachers = [recorded for recorded in self._teachers if recorded[0] is not dataset]
        self._teachers.append((dataset, _numbers(metrics, prefix)))

    def scores(self) -> list[Scores]:
        """The metrics of the current weights, for each split."""
        scores = []
        for split, (dataset, student) in self._students.get(self._step, {}).items():
            teacher: Mapping[str, float] = {}
            if dataset is not None:
                teacher = next((metrics for data, metrics in self._teachers if data is dataset), {})
            scores.append(Scores(split, student, teacher))
        return scores


def _numbers(metrics: Mapping[str, object], prefix: str) -> dict[str, float]:
    """The metrics that are numbers, without their prefix."""
    start = f"{prefix}_"
    return {
        name.removeprefix(start): float(value)
        for name, value in metrics.items()
        if name.startswith(start) and isinstance(value, int | float) and not isinstance(value, bool)
    }
