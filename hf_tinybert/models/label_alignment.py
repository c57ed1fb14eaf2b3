"""What the classes of teacher and student have to do with each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig


@dataclass(frozen=True)
class LabelOrder:
    """Where the student's classes are among the teacher's.

    Attributes:
        places: the teacher's index of each of the student's classes, in the student's order; None where they are the
            same.
    """

    places: tuple[int, ...] | None = None

    @classmethod
    def between(cls, student: PretrainedConfig, teacher: PretrainedConfig) -> LabelOrder:
        """Match the classes by name.

        Names that transformers made up (`LABEL_0`, ...) say nothing: then the order is taken to be the same.

        Raises:
            ValueError: the numbers of labels differ, or their names.
        """
        if student.num_labels != teacher.num_labels:
            raise ValueError(
                f"The teacher has {teacher.num_labels} labels and the student {student.num_labels}. Make the student "
                "with `create_student(teacher, ...)`, or its configuration with `TinyBertConfig.from_teacher`: both "
                "take the labels from the teacher."
            )
        ours, theirs = (
            {int(index): label for index, label in config.id2label.items()} for config in (student, teacher)
        )
        if any(all(label == f"LABEL_{index}" for index, label in table.items()) for table in (ours, theirs)):
            return cls()
        if ours == theirs:
            return cls()
        place = {label: index for index, label in theirs.items()}
        if sorted(ours.values()) != sorted(theirs.values()) or len(place) < len(theirs):
            raise ValueError(
                "Teacher and student have different labels, so their logits cannot be compared.\n"
                f"  teacher: {theirs}\n  student: {ours}"
            )
        return cls(tuple(place[ours[index]] for index in range(len(ours))))

    def logits(self, teacher: Tensor) -> Tensor:
        """The teacher's logits `[..., C]` in the student's order."""
        return teacher if self.places is None else teacher[..., list(self.places)]

    def labels(self, student: Tensor) -> Tensor:
        """Gold labels in the teacher's numbers: class ids, -100 where ignored, or 0/1 values `[B, C]`."""
        if self.places is None:
            return student
        places = torch.tensor(self.places, device=student.device)
        if student.is_floating_point():
            return torch.empty_like(student).index_copy_(-1, places, student)
        return torch.where(student >= 0, places[student.clamp(min=0)], student)
