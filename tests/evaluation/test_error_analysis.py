"""Who is right where, counted out."""

from __future__ import annotations

import numpy as np
import pytest

from hf_tinybert.evaluation import error_analysis


def test_shares_and_mistakes():
    gold = np.array([0, 0, 1, 1, 1])
    teacher = np.array([[2.0, 0], [3, 0], [0, 1], [0, 2], [5, 0]])
    student = np.array([[1.0, 0], [0, 1], [3, 0], [0, 9], [4, 0]])
    texts = ["a", "b", "c", "d", "e"]
    found = error_analysis.compare(student, teacher, gold, texts, {0: "no", 1: "yes"}, shown=20)
    assert (found.both, found.only_teacher, found.only_student, found.neither) == (0.4, 0.4, 0.0, 0.2)
    assert [(m.text, m.gold, m.answer) for m in found.mistakes] == [("c", "yes", "no"), ("b", "no", "yes")]
    assert [m.confidence for m in found.mistakes] == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))])
    for shown in (0, 1):
        assert (
            len(error_analysis.compare(student, teacher, gold, texts, {0: "no", 1: "yes"}, shown=shown).mistakes)
            == shown
        )


def test_the_student_may_know_better():
    found = error_analysis.compare(np.eye(2), 1 - np.eye(2), np.arange(2), ["a", "b"], {0: "x", 1: "y"}, shown=20)
    assert (found.both, found.only_teacher, found.only_student, found.neither) == (0.0, 0.0, 1.0, 0.0)
    assert found.mistakes == []
