"""What teacher and student answer: where both are right, and which mistakes the student makes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Mistake:
    """A case that the teacher has right and the student wrong.

    Attributes:
        text: what was asked.
        gold: the right answer, which is the teacher's.
        answer: the student's.
        confidence: the probability that the student gave its own answer.
    """

    text: str
    gold: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Answers:
    """Answers of both to the same questions.

    Attributes:
        both: share of cases that both have right.
        only_teacher: that the teacher alone has right.
        only_student: that the student alone has right.
        neither: that none has right.
        mistakes: of the student alone, the most confident first.
    """

    both: float
    only_teacher: float
    only_student: float
    neither: float
    mistakes: Sequence[Mistake]


def compare(
    student: np.ndarray,
    teacher: np.ndarray,
    gold: np.ndarray,
    texts: Sequence[str],
    names: Mapping[int, str],
    shown: int,
) -> Answers:
    """Compare logits.

    Args:
        student: logits `[n, classes]`.
        teacher: the same of the teacher, with its classes in the student's order.
        gold: class ids, `[n]`.
        texts: n of them.
        names: class id -> name.
        shown: mistakes to list, at most.
    """
    own, theirs = student.argmax(-1), teacher.argmax(-1)
    right, above = own == gold, theirs == gold
    confidence = torch.from_numpy(student).softmax(-1).amax(-1).numpy()
    alone = np.flatnonzero(above & ~right)
    alone = alone[np.argsort(-confidence[alone], kind="stable")][:shown].tolist()
    return Answers(
        both=float((right & above).mean()),
        only_teacher=float((above & ~right).mean()),
        only_student=float((right & ~above).mean()),
        neither=float((~right & ~above).mean()),
        mistakes=[
            Mistake(texts[int(i)], names[int(gold[i])], names[int(own[i])], float(confidence[i])) for i in alone
        ],
    )
