"""Predictions of teacher and student compared with the gold labels, and the mistakes of the student alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mistake:
    """An example that the teacher predicts correctly and the student does not.

    Attributes:
        text: the input.
        gold: name of the gold label, which the teacher predicts.
        answer: name of the label that the student predicts.
        confidence: the student's probability of its prediction.
    """

    text: str
    gold: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Answers:
    """Predictions of both models on the same examples.

    Attributes:
        both: share of examples that both predict correctly.
        only_teacher: share that only the teacher predicts correctly.
        only_student: share that only the student predicts correctly.
        neither: share that neither predicts correctly.
        mistakes: mistakes of the student alone, the most confident first.
    """

    both: float
    only_teacher: float
    only_student: float
    neither: float
    mistakes: Sequence[Mistake]


def compare(
    student: NDArray[np.float32],
    teacher: NDArray[np.float32],
    gold: NDArray[np.int64],
    texts: Sequence[str],
    names: Mapping[int, str],
    shown: int,
) -> Answers:
    """Compare the predictions of both models.

    Args:
        student: logits `[n, classes]`.
        teacher: logits of the teacher, with its classes in the student's order.
        gold: class ids, `[n]`.
        texts: n inputs.
        names: class id -> name.
        shown: the largest number of mistakes to list.
    """
    predictions = student.argmax(-1)
    student_right, teacher_right = predictions == gold, teacher.argmax(-1) == gold
    confidence = torch.from_numpy(student).softmax(-1).amax(-1).numpy()
    alone = np.flatnonzero(teacher_right & ~student_right)
    alone = alone[np.argsort(-confidence[alone], kind="stable")][:shown]
    return Answers(
        both=float((student_right & teacher_right).mean()),
        only_teacher=float((teacher_right & ~student_right).mean()),
        only_student=float((student_right & ~teacher_right).mean()),
        neither=float((~student_right & ~teacher_right).mean()),
        mistakes=[
            Mistake(texts[i], names[int(gold[i])], names[int(predictions[i])], float(confidence[i]))
            for i in alone.tolist()
        ],
    )
