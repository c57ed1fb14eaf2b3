from __future__ import annotations

import pytest

from hf_tinybert import tasks


def test_names_and_classes_agree():
    assert tuple(tasks.TASKS) == tasks.NAMES
    assert tuple(name for name, task in tasks.TASKS.items() if not task.needs_teacher) == tasks.WITH_LABELS


@pytest.mark.parametrize("name", tasks.__all__)
def test_every_name_is_there(name):
    assert getattr(tasks, name) is not None
    assert name in dir(tasks)
