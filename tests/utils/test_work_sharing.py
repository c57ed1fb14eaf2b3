"""Shared work: every part once, by whoever is free. (Kills: test_augmenter.py, test_trainer_cache_faults.py.)"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub.constants import HF_HOME

from hf_tinybert.utils.work_sharing import default_folder, share


def test_caches_live_where_the_hubs_do():
    assert default_folder("teacher_cache") == Path(HF_HOME) / "hf_tinybert" / "teacher_cache"


def test_a_part_that_another_does_comes_last(tmp_path):
    (tmp_path / "locks").mkdir()
    lock = FileLock(str(tmp_path / "locks" / "1.lock"), thread_local=False)
    lock.acquire()
    threading.Timer(0.5, lock.release).start()
    done = []
    share([0, 1, 2], tmp_path, done.append)
    assert done == [0, 2, 1]


def test_nothing_to_do(tmp_path):
    share([], tmp_path, lambda number: pytest.fail("there was nothing to do"))


def test_what_fails_leaves_its_lock(tmp_path):
    def fail(number):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        share([0], tmp_path, fail)
    with FileLock(str(tmp_path / "locks" / "0.lock"), timeout=0):
        pass
