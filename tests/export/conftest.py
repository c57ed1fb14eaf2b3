"""What the tests of exporting share: students that are exported again and again, traced once."""

from __future__ import annotations

import factories
import pytest
from traced_once import traced_once


@pytest.fixture(scope="session", autouse=True)
def once():
    with traced_once():
        yield


@pytest.fixture(scope="session")
def classifier_folder(teacher_folder, tmp_path_factory):
    """A student of the small teacher, with its tokenizer; for reading."""
    folder = tmp_path_factory.mktemp("classifier")
    factories.small_student(factories.load(teacher_folder), init="teacher").save_pretrained(folder)
    factories.tokenizer().save_pretrained(folder)
    return folder
