"""Shards of features: every row once, read as it was written, built by whoever comes first."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from hf_tinybert.teacher.cache import store as stores
from hf_tinybert.teacher.cache.layout import Layout
from hf_tinybert.teacher.cache.store import FeatureStore

KEY = "k" * 64
COLUMNS = (("hidden", 0, 3), ("queries", 1, 2))
LENGTHS = np.array([3, 1, 4, 1, 5, 2, 6, 5, 3, 5])
LAYOUTS = {
    "layers": Layout(COLUMNS, "float32"),
    "logits of rows": Layout(COLUMNS, "float32", 4),
    "logits of tokens": Layout(COLUMNS, "float32", 4, per_token=True),
}


class Source:
    """Stands where the teacher stands: any numbers, the same for a row each time; notes what it was asked."""

    def __init__(self, layout, lengths=LENGTHS):
        generator = torch.Generator().manual_seed(0)
        self.layout = layout
        self.asked = []
        self.rows = [torch.randn(int(length), layout.width, generator=generator) for length in lengths]
        sizes = lengths if layout.per_token else np.ones_like(lengths)
        self.logits = [torch.randn(int(size), layout.classes, generator=generator) for size in sizes]

    def __call__(self, numbers):
        self.asked.append(list(numbers))
        logits = torch.cat([self.logits[number] for number in numbers]) if self.layout.classes else None
        tokens = torch.cat([self.rows[number] for number in numbers])
        return tokens.to(stores.DTYPES[self.layout.dtype]), logits


def new_store(folder, layout=LAYOUTS["logits of rows"], lengths=LENGTHS, shard_bytes=150):
    return FeatureStore(folder, KEY, layout, lengths, shard_bytes)


def assert_same_rows(store, source, numbers):
    expected = torch.cat([source.rows[number] for number in numbers]).to(stores.DTYPES[store.layout.dtype])
    assert torch.equal(store.tokens(numbers), expected)
    if store.layout.classes:
        assert torch.equal(store.logits(numbers), torch.cat([source.logits[number] for number in numbers]))


def shards(folder):
    return sorted(folder.glob("features-*.safetensors"))


def content(path):
    """What a file says; the order of its header's entries is chance."""
    with safe_open(path, framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(0, 900),
    st.sampled_from(sorted(LAYOUTS)),
)
def test_every_row_lies_in_one_shard_of_about_the_size(lengths, shard_bytes, layout):
    lengths = np.array(lengths)
    store = new_store("unused", LAYOUTS[layout], lengths, shard_bytes)
    rows = [row for first, last in store._bounds for row in range(first, last)]
    assert rows == list(range(len(lengths)))
    assert all(first < last for first, last in store._bounds)
    kept = LAYOUTS[layout]
    assert store.total_bytes == lengths.sum() * kept.token_bytes + len(lengths) * kept.row_bytes
    largest = lengths.max() * kept.token_bytes + kept.row_bytes
    assert max(store._shard_sizes) <= max(shard_bytes, 1) + largest


@pytest.mark.parametrize("shard_bytes", [1, 150, 10_000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_come_back_in_any_order(layout, shard_bytes, tmp_path):
    source = Source(LAYOUTS[layout])
    store = new_store(tmp_path, LAYOUTS[layout], shard_bytes=shard_bytes)
    assert store.missing_bytes == store.total_bytes
    store.ensure(source, batch_size=3)
    assert store.missing_bytes == 0
    assert sorted(row for batch in source.asked for row in batch) == list(range(10))
    assert max(map(len, source.asked)) <= 3
    for numbers in (range(10), [9, 0, 4], [5], [2, 2, 8]):
        assert_same_rows(store, source, list(numbers))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, tmp_path):
    layout = Layout(COLUMNS, dtype, 4)
    source = Source(layout)
    store = new_store(tmp_path, layout)
    store.ensure(source, 4)
    assert_same_rows(store, source, [3, 1, 9])
    assert store.tokens([0]).dtype == stores.DTYPES[dtype]
    exact = torch.cat([source.rows[number] for number in range(10)])
    torch.testing.assert_close(store.tokens(range(10)).float(), exact, rtol=2**-7, atol=1e-4)
    assert store.logits([0]).dtype == torch.float32
    on_disk = sum(path.stat().st_size for path in shards(tmp_path))
    assert store.total_bytes <= on_disk <= store.total_bytes + 600 * len(shards(tmp_path))


def test_what_is_there_is_not_built_again(tmp_path):
    source, again = Source(LAYOUTS["logits of rows"]), Source(LAYOUTS["logits of rows"])
    first = new_store(tmp_path)
    first.ensure(source, 4)
    first.ensure(again, 4)
    second = new_store(tmp_path)
    second.ensure(again, 4)
    assert again.asked == []
    assert_same_rows(second, source, list(range(10)))


def test_only_what_is_missing_is_built(tmp_path):
    source = Source(LAYOUTS["logits of rows"])
    store = new_store(tmp_path)
    store.ensure(source, 4)
    whole = {path: content(path) for path in shards(tmp_path)}
    assert len(whole) > 3
    gone = shards(tmp_path)[1]
    stays = {path: path.stat().st_mtime_ns for path in whole if path != gone}
    gone.unlink()
    store = new_store(tmp_path)
    assert store.missing_bytes == store._shard_sizes[1]
    source.asked.clear()
    store.ensure(source, 4)
    first, last = store._bounds[1]
    assert sorted(row for batch in source.asked for row in batch) == list(range(first, last))
    assert {path: content(path) for path in shards(tmp_path)} == whole
    assert {path: path.stat().st_mtime_ns for path in stays} == stays


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "neighbour", "other key"])
def test_damaged_shards_are_built_again(damage, tmp_path, caplog):
    source = Source(LAYOUTS["logits of rows"], np.full(10, 3))
    lengths = np.full(10, 3)
    new_store(tmp_path / "one", lengths=lengths).ensure(source, 4)
    FeatureStore(tmp_path / "two", "o" * 64, source.layout, lengths, 150).ensure(source, 4)
    victim, neighbour = shards(tmp_path / "one")[:2]
    whole, expected = victim.read_bytes(), content(victim)
    changes = {
        "flip": whole[:-1] + bytes([whole[-1] ^ 1]),
        "cut": whole[:-40],
        "empty": b"",
        "neighbour": neighbour.read_bytes(),
        "other key": (tmp_path / "two" / victim.name).read_bytes(),
    }
    victim.write_bytes(changes[damage])
    source.asked.clear()
    store = new_store(tmp_path / "one", lengths=lengths)
    store.ensure(source, 4)
    first, last = store._bounds[0]
    assert sorted(row for batch in source.asked for row in batch) == list(range(first, last))
    assert content(victim) == expected
    assert "is damaged" in caplog.text
    assert_same_rows(store, source, list(range(10)))


def test_a_batch_holds_rows_of_similar_length(tmp_path):
    source = Source(LAYOUTS["layers"])
    new_store(tmp_path, LAYOUTS["layers"], shard_bytes=10_000).ensure(source, 4)
    assert [LENGTHS[row] for batch in source.asked for row in batch] == sorted(LENGTHS, reverse=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 70_000.0])
def test_what_is_no_number_is_refused(value, tmp_path):
    layout = Layout(COLUMNS, "float16", 4)
    source = Source(layout)
    source.rows[6][2, 1] = value
    with pytest.raises(ValueError, match="do not fit into float16: use teacher_cache_dtype='bfloat16'"):
        new_store(tmp_path, layout).ensure(source, 4)
    written = sum(last - first for first, last in new_store(tmp_path, layout)._bounds[: len(shards(tmp_path))])
    assert written <= 6
    assert not list(tmp_path.glob("*.partial*"))


def test_what_the_disk_cannot_hold_is_refused(tmp_path):
    store = new_store(tmp_path / "new" / "folder", lengths=np.full(3, 10**15), shard_bytes=10**15)
    with pytest.raises(OSError, match=r"take \d+\.\d GB more in .*, where .* are free: use teacher_cache='logits'"):
        store.check_room()
    assert list(tmp_path.iterdir()) == []
    new_store(tmp_path).check_room()


def test_what_another_builder_is_at_is_waited_for(tmp_path):
    source = Source(LAYOUTS["logits of rows"])
    new_store(tmp_path).ensure(source, 4)
    third = shards(tmp_path)[2]
    content = third.read_bytes()
    third.unlink()
    source.asked.clear()
    store = new_store(tmp_path)
    lock = FileLock(str(tmp_path / "locks" / "2.lock"), thread_local=False)
    lock.acquire()

    def finish():
        third.write_bytes(content)
        lock.release()

    timer = threading.Timer(0.5, finish)
    timer.start()
    store.ensure(source, 4)
    timer.join()
    assert source.asked == []
    assert_same_rows(store, source, list(range(10)))


def test_a_copy_in_another_process_opens_the_shards_itself(tmp_path):
    source = Source(LAYOUTS["logits of rows"])
    store = new_store(tmp_path)
    store.ensure(source, 4)
    copied = pickle.loads(pickle.dumps(store))
    assert copied._open == {}
    assert_same_rows(copied, source, [9, 1])
    shards(tmp_path)[0].write_bytes(b"")
    with pytest.raises(stores.files.Damaged):
        pickle.loads(pickle.dumps(store)).tokens([0])


def test_sizes_for_people():
    assert [stores.readable(size) for size in (0, 999, 1000, 2.5e6, 3.21e9, 4e12)] == [
        "0 B",
        "999 B",
        "1 kB",
        "2 MB",
        "3.2 GB",
        "4000.0 GB",
    ]


def test_a_shard_is_of_256_mebibytes_unless_said_otherwise(tmp_path):
    layout = LAYOUTS["logits of rows"]
    rows = np.full(3, 2**27 // layout.token_bytes - 1)
    store = stores.FeatureStore(tmp_path, "key", layout, rows)
    assert store._bounds == [(0, 2), (2, 3)]
    assert store._shard_sizes[0] == pytest.approx(256 * 2**20, rel=0.01)
