"""Which signal a request gets, what is said about it, and what is written when."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import cache_worker
import pytest
import tiny_models

from hf_tinybert.teacher.cache import key, policy, store
from hf_tinybert.teacher.cache.policy import open_source
from hf_tinybert.teacher.cache.sources import CachedFeatures, CachedLogits
from hf_tinybert.teacher.source import OnlineTeacher


def opened(folder, *args, **changes):
    return open_source(cache_worker.live(), cache_worker.request(folder, *args, **changes))


@pytest.mark.parametrize(
    ("choice", "passes", "signal"),
    [
        ("none", (3, 1), OnlineTeacher),
        ("logits", (3, 1), CachedLogits),
        ("logits", (0, 2), CachedLogits),
        ("logits", (3, 0), OnlineTeacher),
        ("features", (3, 1), CachedFeatures),
        ("features", (3, 0), CachedFeatures),
        ("features", (0, 3), CachedLogits),
    ],
)
def test_what_a_choice_means(choice, passes, signal, tmp_path):
    found = opened(tmp_path, choice, intermediate_passes=passes[0], prediction_passes=passes[1])
    assert type(found) is signal
    assert any(tmp_path.iterdir()) == (signal is not OnlineTeacher)
    if signal is CachedFeatures:
        assert bool(found.store.layout.classes) == (passes[1] > 0)
    found.close()


def test_the_size_is_said_before_anything_is_written(tmp_path, caplog, monkeypatch):
    said = []

    class Store(store.FeatureStore):
        def ensure(self, *args):
            said.append((caplog.text, list(self.folder.glob("*.safetensors"))))
            super().ensure(*args)

    monkeypatch.setattr(policy, "FeatureStore", Store)
    found = opened(tmp_path / "new", "features")
    ((text, written),) = said
    assert written == []
    size = store.readable(found.store.total_bytes)
    assert f"Teacher cache: {size} of features (40 rows, {found.store._offsets[-1]} tokens, 168 numbers" in text
    assert f"float32) will be written to {found.store.folder}, where " in text
    (shard,) = found.store.folder.glob("*.safetensors")
    assert shard.stat().st_size == pytest.approx(found.store.total_bytes, rel=0.01)
    caplog.clear()
    opened(tmp_path / "new", "features").close()
    assert "will be written" not in caplog.text


def test_the_size_of_logits_is_said(tmp_path, caplog):
    opened(tmp_path, "logits").close()
    assert "Teacher cache: 480 B of logits will be written to" in caplog.text


def test_other_ranks_say_nothing(tmp_path, caplog):
    for choice in ("logits", "features", "auto"):
        opened(tmp_path, choice, rank=1, processes=2).close()
    assert caplog.text == ""


def test_a_folder_says_what_it_is(tmp_path):
    found = opened(tmp_path, "features")
    contents = json.loads((found.store.folder / "contents.json").read_text(encoding="utf-8"))
    assert key.key_of(contents)[:32] == found.store.folder.name
    assert contents["format"] == key.FORMAT
    assert contents["teacher"]["class"] == "BertForSequenceClassification"
    assert contents["layout"]["columns"][0] == ["hidden", 0, 24]
    assert not list(tmp_path.rglob("*.partial*"))


def crowded(free):
    return lambda folder: SimpleNamespace(free=free)


@pytest.mark.parametrize(("choice", "words"), [("features", "features take 442 kB more"), ("logits", "take 480 B")])
def test_what_does_not_fit_is_refused_and_nothing_is_written(choice, words, tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", crowded(300))
    with pytest.raises(OSError, match=rf"{words} in .*, where 300 B are free"):
        opened(tmp_path / "cache", choice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("choice", ["features", "logits"])
def test_what_is_complete_needs_no_room(choice, tmp_path, monkeypatch):
    signal = opened(tmp_path, choice)
    if choice == "logits":
        signal.table.put(range(40), cache_worker.torch.ones(40, 3))
    signal.close()
    monkeypatch.setattr(store.shutil, "disk_usage", crowded(0))
    opened(tmp_path, choice).close()


# auto


def test_auto_leaves_half_of_the_room_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(store.shutil, "disk_usage", crowded(700_000))
    found = opened(tmp_path, "auto")
    assert type(found) is CachedLogits
    assert "takes 'logits': features take 442 kB, and 700 kB are free in" in caplog.text


@pytest.mark.parametrize(("seconds", "passes", "signal"), [(0.3, 10, CachedFeatures), (0.0, 1.01, CachedLogits)])
def test_auto_takes_what_is_faster(seconds, passes, signal, tmp_path, caplog):
    """A teacher that takes its time is worth a cache; one that is asked for little more than once is not."""
    model = tiny_models.model()
    cache_worker.Passes(model, seconds)
    found = open_source(cache_worker.live(model), cache_worker.request(tmp_path, "auto", intermediate_passes=passes))
    assert type(found) is signal
    assert f"over {passes} passes for layers" in caplog.text
    assert not list(tmp_path.rglob("*.partial*"))
    assert len(list(tmp_path.glob("*/contents.json"))) == 1


def test_all_processes_take_what_the_first_one_takes(tmp_path):
    agreed = []

    def agree(value):
        agreed.append(value)
        return "none", "rank 0 says so"

    assert type(opened(tmp_path, "auto", agree=agree, rank=1, processes=2)) is OnlineTeacher
    assert len(agreed) == 1


def test_a_build_that_fails_leaves_the_folder_usable(tmp_path):
    model = tiny_models.model()
    live = cache_worker.live(model)
    model.classifier.register_forward_hook(lambda *_: shutil.rmtree(tmp_path / "cache", ignore_errors=True))
    request = cache_worker.request(tmp_path / "cache")
    with pytest.raises(OSError, match=r"cannot be written to .*cache.*choose another folder with teacher_cache_dir"):
        open_source(live, request)
    found = opened(tmp_path / "cache", "features")
    assert len(found.store.tokens(range(40))) == found.store._offsets[-1]
