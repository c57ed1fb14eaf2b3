"""Faults of a teacher cache, made for real: killed builders, damaged and foreign files, a full disk, two at once.

After each of them the cache holds what an undisturbed build holds, bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import cache_worker
import factories
import pytest
import tiny_models
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import hooks

from hf_tinybert import DistillationTrainer, create_student
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.teacher.cache import policy
from hf_tinybert.teacher.cache.policy import open_source
from hf_tinybert.teacher.cache.store import FeatureStore

#: Passes of the teacher while a cache is opened, before any is for the cache.
OPENING = 2
#: Passes of the teacher in which a run looks at its start (twice), and at its end.
WATCHED = (2, 1)


def shards(folder):
    return sorted(Path(folder).glob("*/features-*.safetensors"))


def content(folder):
    """What the shards of a cache say; the order of a header's entries is chance."""
    said = {}
    for path in shards(folder):
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
            said[f"{path.parent.name}/{path.name}"] = file.metadata(), tensors
    return said


def leftovers(folder):
    return list(Path(folder).rglob("*.partial*"))


def identity(path):
    return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(policy, "FeatureStore", partial(FeatureStore, shard_bytes=cache_worker.SHARD_BYTES))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The content of a cache that nothing has happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "FeatureStore", partial(FeatureStore, shard_bytes=cache_worker.SHARD_BYTES))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        open_source(cache_worker.live(), cache_worker.request(folder)).close()
        torch.set_num_threads(threads)
    said = content(folder)
    assert len(said) > 8
    return folder, said


def run(process, code=0):
    process.start()
    process.join(timeout=120)
    assert process.exitcode == code


def open_here(folder, **changes):
    """Open, and say how many shards were built."""
    teacher = cache_worker.live()
    passes = cache_worker.Passes(teacher.model)
    open_source(teacher, cache_worker.request(folder, **changes)).close()
    return passes.count - OPENING


def test_killed_while_building(processes, undisturbed, small_shards, tmp_path):
    _, expected = undisturbed
    builder = processes.context.Process(target=cache_worker.build, args=(tmp_path,), kwargs={"seconds": 0.1})
    builder.start()
    deadline = time.monotonic() + 120
    while len(shards(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    builder.kill()
    builder.join()
    assert builder.exitcode == -signal.SIGKILL
    finished = {path: identity(path) for path in shards(tmp_path)}
    assert 3 <= len(finished) < len(expected), "the kill came too late to test anything"
    assert open_here(tmp_path) == len(expected) - len(finished)
    assert {path: identity(path) for path in finished} == finished
    assert content(tmp_path) == expected
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("cut", [False, True], ids=["all but renamed", "half written"])
def test_killed_while_a_shard_is_written(cut, processes, undisturbed, small_shards, tmp_path):
    _, expected = undisturbed
    run(
        processes.context.Process(target=cache_worker.build, args=(tmp_path,), kwargs={"die_at_file": 2}),
        code=-signal.SIGKILL,
    )
    (partial_file,) = leftovers(tmp_path)
    if cut:
        os.truncate(partial_file, partial_file.stat().st_size // 2)
    finished = {path: identity(path) for path in shards(tmp_path)}
    assert len(finished) == 2
    assert open_here(tmp_path) == len(expected) - 2
    assert {path: identity(path) for path in finished} == finished
    assert content(tmp_path) == expected
    assert leftovers(tmp_path) == []


def test_two_processes_build_at_once(processes, undisturbed, tmp_path):
    _, expected = undisturbed
    barrier = processes.context.Barrier(2)
    builders = [
        processes.context.Process(
            target=cache_worker.build,
            args=(tmp_path / "cache", tmp_path / f"report-{number}"),
            kwargs={"seconds": 0.03, "ready": barrier},
        )
        for number in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(timeout=120)
        assert builder.exitcode == 0
    built = [int((tmp_path / f"report-{number}").read_text()) - OPENING for number in range(2)]
    assert sum(built) == len(expected)
    assert min(built) > 0, "one of them came too late to test anything"
    assert content(tmp_path / "cache") == expected
    assert leftovers(tmp_path) == []


# Damaged and foreign files, as a run meets them


def steps(folder, choice, teacher=None, dataset=None, out=None, **changes):
    """Losses of every step, and final weights, of a tiny run over its data twice, once in each phase."""
    teacher = teacher or tiny_models.model()
    student = create_student(teacher, tiny_models.small_config(teacher), init="random")
    settings = {"max_steps": 10, "teacher_cache": choice, "teacher_cache_dir": str(folder), "logging_steps": 1}
    out = out or Path(folder).parent / "out"
    args = factories.arguments(out, teacher_cache_dtype="float32", **settings)
    for name, value in changes.items():
        setattr(args, name, value)
    trainer = DistillationTrainer(
        student,
        args,
        cache_worker.collate,
        cache_worker.data() if dataset is None else dataset,
        teacher=teacher,
    )
    passes = cache_worker.Passes(teacher)
    trainer.train()
    passes.remove()
    logged = [{n: v for n, v in entry.items() if n.startswith("loss_")} for entry in trainer.state.log_history[:-1]]
    assert len(logged) == 10
    return logged, factories.weights(trainer), passes.count


def assert_same_steps(one, other, exactly=False):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine == (theirs if exactly else pytest.approx(theirs, rel=1e-5, abs=1e-5))
    for name, value in one[1].items():
        tolerance = 0 if exactly else 1e-4
        torch.testing.assert_close(other[1][name], value, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def live_steps(tmp_path_factory):
    return steps(tmp_path_factory.mktemp("live") / "cache", "none")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, live_steps):
    """A cache of features in small shards, and the run that built it."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "FeatureStore", partial(FeatureStore, shard_bytes=cache_worker.SHARD_BYTES))
        result = steps(folder, "features")
    assert_same_steps(live_steps, result)
    return folder, result


def flip(path, place):
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0x10
    path.write_bytes(damaged)


DAMAGES = {
    "length of the header": lambda path, others: flip(path, 1),
    "header": lambda path, others: flip(path, 40),
    "first number": lambda path, others: flip(path, 8 + int.from_bytes(path.read_bytes()[:8], "little")),
    "last number": lambda path, others: flip(path, -1),
    "cut": lambda path, others: os.truncate(path, path.stat().st_size - 4),
    "empty": lambda path, others: os.truncate(path, 0),
    "neighbour": lambda path, others: shutil.copy(others[1], path),
}


def test_damaged_shards_are_never_trained_on(whole, small_shards, tmp_path, caplog):
    """Each shard is damaged in another way; then one run, which must be the undamaged one."""
    folder, expected = whole
    shutil.copytree(folder, tmp_path / "cache")
    before = content(tmp_path / "cache")
    victims = shards(tmp_path / "cache")
    assert len(victims) > len(DAMAGES)
    for path, damage in zip(victims, DAMAGES.values(), strict=False):
        damage(path, victims)
    result = steps(tmp_path / "cache", "features")
    assert_same_steps(expected, result, exactly=True)
    assert content(tmp_path / "cache") == before
    # The neighbour's copy was made before the neighbour itself was damaged, or after: it is foreign all the same.
    assert caplog.text.count("is damaged") == len(DAMAGES)
    assert result[2] == OPENING + sum(WATCHED) + len(DAMAGES)


def changed_weight():
    teacher = tiny_models.model()
    with torch.no_grad():
        Encoder.from_model(teacher).layers[2].intermediate.dense.weight[0, 0] += 0.5
    return {"teacher": teacher}


def changed_row():
    ids = list(cache_worker.data()["input_ids"])
    ids[17][2] += 1
    return {"dataset": cache_worker.data(input_ids=ids)}


CHANGES = {
    "weight": changed_weight,
    "row": changed_row,
    "one row less": lambda: {"dataset": cache_worker.data().select(range(39))},
    "mapping": lambda: {"layer_mapping": "0:0,1:2,2:3"},
    "level": lambda: {"attention_weight": 0.0},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_not_read_from_an_old_cache(change, whole, live_steps, small_shards, tmp_path):
    old, _ = whole
    changes = CHANGES[change]
    expected = steps(tmp_path / "none", "none", **changes())
    assert expected[0] != live_steps[0]
    shutil.copytree(old, tmp_path / "cache")
    before = content(old)
    assert_same_steps(expected, steps(tmp_path / "cache", "features", **changes()))
    after = content(tmp_path / "cache")
    assert {name: after[name] for name in before} == before
    assert len({name.partition("/")[0] for name in after}) == 2


def test_old_shards_under_a_new_keys_names_are_not_read(whole, small_shards, tmp_path):
    old, _ = whole
    result = steps(tmp_path / "cache", "features", **changed_row())
    expected = content(tmp_path / "cache")
    assert len(shards(tmp_path / "cache")) == len(shards(old))
    for path in shards(tmp_path / "cache"):
        shutil.copy(shards(old)[0], path)
    assert_same_steps(result, steps(tmp_path / "cache", "features", **changed_row()), exactly=True)
    assert content(tmp_path / "cache") == expected


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """Mounts file systems of a given size."""
    mounted = []

    def mount(size):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Leave no room on a disk."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return path


@pytest.mark.parametrize(
    ("choice", "words"),
    [("features", "features take .* more in .* are free"), ("logits", "logits take .*, where 0 B are free")],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(choice, words, small_disk, tmp_path):
    disk = small_disk("16k" if choice == "features" else "4k")
    if choice == "logits":
        fill(disk)
    before = sorted(disk.rglob("*"))
    with pytest.raises(OSError, match=words):
        steps(disk / "cache", choice, out=tmp_path / "out")
    assert sorted(disk.rglob("*")) == before


def test_room_that_vanishes_while_building(small_disk, undisturbed, small_shards):
    _, expected = undisturbed
    disk = small_disk("4m")
    teacher = cache_worker.live()

    def crowd(*_):
        if len(shards(disk)) == 2 and not (disk / "filler").exists():
            fill(disk)

    handle = Encoder.from_model(teacher.model).layers[0].register_forward_pre_hook(crowd)
    with pytest.raises(OSError, match=r"cannot be written to .*Make room there") as raised:
        open_source(teacher, cache_worker.request(disk))
    assert "teacher_cache_dir" in str(raised.value)
    handle.remove()
    teacher.close()
    assert leftovers(disk) == []
    finished = {path: identity(path) for path in shards(disk)}
    assert len(finished) == 2
    (disk / "filler").unlink()
    assert open_here(disk) == len(expected) - 2
    assert {path: identity(path) for path in finished} == finished
    assert content(disk) == expected
    fill(disk)
    assert open_here(disk) == 0  # what is complete needs no room


def test_room_that_vanishes_before_logits_are_written(small_disk, live_steps):
    disk = small_disk("1m")
    teacher = tiny_models.model()
    seen = []

    def crowd(*_):
        seen.append(1)
        if len(seen) == WATCHED[0] + OPENING + 2:
            fill(disk)

    before = hooks(teacher)
    handle = Encoder.from_model(teacher).layers[0].register_forward_pre_hook(crowd)
    with pytest.raises(OSError, match=r"cannot be written to .*disk-0.*Make room there"):
        steps(disk / "cache", "logits", teacher=teacher)
    handle.remove()
    assert hooks(teacher) == before + 1  # that of `steps`, which counts
    assert leftovers(disk) == []
    (disk / "filler").unlink()
    assert_same_steps(live_steps, steps(disk / "cache", "logits"))
    fill(disk)
    assert_same_steps(live_steps, steps(disk / "cache", "logits"))


# Training that is killed


@pytest.fixture(scope="module")
def undisturbed_logits(teacher_folder, tmp_path_factory):
    kept, _ = cache_worker.distil(teacher_folder, tmp_path_factory.mktemp("logits"), KILLED, dropout=0.1)
    return kept


#: Six steps an epoch: checkpoints fall into the first and the second pass, and on the end of the second.
KILLED = {"teacher_cache": "logits", "save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize(
    "step", [pytest.param(5, id="first pass", marks=pytest.mark.slow), pytest.param(10, id="later pass")]
)
def test_a_killed_run_with_logits_goes_on_exactly(step, processes, undisturbed_logits, teacher_folder, tmp_path):
    run(
        processes.context.Process(
            target=cache_worker.distil_to_file,
            args=(tmp_path / "never", teacher_folder, tmp_path, KILLED),
            kwargs={"dropout": 0.1, "kill_after": step},
        ),
        code=-signal.SIGKILL,
    )
    assert not (tmp_path / "never").exists()
    (learnt,) = (tmp_path / "cache").rglob("logits-*.safetensors")
    assert len(load_file(learnt)["rows"]) == min(step // 4 * 4, 6) * 8
    kept, _ = cache_worker.distil(teacher_folder, tmp_path, KILLED, dropout=0.1, resume=True)
    final = {name: value for name, value in undisturbed_logits.items() if not name.startswith("gradient.")}
    assert {name for name in kept if not name.startswith("gradient.")} == final.keys()
    assert any(name.startswith("projections.") for name in final)
    for name, value in final.items():
        assert torch.equal(kept[name], value), name
