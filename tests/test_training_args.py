from __future__ import annotations

import dataclasses
import json

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_tinybert import DistillationTrainingArguments
from hf_tinybert.utils import compat

pytestmark = pytest.mark.also_transformers("4.57")
STOCK = {field.name for field in dataclasses.fields(TrainingArguments)}
FIELDS = {field.name: field for field in dataclasses.fields(DistillationTrainingArguments)}
OURS = sorted(FIELDS.keys() - STOCK)


@pytest.fixture
def make(tmp_path):
    def build(**settings) -> DistillationTrainingArguments:
        return DistillationTrainingArguments(**({"output_dir": str(tmp_path), "use_cpu": True} | settings))

    return build


def parse(argv: list[str]) -> DistillationTrainingArguments:
    (args,) = HfArgumentParser(DistillationTrainingArguments).parse_args_into_dataclasses(argv)
    return args


def test_defaults(make):
    args = make()
    assert args.phases == "joint"  # the paper's is "two_phase": docs/results.md
    assert (args.num_train_epochs, args.learning_rate, args.intermediate_learning_rate) == (10, 3e-4, 3e-4)
    rates = {
        phases: make(phases=phases).learning_rate for phases in ("two_phase", "intermediate", "prediction", "joint")
    }
    assert rates == {"two_phase": 1e-4, "intermediate": 3e-4, "prediction": 1e-4, "joint": 3e-4}
    assert make(phases="two_phase", learning_rate=2e-5).learning_rate == 2e-5
    assert parse(["--output_dir", args.output_dir, "--phases", "two_phase"]).learning_rate == 1e-4
    assert args.layer_mapping == "uniform"
    assert args.temperature == 1.0
    assert args.level_weights() == {
        "embedding": 1.0,
        "hidden": 1.0,
        "attention": 1.0,
        "prediction": 1.0,
        "hard_label": 0.0,
    }
    assert args.ddp_find_unused_parameters is True
    assert args.logging_nan_inf_filter is False
    assert args.parsed_layer_weights() == {}


def test_every_other_default_is_the_trainers(tmp_path):
    """A `Trainer` script that changes the class of its arguments keeps its behaviour, but for what a student needs."""
    plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    ours = DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    differing = {name for name, value in plain.to_dict().items() if ours.to_dict()[name] != value}
    grouping = set(compat.group_by_length_argument())
    other = {"ddp_find_unused_parameters", "logging_nan_inf_filter", "logging_dir", *grouping}
    assert differing <= {"num_train_epochs", "learning_rate", *compat.warmup_argument(0.06)} | other


@pytest.mark.parametrize(
    ("given", "steps"),
    [({}, 60), ({"warmup_steps": 10}, 10), (compat.warmup_argument(0.0), 0), (compat.warmup_argument(0.5), 500)],
)
def test_the_learning_rate_warms_up(make, given, steps):
    assert make(**given).get_warmup_steps(1000) == steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phases": "three"}, "phases must be one of joint, two_phase, intermediate, prediction, got 'three'"),
        ({"projection": "none"}, "projection must be one of per_layer, shared, got 'none'"),
        ({"loss_reduction": "sum"}, "loss_reduction must be one of mean, paper, got 'sum'"),
        ({"intermediate_share": 0.0}, r"intermediate_share must lie between 0 and 1, got 0\.0"),
        ({"intermediate_share": 1.0}, "use phases='intermediate'"),
        ({"intermediate_share": -0.5}, "intermediate_share must lie"),
        ({"intermediate_share": float("nan")}, "intermediate_share must lie"),
        ({"phases": "joint", "num_intermediate_epochs": 1}, "num_intermediate_epochs goes with phases='two_phase'"),
        (
            {"phases": "prediction", "num_intermediate_epochs": 1},
            "num_intermediate_epochs goes with phases='two_phase'",
        ),
        (
            {"phases": "two_phase", "num_intermediate_epochs": 1, "max_steps": 10},
            "num_intermediate_epochs goes with num_train_epochs",
        ),
        ({"phases": "two_phase", "num_intermediate_epochs": 10}, r"between 0 and num_train_epochs \(10.*got 10"),
        ({"phases": "two_phase", "num_intermediate_epochs": 0}, "between 0 and num_train_epochs"),
        (
            {"phases": "two_phase", "num_intermediate_epochs": 5, "num_train_epochs": 4},
            r"\(4\), which counts both phases; got 5",
        ),
        ({"temperature": 0.0}, r"temperature must be positive, got 0\.0"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"intermediate_warmup_ratio": -0.1}, r"intermediate_warmup_ratio is a share, 0 to 1, got -0\.1"),
        ({"intermediate_warmup_ratio": 1.5}, r"intermediate_warmup_ratio is a share, 0 to 1, got 1\.5"),
        (
            {"intermediate_lr_scheduler_type": "sideways"},
            "sideways is not a valid SchedulerType, please select",
        ),
        (
            {"phases": "two_phase", "learning_rate": 0, "intermediate_learning_rate": 1e-3},
            r"intermediate_learning_rate and learning_rate must be positive, got 0\.001 and 0\.",
        ),
        (
            {"phases": "intermediate", "intermediate_learning_rate": 0},
            r"intermediate_learning_rate and learning_rate must be positive, got 0 and 0\.0003",
        ),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"embedding_weight": -1.0}, r"embedding_weight must not be negative, got -1\.0"),
        ({"hidden_weight": -0.1}, "hidden_weight must not be negative"),
        ({"attention_weight": float("nan")}, "attention_weight must not be negative"),
        ({"prediction_weight": -1}, "prediction_weight must not be negative"),
        ({"hard_label_weight": -1}, "hard_label_weight must not be negative"),
        (
            {"embedding_weight": 0, "hidden_weight": 0, "attention_weight": 0},
            "No level of the layers .* has a weight above 0; use phases='prediction'",
        ),
        (
            {"embedding_weight": 0, "hidden_weight": 0, "attention_weight": 0, "phases": "intermediate"},
            "No level of the layers",
        ),
        (
            {"prediction_weight": 0},
            "Neither prediction_weight nor hard_label_weight is above 0; use phases='intermediate'",
        ),
        ({"prediction_weight": 0, "phases": "prediction"}, "Neither prediction_weight"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor smooths gold labels, and hard_label_weight is 0"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is not supported"),
        ({"teacher_cache": "disk"}, "teacher_cache must be one of none, logits, features, auto, got 'disk'"),
        (
            {"teacher_cache": "auto", "loss_reduction": "paper"},
            "averages over padding too, which a teacher cache does not",
        ),
        (
            {"teacher_cache": "logits", "accelerator_config": {"dispatch_batches": True}},
            "dispatch_batches cuts batches after they are collated",
        ),
        ({"teacher_mixed_precision": "int8"}, "teacher_mixed_precision must be one of no, bf16, fp16, got 'int8'"),
        ({"teacher_cache_dtype": "int8"}, "teacher_cache_dtype must be one of float16, bfloat16, float32, got 'int8'"),
        ({"ddp_find_unused_parameters": False}, "ddp_find_unused_parameters=False cannot work"),
        (
            {
                "phases": "intermediate",
                "load_best_model_at_end": True,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
            },
            "load_best_model_at_end has nothing to choose from",
        ),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "gradient_checkpointing_kwargs: re-entrant checkpointing hides",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_values_changed_later_are_checked_too(make):
    args = make()
    args.temperature = 0
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        args.check()


@pytest.mark.parametrize(
    "settings",
    [
        {"phases": "prediction", "embedding_weight": 0, "hidden_weight": 0, "attention_weight": 0},
        {"phases": "intermediate", "prediction_weight": 0},
        {"prediction_weight": 0, "hard_label_weight": 1},
        {"label_smoothing_factor": 0.1, "hard_label_weight": 0.5},
        {"phases": "two_phase", "num_intermediate_epochs": 2.5},
        {"phases": "joint"},
        {"attention_weight": 0, "embedding_weight": 0},
        {"ddp_find_unused_parameters": True},
        {"phases": "two_phase", "intermediate_share": 0.999},
        {"intermediate_warmup_ratio": 1, "intermediate_learning_rate": 0},
        {"temperature": 1e-3},
    ],
)
def test_what_can_work_is_not_refused(make, settings):
    args = make(**settings)
    assert {name: getattr(args, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ("", {}),
        ("1:0.5,4:2", {1: 0.5, 4: 2.0}),
        (" 1 : 0.5 , 4 : 0 ", {1: 0.5, 4: 0.0}),
        ('{"1": 0.5, "4": 2}', {1: 0.5, 4: 2.0}),
        ({1: 0.5, 4: 2}, {1: 0.5, 4: 2.0}),
        ({"2": "0.25"}, {2: 0.25}),
    ],
)
def test_layer_weights_in_every_spelling(make, given, expected):
    assert make(layer_weights=given).parsed_layer_weights() == expected


@pytest.mark.parametrize(
    "given",
    ["1", "1:", "one:2", "1:2:3", "1:0.5,", "1=2", "{1: 2}", "[1, 2]", "1:2;2:3", {"x": 1}, {1: None}, [1, 2], 62],
)
def test_layer_weights_that_are_no_pairs(make, given):
    with pytest.raises(ValueError, match="layer_weights: expected pairs layer:factor such as"):
        make(layer_weights=given)


@pytest.mark.parametrize("given", ["0:1", "-1:1", "1:-0.5", "1:nan", {2: -1}])
def test_layer_weights_out_of_range(make, given):
    with pytest.raises(ValueError, match="layers count from 1 and factors from 0"):
        make(layer_weights=given)


def test_a_layer_weighted_twice_is_refused(make):
    """As in a layer mapping."""
    with pytest.raises(ValueError, match=r"each layer once, got '1:0\.5,1:2'"):
        make(layer_weights="1:0.5,1:2")


@pytest.mark.parametrize("given", [None, {}, {"use_reentrant": False}, {"preserve_rng_state": False}])
def test_gradient_checkpointing_is_never_reentrant(make, given):
    args = make(gradient_checkpointing=True, gradient_checkpointing_kwargs=given)
    assert args.gradient_checkpointing_kwargs == (given or {}) | {"use_reentrant": False}


def test_without_gradient_checkpointing_nothing_is_said_of_it(make):
    assert not make().gradient_checkpointing_kwargs


def test_gradient_checkpointing_from_the_command_line(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--gradient_checkpointing", "--gradient_checkpointing_kwargs"]
    assert parse([*flags, '{"use_reentrant": false}']).gradient_checkpointing_kwargs == {"use_reentrant": False}
    with pytest.raises(ValueError, match="gradient_checkpointing_kwargs: re-entrant checkpointing hides"):
        parse([*flags, '{"use_reentrant": true}'])


def test_json_round_trip(make, tmp_path):
    args = make(
        phases="two_phase",
        layer_mapping="0:0,1:3",
        layer_weights={1: 0.5},
        gradient_checkpointing=True,
        intermediate_learning_rate=3e-4,
        num_intermediate_epochs=1.5,
    )
    text = args.to_json_string()
    again = DistillationTrainingArguments(**json.loads(text))
    assert again.to_json_string() == text
    assert again.parsed_layer_weights() == {1: 0.5}
    path = tmp_path / "args.json"
    path.write_text(text)
    (read,) = HfArgumentParser(DistillationTrainingArguments).parse_json_file(str(path), allow_extra_keys=True)
    assert {name: getattr(read, name) for name in OURS} == {name: getattr(again, name) for name in OURS}


def test_what_is_added_to_the_trainers_arguments():
    assert (
        sorted(
            [
                "phases",
                "student_init",
                "intermediate_share",
                "num_intermediate_epochs",
                "intermediate_learning_rate",
                "intermediate_lr_scheduler_type",
                "intermediate_warmup_ratio",
                "layer_mapping",
                "loss_scaling",
                "projection",
                "head_matching",
                "pooling",
                "embedding_weight",
                "hidden_weight",
                "attention_weight",
                "prediction_weight",
                "hard_label_weight",
                "layer_weights",
                "temperature",
                "loss_reduction",
                "teacher_mixed_precision",
                "teacher_cache",
                "teacher_cache_dir",
                "teacher_cache_dtype",
                "report_fidelity",
            ]
        )
        == OURS
    )


@pytest.mark.parametrize("name", [*OURS, "logging_nan_inf_filter"])
def test_every_field_has_a_help_text(name):
    text = FIELDS[name].metadata["help"]
    assert len(text) > 20
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("phases", "joint", "joint"),
        ("intermediate_share", "0.25", 0.25),
        ("num_intermediate_epochs", "1.5", 1.5),
        ("intermediate_learning_rate", "1e-3", 1e-3),
        ("intermediate_lr_scheduler_type", "linear", "linear"),
        ("intermediate_warmup_ratio", "0.1", 0.1),
        ("layer_mapping", "0:0,1:3", "0:0,1:3"),
        ("projection", "shared", "shared"),
        ("student_init", "random", ["random"]),
        ("embedding_weight", "0.5", 0.5),
        ("hidden_weight", "0", 0.0),
        ("attention_weight", "2", 2.0),
        ("prediction_weight", "3", 3.0),
        ("hard_label_weight", "0.3", 0.3),
        ("layer_weights", "1:0.5,2:2", "1:0.5,2:2"),
        ("temperature", "2", 2.0),
        ("loss_reduction", "paper", "paper"),
        ("loss_scaling", "none", "none"),
        ("report_fidelity", "False", False),
        ("teacher_mixed_precision", "bf16", "bf16"),
    ],
)
def test_every_field_is_a_flag(tmp_path, name, text, value):
    folder = ["--output_dir", str(tmp_path), *(["--phases", "two_phase"] if name == "num_intermediate_epochs" else [])]
    args = parse([*folder, f"--{name}", text])
    assert getattr(args, name) == value
    dashed = parse([*folder, f"--{name.replace('_', '-')}={text}"])
    assert getattr(dashed, name) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phases", "three"),
        ("projection", "none"),
        ("loss_reduction", "sum"),
        ("loss_scaling", "mean"),
        ("temperature", "hot"),
        ("teacher_mixed_precision", "8"),
    ],
)
def test_the_parser_refuses_other_values(tmp_path, capsys, field, value):
    with pytest.raises(SystemExit) as caught:
        parse(["--output_dir", str(tmp_path), f"--{field}", value])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"argument --{field}/--{field.replace('_', '-')}: invalid" in said or f"argument --{field}: invalid" in said
    assert repr(value) in said
