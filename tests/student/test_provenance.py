"""What a student's configuration says of its origin."""

from __future__ import annotations

import factories

from hf_tinybert.student import provenance


def test_random_is_what_nothing_has_trained(teacher):
    student = factories.small_student(teacher, init="random")
    assert provenance.is_random(student)
    provenance.record(student, teacher, phases="joint")
    assert not provenance.is_random(student)
    assert not provenance.is_random(factories.small_student(teacher, init="teacher"))
    assert not provenance.is_random(teacher)
