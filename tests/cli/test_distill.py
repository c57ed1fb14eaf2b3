from __future__ import annotations

import csv
import json
import shutil

import factories
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, pipeline

from hf_tinybert import create_student

pytestmark = pytest.mark.also_transformers("4.57")
QUICK = ["--use-cpu", "--disable-tqdm", "True"]


def rows_of(table: str) -> dict[str, list[str]]:
    """The cells of a printed comparison by the first column."""
    names = ("accuracy", "score retained", "parameters", "in the layers", "file size", "latency", "speed-up")
    found = {}
    for line in table.splitlines():
        for name in names:
            if name in line and "  " in line.strip():
                found[name] = [cell.strip() for cell in line.strip().split("  ") if cell.strip()][1:]
    return found


def test_the_student_is_of_the_size_asked_for_and_speaks_of_the_teachers_labels(distilled, tokenizer):
    folder, _ = distilled
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 48, 4)
    assert config.id2label == dict(enumerate(factories.intents()))
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    answer = pipeline("text-classification", model=str(folder))("will it rain tomorrow")[0]
    assert answer["label"] in factories.intents()


def test_the_student_is_written_alone(distilled):
    """No projections, no teacher and no half-written file beside the student."""
    folder, _ = distilled
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "summary.json", "test_results.json"}
    assert not [name for name in names if "partial" in name or "projection" in name]
    weights = AutoModelForSequenceClassification.from_pretrained(folder).num_parameters()
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(4 * weights, rel=0.02)
    assert str(folder.parent) not in (folder / "config.json").read_text()


def test_the_summary_is_what_the_table_shows(distilled, teacher_path):
    folder, result = distilled
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["metric"], summary["split"]) == ("accuracy", "test")
    teacher, student = summary["teacher"], summary["student"]
    assert (teacher["name"], student["name"]) == ("teacher", "student")
    cells = rows_of(result.out)
    assert cells["accuracy"] == [f"{teacher['score']:.4f}", f"{student['score']:.4f}"]
    assert cells["score retained"] == ["100.0%", f"{student['score'] / teacher['score']:.1%}"]
    assert cells["parameters"][0] == f"{teacher['parameters'] / 1e6:.1f}M"
    assert cells["parameters"][1].startswith(f"{student['parameters'] / 1e6:.1f}M (1/")
    assert cells["file size"] == [f"{model['bytes_on_disk'] / 1e6:.1f} MB" for model in (teacher, student)]
    assert cells["latency"] == [f"{model['latency_ms']:.2f} ms" for model in (teacher, student)]
    assert cells["speed-up"] == ["1.0x", f"{teacher['latency_ms'] / student['latency_ms']:.1f}x"]
    assert f"The student is in {folder}" in result.out

    assert student["bytes_on_disk"] == (folder / "model.safetensors").stat().st_size
    assert teacher["bytes_on_disk"] == (teacher_path / "model.safetensors").stat().st_size
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert student["parameters"] == sum(p.numel() for p in model.parameters())
    assert student["layer_parameters"] == sum(p.numel() for p in model.bert.encoder.layer.parameters())


def test_the_scores_are_those_of_the_saved_models(distilled, teacher_path, files):
    folder, _ = distilled
    summary = json.loads((folder / "summary.json").read_text())
    with (files / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        [row["text"] for row in rows], padding=True, truncation=True, max_length=48, return_tensors="pt"
    )
    gold = torch.tensor([factories.intents().index(row["intent"]) for row in rows])
    for path, facts in ((teacher_path, summary["teacher"]), (folder, summary["student"])):
        with torch.no_grad():
            chosen = AutoModelForSequenceClassification.from_pretrained(path)(**inputs).logits.argmax(-1)
        assert facts["score"] == pytest.approx(float((chosen == gold).float().mean()), abs=1e-6)
    measured = json.loads((folder / "test_results.json").read_text())
    assert measured["test_accuracy"] == summary["student"]["score"]


def test_the_mapping_is_printed(distilled):
    _, result = distilled
    table = [line.split("  ") for line in result.out.split("Layer mapping\n")[1].splitlines()[:4]]
    assert [[cell.strip() for cell in row if cell.strip()] for row in table] == [
        ["student", "teacher"],
        ["embeddings", "embeddings"],
        ["layer 1", "layer 2"],
        ["layer 2", "layer 4"],
    ]


def test_resuming_from_the_last_checkpoint(command, distill_flags, distilled, tmp_path):
    """Cut off after step 3 and continued, a run ends with the weights of one in one piece."""
    folder, _ = distilled
    out = tmp_path / "student"
    shutil.copytree(folder / "checkpoint-3", out / "checkpoint-3")
    before = (out / "checkpoint-3" / "model.safetensors").stat().st_mtime_ns
    result = command(*distill_flags, "--output-dir", out, "--resume-from-checkpoint", "last")
    assert result.code == 0, result
    assert (out / "checkpoint-3" / "model.safetensors").stat().st_mtime_ns == before
    assert (out / "checkpoint-6").is_dir()
    expected = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    for name, value in AutoModelForSequenceClassification.from_pretrained(out).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_as_a_process_with_a_configuration_file(processes, distill_flags, tmp_path):
    """Flags win: the file's own number of steps is not used."""
    config = tmp_path / "run.yaml"
    config.write_text("max_steps: 50\nlayer_mapping: last\ntemperature: 2\nreport_fidelity: false\n")
    flags = [*distill_flags, "--max-steps", "2", "--save-strategy", "no", "--output-dir", "student"]
    ended = processes.run("-m", "hf_tinybert", *flags, "--config", config, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-800:]
    assert "Traceback" not in ended.stderr
    folder = tmp_path / "student"
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.tinybert["layer_mapping"] == "0:0,1:3,2:4"
    args = torch.load(folder / "training_args.bin", weights_only=False)
    assert (args.temperature, args.report_fidelity) == (2.0, False)
    summary = json.loads((folder / "summary.json").read_text())
    assert rows_of(ended.stdout)["accuracy"][1] == f"{summary['student']['score']:.4f}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml", "student"]


def test_layer_weights_as_a_flag(command, distill_flags, tmp_path):
    result = command(
        *distill_flags,
        "--layer-weights",
        "1:0.5,2:0",
        "--max-steps",
        "2",
        "--save-strategy",
        "no",
        "--output-dir",
        tmp_path,
    )
    assert result.code == 0, result
    args = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert args.parsed_layer_weights() == {1: 0.5, 2: 0.0}


def test_without_data_to_measure_on(command, teacher_path, student_shape, files, tmp_path):
    result = command(
        *("distill", "--teacher", teacher_path, "--student", student_shape, "--train-file", files / "train.csv"),
        *("--student-init", "random", "--max-steps", "2", "--save-strategy", "no", "--output-dir", tmp_path, *QUICK),
    )
    assert result.code == 0, result
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [summary[role]["score"] for role in ("teacher", "student")] == [None, None]
    assert "accuracy" not in rows_of(result.out)
    assert rows_of(result.out)["score retained"] == ["-", "-"]


def test_evaluation_while_training_keeps_the_best(command, distill_flags, tmp_path):
    result = command(
        *(*distill_flags, "--output-dir", tmp_path, "--eval-strategy", "steps", "--eval-steps", "3"),
        *(
            "--load-best-model-at-end",
            "--metric-for-best-model",
            "accuracy",
            "--student-init",
            "random",
            "--phases",
            "two_phase",
        ),
    )
    assert result.code == 0, result
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"].endswith("checkpoint-6")
    assert any("eval_agreement" in entry for entry in state["log_history"])


@pytest.fixture(scope="module")
def checkpoint(teacher_path, student_shape, tmp_path_factory):
    """A small student's folder, without a tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    teacher = factories.load(str(teacher_path))
    create_student(teacher, student_shape, init="random").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_a_checkpoint_as_student(command, distill_flags, checkpoint, teacher_path, tmp_path, with_tokenizer):
    """The teacher's tokenizer serves where the checkpoint brings none."""
    source = shutil.copytree(checkpoint, tmp_path / "start")
    if with_tokenizer:
        AutoTokenizer.from_pretrained(teacher_path).save_pretrained(source)
    out = tmp_path / "student"
    result = command(
        *(*distill_flags, "--student", source, "--output-dir", out, "--max-steps", "2"),
        *("--save-strategy", "no", "--learning-rate", "0"),
    )
    assert result.code == 0, result
    before = AutoModelForSequenceClassification.from_pretrained(source).state_dict()
    for name, value in AutoModelForSequenceClassification.from_pretrained(out).state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_pretrained_checkpoint_without_a_head_as_student(command, distill_flags, tmp_path, tokenizer):
    source, out = tmp_path / "start", tmp_path / "student"
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    BertModel(config).save_pretrained(source)
    result = command(
        *(*distill_flags, "--student", source, "--output-dir", out, "--max-steps", "2", "--save-strategy", "no")
    )
    assert result.code == 0, result
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.id2label == dict(enumerate(factories.intents()))
