"""The teacher's variance at every level, relative to which losses are measured.

Hidden states, attention scores and outputs of two teachers can differ in size by a factor of a hundred, and in one
teacher from level to level. A loss divided by the teacher's variance is the share of it that the student does not
explain: 1 for the best constant, whatever the teacher. (The paper adds the levels' losses as they are; its teacher is
always the same.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.objective import ObjectiveConfig
from hf_tinybert.models.features import Features

#: A level whose variance is less than this share of the mean of its kind is taken to have this much.
_LEAST = 1e-4


class TeacherVariance:
    """Sums over batches of the teacher's features, from which `compute` makes the variances.

    Args:
        settings: which levels are matched.
    """

    def __init__(self, settings: ObjectiveConfig) -> None:
        """Start empty."""
        self._settings = settings
        self._sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def update(self, teacher: Features, mask: Tensor | None) -> None:
        """Add a batch.

        Args:
            teacher: with the matched layers, and logits where the prediction level is matched.
            mask: `[B, S]`, 1 for real positions, or None.
        """
        settings = self._settings
        for layer in settings.hidden_layers:
            hidden = teacher.hidden[settings.mapping[layer]]
            real = hidden.flatten(0, 1) if mask is None else hidden[mask.bool()]
            self._add(Level.of_states(layer), real)
        for layer in settings.attention_layers:
            scores = None
            if settings.heads is not None:
                scores = settings.heads.teacher_scores(layer, settings.mapping[layer], teacher, mask)
            if scores is not None:
                self._add(Level("attention", layer), scores)
        if settings.prediction.has_variance and teacher.logits is not None:
            self._add(Level("prediction"), teacher.logits)

    def _add(self, level: Level, values: Tensor) -> None:
        """Add values `[n, features]`."""
        values = values.double()
        new = (values.new_tensor(len(values)), values.sum(dim=0), values.square().sum(dim=0))
        old = self._sums.get(level.name)
        self._sums[level.name] = new if old is None else (old[0] + new[0], old[1] + new[1], old[2] + new[2])

    def compute(self) -> dict[str, float]:
        """Level name -> variance: of each feature about its mean, and the mean of that over features."""
        found: dict[str, float] = {}
        for name, (count, total, squares) in self._sums.items():
            mean = total / count
            found[name] = float((squares / count - mean.square()).clamp(min=0.0).mean())
        return {name: max(value, _LEAST * _typical(found, name)) for name, value in found.items()}


def _typical(variances: Mapping[str, float], name: str) -> float:
    """The mean variance of the levels of a kind; 1 where all are 0."""
    kind = Level.parse(name).kind
    values = [value for other, value in variances.items() if Level.parse(other).kind == kind]
    return sum(values) / len(values) or 1.0
