"""The benchmark of one training step: it runs, and its variants compute what they are said to."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "training_step.py"
MATCHING = ["ours", "in-memory", "plain", "authors"]
MAY_BE_LEFT_OUT = {"textbrewer"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("training_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def bench(script, monkeypatch):
    """Tiny models without dropout, so that losses can be compared."""
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        monkeypatch.setitem(script.SMOKE_STUDENT, name, 0.0)
    return script.Bench(length=12, batch_size=3, device=torch.device("cpu"), bf16=False, smoke=True)


def start_alike(variants):
    """Give all projections of all variants the same weights."""
    generator = torch.Generator().manual_seed(0)
    first = next(projection_layers(variants[0]))
    weight = torch.randn(first.weight.shape, generator=generator) * 0.1
    for variant in variants:
        for linear in projection_layers(variant):
            linear.weight.data.copy_(weight)
            linear.bias.data.zero_()


def projection_layers(variant):
    return (layer for module in variant.projections for layer in module.modules() if hasattr(layer, "weight"))


def test_it_measures_prints_and_draws(script, processes, tmp_path):
    output = tmp_path / "made" / "results.json"
    words = ["--smoke", "--lengths", "16", "--steps", "2", "--warmup", "1", "--memory", "--output", output]
    done = processes.run(SCRIPT, *words)
    assert done.returncode == 0, done.stderr
    saved = json.loads(output.read_text())
    measured = {row["variant"]: row for row in saved["measurements"]}
    assert set(measured) | set(saved["left_out"]) == set(script.VARIANTS)
    assert len(measured) == len(saved["measurements"])
    assert set(saved["left_out"]) <= MAY_BE_LEFT_OUT
    assert {(row["length"], row["batch_size"], len(row["seconds"])) for row in measured.values()} == {(16, 2, 2)}
    assert min(second for row in measured.values() for second in row["seconds"]) > 0
    assert not [name for name, row in measured.items() if "peak_bytes" in row]
    wanted = {"lengths": [16], "batch_sizes": [2], "steps": 2, "warmup": 1, "precision": "fp32", "smoke": True}
    assert saved["settings"] == wanted | {"device": "cpu", "variants": list(script.VARIANTS)}
    assert saved["machine"]["torch"] == torch.__version__
    assert script.tables(saved) in done.stdout
    assert all(f"{name} is left out" in done.stdout for name in saved["left_out"])
    assert (tmp_path / "made" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in output.parent.iterdir()) == ["results.json", "results.png"]


def test_the_same_matches_give_the_same_loss(script, bench):
    ours, in_memory, plain, authors = (script.VARIANTS[name].make(bench) for name in MATCHING)
    start_alike([ours, in_memory, plain, authors])
    wanted = ours.loss().item()
    assert in_memory.loss().item() == pytest.approx(wanted, rel=1e-6)
    assert authors.loss().item() == pytest.approx(wanted, rel=1e-4)
    # The maps that transformers returns come after the softmax: another loss.
    assert plain.loss().item() != pytest.approx(wanted, rel=1e-4)


def test_textbrewer_matches_what_the_plain_trainer_matches(script, bench):
    pytest.importorskip("textbrewer")
    textbrewer, plain = script.textbrewer(bench), script.plain(bench)
    start_alike([textbrewer, plain])
    assert textbrewer.loss().item() == pytest.approx(plain.loss().item(), rel=1e-5)


def test_every_variant_trains_the_whole_student(script, bench):
    left_out = set()
    for name, kind in script.VARIANTS.items():
        try:
            variant = kind.make(bench)
        except script.Unavailable:
            left_out.add(name)
            continue
        encoder = variant.student.base_model.encoder
        before = [parameter.clone() for parameter in encoder.parameters()]
        variant.step()
        after = list(encoder.parameters())
        assert len(after) > 30, name
        assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True)), name
    assert left_out <= MAY_BE_LEFT_OUT


def test_peak_memory_is_asked_of_another_process(script, monkeypatch, capsys):
    def run_here(command, **_):
        assert command[:2] == [sys.executable, str(SCRIPT)]
        monkeypatch.setattr(sys, "argv", command[1:])
        script.main()
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out, "")

    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--smoke", "--lengths", "32", "--batch-sizes", "64"])
    options = script.parse()
    monkeypatch.setattr(script.subprocess, "run", run_here)
    peak = script.measure_peak("ours", 32, 64, options)
    if Path("/proc/self/status").is_file():
        # The student's feed-forward layers alone keep 64 x 32 x 48 numbers four times over.
        assert 2 * 2**20 < peak < 200 * 2**20


HELD = """
import sys, time, torch
sys.path.insert(0, ".")
import training_step as script

class Step:
    def step(self):
        held = torch.ones(2**25)  # 128 MiB
        time.sleep(0.5)
        del held

before = script.status("VmRSS")
print(script.sampled_peak(Step()) - before)
"""


def test_peak_memory_counts_what_a_step_takes_and_gives_back(processes):
    """In a process of its own: what earlier tests left is given back at any time."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("there is no /proc here")
    done = processes.run("-c", HELD, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr
    assert 128 * 2**20 <= int(done.stdout) < 160 * 2**20


def saved_run(**times):
    rows = [
        {"variant": name.replace("_", "-"), "length": 128, "batch_size": 32, "seconds": [seconds] * 3}
        for name, seconds in times.items()
    ]
    machine = {"cpu": "a CPU", "threads": 2, "cores": 2, "torch": "2", "transformers": "4"}
    settings = {"steps": 3, "warmup": 0, "precision": "fp32", "smoke": False}
    return {"machine": machine, "settings": settings, "left_out": {}, "measurements": rows}


def test_goals_say_pass_miss_or_not_measured(script):
    saved = saved_run(floor=1.0, ours=1.2, plain=1.5)
    lines = script.goals(saved).splitlines()
    assert any(line.startswith("- MISS: time of ours / floor at 128: 1.20, goal at most 1.10") for line in lines)
    assert any(line.startswith("- pass: time of plain / ours at 128: 1.25, goal at least 1.15") for line in lines)
    assert any(line.startswith("- not measured: time of ours / floor at 512") for line in lines)
    assert any(line.startswith("- not measured: time of textbrewer / ours at 128") for line in lines)


def test_the_table_holds_medians_ratios_and_tokens_a_second(script):
    saved = saved_run(floor=2.0, ours=2.5, fine_tuning=0.5)
    table = script.tables(saved)
    assert "| 128 x 32 | ours | 2500.0 | 2500.0 to 2500.0 | 1.25 | 1638 | - |" in table
    assert "| 128 x 32 | fine-tuning | 500.0 | 500.0 to 500.0 | 1.00 | 8192 | - |" in table
    assert math.isclose(script.ratio(script.by_length(saved)[128], "ours", "floor"), 1.25)
