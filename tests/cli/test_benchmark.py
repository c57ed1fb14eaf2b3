from __future__ import annotations

import json

import pytest
import tiny_models
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_tinybert.utils.latency import machine_name

QUICK = ["--batch-sizes", 1, 2, "--lengths", 4, 8, "--rounds", 2, "--warm-up", 0, "--threads", 1, "--use-cpu"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.model().save_pretrained(folder)
    return folder


def test_models_and_shapes_side_by_side(command, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--models", f"teacher={tiny}", tiny, "--shapes", "tinybert-3l-192d", "--runtimes", "pytorch"]
    result = command("benchmark", *flags, *QUICK, "--output-dir", tmp_path / "new" / "folder")
    assert result.code == 0, result
    lines = result.out.splitlines()
    assert f"{machine_name('cpu')}, torch {torch.__version__}, transformers " in lines[0]
    assert lines[1] == "2 rounds in turns after 0 of warm-up; speed-up against teacher, pytorch"
    labels = ["teacher, pytorch", "tiny, pytorch", "tinybert-3l-192d (random weights), pytorch"]
    for label in labels:
        assert sum(line.startswith(label) for line in lines) == 5
    blocks = [f"1 thread, batch of {batch}, {length} tokens" for batch in (1, 2) for length in (4, 8)]
    assert [line.split("  ")[0] for line in lines if line.startswith("1 thread, batch of")] == blocks
    assert "timing batches of 2, 8 tokens, threads: 1" in result.err

    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["benchmark.json"]
    saved = json.loads((tmp_path / "new" / "folder" / "benchmark.json").read_text())
    assert saved["plan"] == {"batch_sizes": [1, 2], "lengths": [4, 8], "threads": [1], "rounds": 2, "warm_up": 0}
    assert [cost["name"] for cost in saved["costs"]] == ["teacher", "tiny", "tinybert-3l-192d"]
    assert set(saved["costs"][0]["flops"]) == {"4", "8"}
    assert len(saved["timings"]) == 12
    for timing in saved["timings"]:
        assert f"{timing['median_ms']:.2f} ms" in result.out
        assert f"{timing['sequences_per_second']:,.1f}" in result.out


def test_of_a_real_teacher(command, teacher_folder, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--batch-sizes", 1, "--lengths", 32, "--rounds", 3, "--warm-up", 1, "--threads", 1, "--use-cpu"]
    result = command("benchmark", "--models", f"small={teacher_folder}", "--runtimes", "pytorch", *flags)
    assert result.code == 0, result
    assert not list(tmp_path.iterdir())
    rows = [line.split() for line in result.out.splitlines() if line.startswith("small, pytorch ")]
    layers = 2 * 32 * 4 * (4 * 96 * 96 + 2 * 96 * 192) + 4 * 4 * 32 * 32 * 96
    flops = f"{(layers + 2 * (96 * 96 + 96 * 12)) / 1e6:.1f}"
    parameters, size = f"{teacher.num_parameters() / 1e6:.1f}", f"{4 * teacher.num_parameters() / 1e6:.1f}"
    assert rows[0] == ["small,", "pytorch", parameters, "M", flops, "M", size, "MB"]
    assert rows[1][-1] == "1.0x"
    assert "* computed: there is no such file" not in result.out.splitlines()


@pytest.mark.slow
def test_of_minilm_in_every_runtime_that_is_installed(command, minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AutoModelForSequenceClassification.from_pretrained(minilm).save_pretrained("minilm")
    AutoTokenizer.from_pretrained(minilm).save_pretrained("minilm")
    flags = ["--batch-sizes", 1, "--lengths", 32, "--rounds", 5, "--warm-up", 1, "--threads", 1, "--use-cpu"]
    result = command("benchmark", "--models", "minilm", *flags)
    assert result.code == 0, result
    assert [path.name for path in tmp_path.iterdir()] == ["minilm"]
    rows = [line.split() for line in result.out.splitlines() if line.startswith("minilm, pytorch ")]
    # 22.7 million parameters in 4 bytes; 0.69 GFLOPs: 2 x 32 x 10.6 million in the layers, and the attention.
    assert rows[0] == ["minilm,", "pytorch", "22.7", "M", "689.2", "M", "90.9", "MB"]
    assert rows[1][-1] == "1.0x"
    assert "* computed: there is no such file" in result.out.splitlines()


def test_a_configuration_file(command, tiny, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(
        f"models: [teacher={tiny}]\nruntimes: [pytorch]\nbatch-sizes: [1]\nlengths: [4, 6]\nrounds: 2\nwarm-up: 0\n"
    )
    result = command("benchmark", "--config", config, "--threads", 1, "--use-cpu")
    assert result.code == 0, result
    assert "1 thread, batch of 1, 6 tokens" in result.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Nothing to measure: give --models or --shapes."),
        (["--shapes", "bert-huge"], "Unknown shape 'bert-huge'; the shapes are bert-base, "),
        (["--shapes", "tinybert-3l-192d", "--lengths", 513], "model tinybert-3l-192d takes 1 to 512 tokens."),
        (["--shapes", "bert-base", "--runtimes", "tf"], "Unknown runtime 'tf'; the runtimes are pytorch, "),
        (["--shapes", "bert-base", "--batch-sizes", 0], "--batch-sizes takes different whole numbers of at least 1"),
        (["--shapes", "bert-base", "--batch-sizes", 1, -1], "--batch-sizes takes different whole numbers"),
        (["--shapes", "bert-base", "--threads", 0], "--threads takes different whole numbers of at least 1, got 0."),
        (["--shapes", "bert-base", "--rounds", 0], "--rounds must be at least 1, got 0."),
        (["--models", "a=x", "a=y"], "Two models are called 'a'; tell them apart with --models name=path."),
        (["--models", "./nothing"], "The model folder nothing does not exist."),
        (["--models", "empty"], "holds no model: there is no config.json in it."),
        (["--models", "surely/not-there"], "The model surely/not-there cannot be loaded: "),
    ],
)
def test_what_cannot_be_measured(command, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = command("benchmark", *flags, "--use-cpu")
    assert result.code == 2
    assert result.err.startswith("hf-tinybert benchmark: error: ")
    assert message in result.err
    assert "timing" not in result.err
    assert not result.out


def test_an_output_folder_that_is_a_file_is_refused_first(command, tiny, tmp_path):
    (tmp_path / "taken").write_text("mine")
    result = command("benchmark", "--models", tiny, *QUICK, "--output-dir", tmp_path / "taken")
    assert result.code == 2
    assert "timing" not in result.err
    assert (tmp_path / "taken").read_text() == "mine"
