"""Files are whole and what they say they are, or they are not read."""

from __future__ import annotations

import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from hf_tinybert.teacher.cache import files

KEY = "a" * 64
TENSORS = {"tokens": torch.arange(24, dtype=torch.float16).reshape(8, 3), "logits": torch.ones(2, 5)}
SHAPES = {"tokens": (8, 3), "logits": (2, 5)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "shard.safetensors"
    files.write(path, TENSORS, KEY)
    return path


def assert_whole(found):
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_what_was_written_is_read(path):
    assert [entry.name for entry in path.parent.iterdir()] == ["shard.safetensors"]
    assert_whole(files.read(path, SHAPES, KEY))
    assert_whole(files.read(path, None, KEY))


def test_a_file_written_over_is_the_new_one(path):
    opened = files.read(path, SHAPES, KEY)
    files.write(path, {"tokens": torch.zeros(1, 1)}, KEY)
    assert files.read(path, None, KEY)["tokens"].shape == (1, 1)
    assert_whole(opened)


@pytest.mark.parametrize("bit", [0x01, 0x20, 0x80])
def test_no_flipped_bit_is_ever_read(bit, path):
    """Every byte of the file: its length, its header and its data."""
    whole = path.read_bytes()
    harmless = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        try:
            found = files.read(path, SHAPES, KEY)
        except files.Damaged:
            continue
        assert_whole(found)
        harmless += 1
    assert harmless <= 8  # blanks that fill the header up


def test_a_file_cut_short_is_not_read(path):
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(files.Damaged):
            files.read(path, SHAPES, KEY)
    path.write_bytes(whole + b"\0")
    with pytest.raises(files.Damaged):
        files.read(path, SHAPES, KEY)
    path.write_bytes(bytes(len(whole)))  # as some file systems leave a file after a power cut
    with pytest.raises(files.Damaged):
        files.read(path, SHAPES, KEY)
    header = struct.unpack("<Q", whole[:8])[0]
    path.write_bytes(whole[: 8 + header] + bytes(len(whole) - 8 - header))
    with pytest.raises(files.Damaged, match="checksum"):
        files.read(path, SHAPES, KEY)


def test_other_keys_other_shapes_and_strangers_are_not_read(path, tmp_path):
    with pytest.raises(files.Damaged, match="belongs to other data or another teacher"):
        files.read(path, SHAPES, "b" * 64)
    with pytest.raises(files.Damaged, match="other shapes"):
        files.read(path, SHAPES | {"tokens": (4, 6)}, KEY)
    with pytest.raises(files.Damaged, match="other shapes"):
        files.read(path, {"tokens": (8, 3)}, KEY)
    stranger = tmp_path / "stranger.safetensors"
    save_file(TENSORS, stranger)
    with pytest.raises(files.Damaged, match="belongs to other data or another teacher"):
        files.read(stranger, SHAPES, KEY)
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "none.safetensors", SHAPES, KEY)


def test_reading_does_not_load_the_file(tmp_path):
    """Memory maps: a file's pages belong to the operating system, not to the process."""
    path = tmp_path / "large.safetensors"
    files.write(path, {"tokens": torch.ones(2**22)}, KEY)
    files.read(path, None, KEY)
    before = anonymous()
    kept = files.read(path, None, KEY)
    assert anonymous() - before < 2**22
    assert kept["tokens"][-1] == 1


def anonymous():
    """Bytes of this process that no file stands behind."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc here")
    with open("/proc/self/status", encoding="ascii") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def test_what_cannot_be_written_is_said_and_leaves_nothing(path, tmp_path):
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    (folder / "inside").touch()
    with pytest.raises(OSError, match=r"cannot be written to .*teacher_cache_dir, or use teacher_cache='logits'"):
        files.write(folder, TENSORS, KEY)
    gone = tmp_path / "gone" / "shard.safetensors"
    with pytest.raises(OSError, match=r"cannot be written to .*gone: .*No such file"):
        files.write(gone, TENSORS, KEY)
    assert {entry.name for entry in tmp_path.iterdir()} == {"shard.safetensors", "folder.safetensors"}
