"""The table of logits: what is known, what is kept, what is believed of files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_tinybert.teacher.cache import files
from hf_tinybert.teacher.cache.logits import LogitsTable

KEY = "k" * 64
ROWS = np.ones(8, dtype=np.int64)
TOKENS = np.array([3, 1, 4, 1, 5, 2, 0, 6])


def new_table(folder, lengths=ROWS, key=KEY, name="0-of-1"):
    return LogitsTable(folder, key, lengths, 3, torch.device("cpu"), name)


def logits_of(rows, lengths=ROWS):
    """Row r's vectors are r, r + 0.01, r + 0.02 and so on."""
    steps = [row + 0.01 * torch.arange(int(lengths[row])) for row in rows]
    return torch.cat(steps).unsqueeze(-1).expand(-1, 3)


@pytest.mark.parametrize("lengths", [ROWS, TOKENS], ids=["rows", "tokens"])
def test_what_is_put_in_comes_out_in_any_order(lengths, tmp_path):
    table = new_table(tmp_path, lengths)
    assert table.get([0]) is None
    for rows in ([4, 0, 6], [7, 1], [5, 2, 3]):
        assert not table.complete
        table.put(rows, logits_of(rows, lengths))
        assert torch.equal(table.get(rows), logits_of(rows, lengths))
    assert table.complete
    for rows in ([7, 6, 5, 4, 3, 2, 1, 0], [2, 2], (0,)):
        assert torch.equal(table.get(rows), logits_of(rows, lengths))


def test_a_batch_with_one_unknown_row_is_not_known(tmp_path):
    table = new_table(tmp_path)
    table.put([0, 1], logits_of([0, 1]))
    assert table.get([0, 1, 2]) is None


@pytest.mark.parametrize("lengths", [ROWS, TOKENS], ids=["rows", "tokens"])
def test_what_is_known_stays_as_it_is(lengths, tmp_path):
    table = new_table(tmp_path, lengths)
    table.put([4, 1], logits_of([4, 1], lengths))
    table.put([0, 4, 5, 1], -logits_of([0, 4, 5, 1], lengths))
    assert torch.equal(table.get([4, 1]), logits_of([4, 1], lengths))
    assert torch.equal(table.get([5, 0]), -logits_of([5, 0], lengths))


@pytest.mark.parametrize("lengths", [ROWS, TOKENS], ids=["rows", "tokens"])
def test_the_next_run_knows_what_this_one_learnt(lengths, tmp_path):
    table = new_table(tmp_path / "new", lengths)
    table.flush()
    assert not (tmp_path / "new").exists()
    table.put([5, 2], logits_of([5, 2], lengths))
    table.flush()
    again = new_table(tmp_path / "new", lengths)
    assert torch.equal(again.get([2, 5]), logits_of([2, 5], lengths))
    assert again.get([2, 3]) is None
    again.put([0, 1, 3, 4, 6, 7], logits_of([0, 1, 3, 4, 6, 7], lengths))
    again.flush()
    last = new_table(tmp_path / "new", lengths)
    assert last.complete
    assert torch.equal(last.get(range(8)), logits_of(range(8), lengths))
    assert [path.name for path in (tmp_path / "new").glob("*.safetensors*")] == ["logits-0-of-1.safetensors"]


def test_nothing_new_is_not_written_again(tmp_path):
    table = new_table(tmp_path)
    table.put([1], logits_of([1]))
    table.flush()
    path = tmp_path / "logits-0-of-1.safetensors"
    before = path.stat()
    table.put([1], logits_of([1]))
    table.flush()
    new_table(tmp_path).flush()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_processes_learn_from_each_other(tmp_path):
    tables = [new_table(tmp_path, TOKENS, name=f"{rank}-of-2") for rank in range(2)]
    for rank, table in enumerate(tables):
        mine = list(range(rank, 8, 2))
        table.put(mine, logits_of(mine, TOKENS))
        table.flush()
    for table in tables:
        table.refresh()
        assert table.complete
        assert torch.equal(table.get([3, 0, 7]), logits_of([3, 0, 7], TOKENS))
    alone = new_table(tmp_path, TOKENS)
    assert alone.complete
    alone.flush()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", ["other key", "flip", "cut", "empty", "other tensors", "too many rows"])
def test_files_that_are_not_what_they_should_be_are_removed(damage, tmp_path, caplog):
    table = new_table(tmp_path)
    table.put([0, 1], logits_of([0, 1]))
    table.flush()
    path = tmp_path / "logits-0-of-1.safetensors"
    whole = path.read_bytes()
    good = {"rows": torch.tensor([0]), "values": torch.ones(1, 3)}
    if damage == "other key":
        files.write(path, good, "o" * 64)
    elif damage == "other tensors":
        files.write(path, {"rows": torch.tensor([0])}, KEY)
    elif damage == "too many rows":
        files.write(path, good | {"rows": torch.tensor([8])}, KEY)
    else:
        changes = {"flip": whole[:-2] + bytes([whole[-2] ^ 4]) + whole[-1:], "cut": whole[:-1], "empty": b""}
        path.write_bytes(changes[damage])
    again = new_table(tmp_path)
    assert "is damaged" in caplog.text
    assert not path.exists()
    assert all(again.get([row]) is None for row in range(8))


def test_half_written_files_are_not_read(tmp_path):
    table = new_table(tmp_path)
    table.put([0], logits_of([0]))
    table.flush()
    path = tmp_path / "logits-0-of-1.safetensors"
    path.rename(path.with_name(path.name + ".partial-1"))
    assert new_table(tmp_path).get([0]) is None


def test_half_written_files_do_not_pile_up(tmp_path):
    leftover = tmp_path / "logits-0-of-1.safetensors.partial-1"
    leftover.touch()
    table = new_table(tmp_path)
    table.put([0], logits_of([0]))
    table.flush()
    assert not leftover.exists()


def test_half_precision_is_kept_as_float32(tmp_path):
    table = new_table(tmp_path)
    table.put([2], torch.full((1, 3), 0.1, dtype=torch.bfloat16))
    assert table.get([2]).dtype == torch.float32
    assert torch.equal(table.get([2]), torch.full((1, 3), 0.1, dtype=torch.bfloat16).float())
