"""The order of the student's classes among the teacher's, matched by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig


@dataclass(frozen=True)
class LabelAlignment:
    """The teacher's index of each of the student's classes.

    Attributes:
        indices: the teacher's index of each of the student's classes, in the student's order; None where they are the
            same.
    """

    indices: tuple[int, ...] | None = None

    @classmethod
    def from_configs(cls, student: PretrainedConfig, teacher: PretrainedConfig) -> LabelAlignment:
        """Match the classes by name.

        Default names (`LABEL_0`, ...) carry no information: the order is then taken to be the same.

        Raises:
            ValueError: the numbers of labels differ, or their names.
        """
        if student.num_labels != teacher.num_labels:
            raise ValueError(
                f"The teacher has {teacher.num_labels} labels and the student {student.num_labels}. Make the student "
                "with `create_student(teacher, ...)`, or its configuration with `TinyBertConfig.from_teacher`: both "
                "take the labels from the teacher."
            )
        student_labels, teacher_labels = (
            {int(index): label for index, label in config.id2label.items()} for config in (student, teacher)
        )
        if any(
            all(label == f"LABEL_{index}" for index, label in table.items())
            for table in (student_labels, teacher_labels)
        ):
            return cls()
        if student_labels == teacher_labels:
            return cls()
        index_of = {label: index for index, label in teacher_labels.items()}
        if sorted(student_labels.values()) != sorted(teacher_labels.values()) or len(index_of) < len(teacher_labels):
            raise ValueError(
                "Teacher and student have different labels, so their logits cannot be compared.\n"
                f"  teacher: {teacher_labels}\n  student: {student_labels}"
            )
        return cls(tuple(index_of[student_labels[index]] for index in range(len(student_labels))))

    def logits(self, teacher: Tensor) -> Tensor:
        """The teacher's logits `[..., C]` in the student's order."""
        return teacher if self.indices is None else teacher[..., list(self.indices)]

    def labels(self, student: Tensor) -> Tensor:
        """Gold labels in the teacher's numbers: class ids, -100 where ignored, or 0/1 values `[B, C]`."""
        if self.indices is None:
            return student
        indices = torch.tensor(self.indices, device=student.device)
        if student.is_floating_point():
            return torch.empty_like(student).index_copy_(-1, indices, student)
        return torch.where(student >= 0, indices[student.clamp(min=0)], student)
