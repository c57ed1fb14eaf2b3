from __future__ import annotations

import json

import factories
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

QUICK = ["--use-cpu", "--disable-tqdm", "True"]


@pytest.mark.also_transformers("4.57")
def test_the_folder_is_a_model_of_the_task(finetuned, tokenizer):
    folder, _ = finetuned
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.id2label == dict(enumerate(factories.intents()))
    assert model.config.label2id == {name: index for index, name in enumerate(factories.intents())}
    assert model.config.problem_type == "single_label_classification"
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 24


def test_it_learns_and_says_how_well(finetuned, files):
    folder, result = finetuned
    for split in ("eval", "test"):
        measured = json.loads((folder / f"{split}_results.json").read_text())[f"{split}_accuracy"]
        assert f"{split} accuracy: {measured:.4f}" in result.out.splitlines()
        assert measured > 2 / 12


def test_the_pretrained_weights_were_taken_and_changed(finetuned, encoder):
    before = AutoModelForSequenceClassification.from_pretrained(encoder).base_model.state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(finetuned[0]).base_model.state_dict()
    key = "encoder.layer.3.attention.self.query.weight"
    assert not torch.equal(before[key], after[key])
    assert torch.nn.functional.cosine_similarity(before[key].flatten(), after[key].flatten(), dim=0) > 0.95


@pytest.mark.also_transformers("4.57")
def test_a_checkpoint_of_half_precision_is_trained_in_float32(command, encoder, data_flags, tmp_path):
    """Transformers 5 loads it as it is, and Adam's epsilon is 0 there: all weights were NaN after a few steps."""
    AutoModel.from_pretrained(encoder).half().save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "half")
    flags = ["finetune", "--model", tmp_path / "half", *data_flags, "--max-steps", "4", *QUICK]
    result = command(*flags, "--output-dir", tmp_path / "teacher", "--per-device-train-batch-size", "4")
    assert result.code == 0, result
    weights = load_file(tmp_path / "teacher" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert [name for name, value in weights.items() if not value.isfinite().all()] == []


def test_weights_that_are_no_numbers_are_not_saved(command, encoder, data_flags, tmp_path):
    flags = ["finetune", "--model", encoder, *data_flags, "--max-steps", "3", "--learning-rate", "1e38", *QUICK]
    result = command(*flags, "--output-dir", tmp_path / "teacher", "--per-device-train-batch-size", "4")
    assert result.code == 2, result
    assert "not finite after 3 steps" in result.err
    assert "lower --learning-rate" in result.err
    assert not list((tmp_path / "teacher").glob("*.safetensors"))


@pytest.mark.also_transformers("4.57")
def test_a_student_without_a_teacher_and_its_resumption(command, distilled, data_flags, tmp_path):
    """A run that was cut off and continued ends with the weights of a run in one piece."""
    steps = ["--max-steps", "4", "--save-strategy", "steps", "--save-steps", "2", "--seed", "7"]
    flags = ["finetune", "--model", distilled[0], *data_flags, *steps, *QUICK]
    whole = tmp_path / "whole"
    assert command(*flags, "--output-dir", whole).code == 0
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (whole / "checkpoint-2").rename(resumed / "checkpoint-2")
    before = (resumed / "checkpoint-2" / "model.safetensors").stat().st_mtime_ns
    (resumed / "checkpoint-3").mkdir()  # half-written: there is no trainer_state.json in it
    (resumed / "checkpoint-3" / "config.json").write_text("{}", encoding="utf-8")
    result = command(*flags, "--output-dir", resumed, "--resume-from-checkpoint", "last")
    assert result.code == 0, result
    assert (resumed / "checkpoint-2" / "model.safetensors").stat().st_mtime_ns == before
    assert (resumed / "checkpoint-4").is_dir()
    expected = AutoModelForSequenceClassification.from_pretrained(whole).state_dict()
    for name, value in AutoModelForSequenceClassification.from_pretrained(resumed).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def headless(distilled, tmp_path_factory):
    """A small pretrained encoder without a head."""
    folder = tmp_path_factory.mktemp("headless")
    AutoModelForSequenceClassification.from_pretrained(distilled[0]).base_model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(distilled[0]).save_pretrained(folder)
    return folder


def test_max_train_samples_keeps_the_labels_of_the_whole_file(command, headless, data_flags, tmp_path):
    """A quick try on a few rows must not fail because a rare class is not among them."""
    result = command(
        *("finetune", "--model", headless, *data_flags, *QUICK),
        *("--output-dir", tmp_path, "--max-steps", "1", "--max-train-samples", "8"),
    )
    assert result.code == 0, result


def test_labels_that_are_numbers_keep_their_names(command, headless, tmp_path):
    rows = ["text,label"] + [f"please turn on lamp number {n},{rating}" for n, rating in enumerate([3, 1, 5, 10] * 3)]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    result = command(
        *("finetune", "--model", headless, "--train-file", path, "--eval-file", path, "--output-dir", out),
        *("--max-steps", "1", *QUICK),
    )
    assert result.code == 0, result
    config = AutoModelForSequenceClassification.from_pretrained(out).config
    assert config.id2label == {0: "1", 1: "3", 2: "5", 3: "10"}


@pytest.fixture(scope="module")
def stsb(shared_data, tmp_path_factory):
    """The first rows of STS-B, as GLUE distributes them."""
    folder = tmp_path_factory.mktemp("stsb")
    for split, count in (("train", 96), ("dev", 64)):
        lines = (shared_data / "glue" / "STS-B" / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
        (folder / f"{split}.tsv").write_text("\n".join(lines[: count + 1]) + "\n", encoding="utf-8")
    return folder


def test_regression_on_pairs_from_teacher_to_student(command, encoder, student_shape, stsb, tmp_path):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    data = ["--train-file", stsb / "train.tsv", "--eval-file", stsb / "dev.tsv", "--max-length", "64"]
    few = ["--max-steps", "4", "--per-device-train-batch-size", "8", "--learning-rate", "1e-4", *QUICK]
    result = command("finetune", "--model", encoder, *data, "--output-dir", teacher, *few)
    assert result.code == 0, result
    assert "eval pearson: " in result.out
    result = command(
        *("distill", "--teacher", teacher, "--student", student_shape, *data, "--output-dir", student),
        *(*few, "--save-strategy", "no"),
    )
    assert result.code == 0, result
    model = AutoModelForSequenceClassification.from_pretrained(student)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    summary = json.loads((student / "summary.json").read_text())
    assert (summary["metric"], summary["split"]) == ("pearson", "eval")
    result = command("evaluate", "--model", student, *data[2:], "--use-cpu")
    assert result.code == 0, result
    row = next(line for line in result.out.splitlines() if line.startswith("eval pearson"))
    assert row.split()[-1] == f"{summary['student']['score']:.4f}"

    tokenizer = AutoTokenizer.from_pretrained(student)
    rows = [line.split("\t") for line in (stsb / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    inputs = tokenizer([r[7] for r in rows], [r[8] for r in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        values = model(**inputs).logits[:, 0]
    expected = torch.corrcoef(torch.stack([values, torch.tensor([float(r[9]) for r in rows])]))[0, 1]
    assert summary["student"]["score"] == pytest.approx(float(expected), abs=1e-3)
