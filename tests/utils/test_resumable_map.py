"""Pieces: what is made of rows, whatever the size of a piece, and only once. (Kills: test_augmenter.py.)"""

from __future__ import annotations

import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_tinybert.utils.resumable_map import ResumableMap

FEATURES = Features({"made": List(Value("int32"))})


def repeated(batch):
    """A row of n becomes n rows."""
    return {"made": [[n, m] for n in batch["number"] for m in range(n)]}


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 25))
def test_pieces_follow_each_other(tmp_path_factory, numbers, rows_at_once):
    data = Dataset.from_dict({"number": numbers, "other": ["x"] * len(numbers)})
    folder = tmp_path_factory.mktemp("pieces")
    made = ResumableMap(data, ["number"], "key", rows_at_once, folder).ensure(repeated, "Making", FEATURES)
    assert made["made"][:] == repeated({"number": numbers})["made"]
    assert made.features == FEATURES


def test_what_is_there_is_not_made_again(tmp_path):
    data = Dataset.from_dict({"number": [1, 2, 3]})
    first = ResumableMap(data, ["number"], "key", 2, tmp_path)
    first.ensure(repeated, "Making", FEATURES)
    again = ResumableMap(data, ["number"], "key", 2, tmp_path)
    assert again.folder == first.folder

    def never(batch):
        raise AssertionError

    assert len(again.ensure(never, "Making", FEATURES)) == 6
    next(iter(sorted(first.folder.glob("*.arrow")))).unlink()
    with pytest.raises(AssertionError):
        again.ensure(never, "Making", FEATURES)
    assert not list(tmp_path.rglob("*.partial*"))


def test_other_rows_keys_and_sizes_have_other_folders(tmp_path):
    data = Dataset.from_dict({"number": [1, 2, 3], "text": ["a", "b", "\U0001f60d"]})
    folders = {
        ResumableMap(data, ["number"], "key", 2, tmp_path).folder,
        ResumableMap(data, ["number"], "other", 2, tmp_path).folder,
        ResumableMap(data, ["number"], "key", 3, tmp_path).folder,
        ResumableMap(data, ["text"], "key", 2, tmp_path).folder,
        ResumableMap(data.select([0, 2, 1]), ["number"], "key", 2, tmp_path).folder,
        ResumableMap(data.select([0, 1]), ["number"], "key", 2, tmp_path).folder,
    }
    assert len(folders) == 6
    assert not list(tmp_path.iterdir())
