from __future__ import annotations

import json
import re

import pytest
from transformers import TrainingArguments

from hf_tinybert import DistillationTrainingArguments
from hf_tinybert.cli import arguments
from hf_tinybert.cli.distill import DistillArguments
from hf_tinybert.data.arguments import DataArguments

YAML = """\
# a comment
teacher: some/teacher
student: tinybert-3l-192d
train-file: train.csv
max_length: 64
learning_rate: 1e-4
intermediate_share: 0.25
phases: joint
layer_mapping: 0:0,1:3
report_fidelity: false
use_cpu: true
report_to: none
"""


@pytest.fixture
def parse(tmp_path):
    """Write a configuration file and read it as `distill` does."""

    def build(text: str, *argv: str, name: str = "run.yaml", **defaults):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        classes = (DistillArguments, DataArguments, DistillationTrainingArguments)
        settings = {"output_dir": str(tmp_path / "out"), "use_cpu": True} | defaults
        return arguments.parse("distill", "words", classes, ["--config", str(path), *argv], **settings)

    return build


def test_a_yaml_file_fills_all_three_classes(parse):
    model, data, training = parse(YAML)
    assert (model.teacher, model.student, training.student_init) == ("some/teacher", "tinybert-3l-192d", None)
    assert (data.train_file, data.max_length, data.eval_file) == ("train.csv", 64, None)
    assert training.learning_rate == pytest.approx(1e-4)
    assert training.intermediate_share == 0.25
    assert training.phases == "joint"
    assert training.layer_mapping == "0:0,1:3"
    assert training.report_fidelity is False


@pytest.mark.parametrize("value", ['"1:0.5,2:2"', "1:0.5,2:2", "{1: 0.5, 2: 2}", "{'1': 0.5, '2': 2}"])
def test_layer_weights_in_a_file(parse, value):
    _, _, training = parse(f"teacher: t\nlayer_weights: {value}\n")
    assert training.parsed_layer_weights() == {1: 0.5, 2: 2.0}


def test_json_says_the_same(parse):
    content = {"teacher": "t", "max-length": 32, "phases": "prediction", "layer_weights": {"1": 0.5}, "max_steps": 7}
    model, data, training = parse(json.dumps(content), name="run.json")
    assert (model.teacher, data.max_length, training.phases, training.max_steps) == ("t", 32, "prediction", 7)
    assert training.parsed_layer_weights() == {1: 0.5}


def test_flags_win_over_the_file_and_the_file_over_the_commands_defaults(parse):
    model, data, training = parse(
        YAML,
        *("--teacher", "other", "--max-length=16", "--phases", "two_phase", "--report-fidelity", "True"),
        max_length=8,
        learning_rate=5.0,
        per_device_train_batch_size=13,
    )
    assert (model.teacher, data.max_length, training.phases) == ("other", 16, "two_phase")
    assert training.report_fidelity is True
    assert training.learning_rate == pytest.approx(1e-4)
    assert training.per_device_train_batch_size == 13


@pytest.mark.parametrize("flag", ["--save-steps", "--save_steps"])
def test_saving_every_so_many_steps_means_steps(parse, flag):
    assert parse("teacher: x", save_strategy="epoch")[2].save_strategy == "epoch"
    assert parse("teacher: x", flag, "7", save_strategy="epoch")[2].save_strategy == "steps"
    assert parse("teacher: x", f"{flag}=7", save_strategy="epoch")[2].save_strategy == "steps"
    assert parse("teacher: x\nsave-steps: 7", save_strategy="epoch")[2].save_strategy == "steps"
    said = parse("teacher: x", flag, "7", "--save-strategy", "no", save_strategy="epoch")[2]
    assert said.save_strategy == "no"


def test_a_flag_of_the_default_value_wins_too(parse):
    _, data, _ = parse(YAML, "--max-length", "128")
    assert data.max_length == 128


def test_the_config_flag_in_every_spelling_that_the_parser_takes(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("teacher: t\nmax_length: 17\n")
    for flags in (["--config", str(path)], [f"--config={path}"], ["--conf", str(path)], [f"--conf={path}"]):
        try:
            _, data = arguments.parse(
                "distill", "words", (DistillArguments, DataArguments), [*flags, "--teacher", "x"]
            )
        except (SystemExit, ValueError):
            continue  # refusing an abbreviation is right, ignoring the file is not
        assert data.max_length == 17, flags


def test_without_a_file_the_defaults_stand(tmp_path):
    (training,) = arguments.parse(
        "finetune",
        "words",
        (TrainingArguments,),
        ["--output-dir", str(tmp_path)],
        report_to="none",
        save_strategy="no",
    )
    assert training.report_to == []
    assert training.save_strategy == "no"


@pytest.mark.parametrize("value", ["no", '"no"', "'no'"])
def test_no_is_a_strategy_not_a_falsehood(parse, value):
    """YAML reads a bare `no` as False, and `no` is what one writes for `--save-strategy no`."""
    _, _, training = parse(f"teacher: t\nsave_strategy: {value}\neval_strategy: {value}\n", save_strategy="epoch")
    assert training.save_strategy == "no"
    assert training.eval_strategy == "no"


@pytest.mark.parametrize("text", ["use_cpu: yes", "use_cpu: true", 'use_cpu: "true"', "use-cpu: True"])
def test_truth_in_every_spelling(parse, text):
    _, _, training = parse(f"teacher: t\n{text}\n", use_cpu=False)
    assert training.use_cpu is True


@pytest.mark.parametrize("text", ["layer_mapping: 1:6", "layer_mapping: {1: 6}", 'layer_mapping: "1:6"'])
def test_a_mapping_of_one_pair_is_not_base_sixty(parse, text):
    """YAML 1.1 reads a bare 1:6 as 66."""
    from hf_tinybert import LayerMapping

    try:
        _, _, training = parse(f"teacher: t\n{text}\n")
        mapping = LayerMapping.from_spec(training.layer_mapping, 1, 6)
    except ValueError as error:
        assert "layer_mapping" in str(error) or "Layer mapping" in str(error)  # noqa: PT017
    else:
        assert mapping == {1: 6}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.yaml", "teacher: t\nlerning_rate: 1\nzzz: 2\n", r"unknown argument\(s\) lerning_rate, zzz"),
        ("run.json", '{"teacher": "t", "temprature": 2}', r"unknown argument\(s\) temprature"),
        ("run.yaml", "teacher: t\nconfig: other.yaml\n", r"unknown argument\(s\) config"),
        ("run.yaml", "teacher: t\nhelp: true\n", r"unknown argument\(s\) help"),
        ("run.yaml", "teacher: [t\n", "is neither YAML nor JSON"),
        ("run.json", '{"teacher": "t"', "is neither YAML nor JSON"),
        ("run.json", "teacher: t", "is neither YAML nor JSON"),
        ("run.yaml", "- teacher\n- t\n", "must hold 'argument: value' lines"),
        ("run.yaml", "just words\n", "must hold 'argument: value' lines"),
        ("run.yaml", "", "must hold 'argument: value' lines"),
        ("run.yaml", "!!python/object/apply:os.system [echo]\n", "must hold 'argument: value' lines"),
        ("run.yaml", "teacher: t\nphases: three\n", "invalid choice: .three."),
        ("run.yaml", "teacher: t\nsave_strategy: sometimes\n", "sometimes"),
    ],
)
def test_a_file_that_cannot_be_used(parse, capsys, name, text, message):
    with pytest.raises((ValueError, SystemExit)) as caught:
        parse(text, name=name)
    assert re.search(message, f"{caught.value}\n{capsys.readouterr().err}")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.yaml cannot be read: No such file"):
        arguments.parse("distill", "words", (DistillArguments,), ["--config", str(tmp_path / "gone.yaml")])
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        arguments.parse("distill", "words", (DistillArguments,), ["--config", str(tmp_path)])


def test_a_binary_file_is_no_configuration(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="configuration file"):
        arguments.parse("distill", "words", (DistillArguments,), ["--config", str(path)])


def test_config_without_a_value(capsys):
    with pytest.raises(SystemExit) as caught:
        arguments.parse("distill", "words", (DistillArguments,), ["--teacher", "t", "--config"])
    assert caught.value.code == 2
    assert "--config" in capsys.readouterr().err


def test_text_where_a_number_belongs(parse, capsys):
    with pytest.raises((SystemExit, ValueError)) as caught:
        parse("teacher: t\nlearning_rate: fast\n")
    assert "fast" in capsys.readouterr().err + str(caught.value)


@pytest.mark.parametrize(
    "line", ["teacher:", "max_length: long", "max_length: [1, 2]", "max_length:", "temperature: {a: 1}"]
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_name(parse, capsys, line):
    name = line.split(":")[0]
    with pytest.raises((SystemExit, ValueError)) as caught:
        parse("\n".join(["teacher: t"] * (name != "teacher") + [line]) + "\n")
    message = (capsys.readouterr().err + str(caught.value)).replace("-", "_")
    assert name in message


@pytest.mark.parametrize(("given", "expected"), [("last", True), ("True", True), ("true", True), (None, None)])
def test_resume(tmp_path, given, expected):
    assert arguments.resume(TrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint=given)) is expected


def test_resume_from_a_folder(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), resume_from_checkpoint="runs/checkpoint-3")
    assert arguments.resume(args) == "runs/checkpoint-3"
