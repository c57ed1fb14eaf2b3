"""DeepSpeed's ZeRO, stages 1 and 2, on two real processes on a CPU; where it is installed."""

from __future__ import annotations

import json

import factories
import pytest
import torch
from test_trainer_exactness import finish, run
from transformers import AutoModelForSequenceClassification

from hf_tinybert.hub import checkpoints

pytest.importorskip("deepspeed")

ZERO = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def trained(processes, teacher_folder, tmp_path, name, ranks=1, **changes):
    options = {"output_dir": str(tmp_path / name)} | changes
    found = run(processes, teacher_folder, tmp_path / f"{name}.safetensors", options, ranks)
    return {key: value for key, value in found.items() if not key.startswith("gradient.")}


def assert_same(expected, found):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_with_accumulation_equal_one(stage, processes, teacher_folder, tmp_path):
    """Both phases; then resumed from between them, by the same number of processes, to the same weights."""
    expected = trained(processes, teacher_folder, tmp_path, "plain")
    sharded = {
        "deepspeed": ZERO | {"zero_optimization": {"stage": stage}},
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 6,
    }
    assert_same(expected, trained(processes, teacher_folder, tmp_path, "zero", 2, **sharded))
    folder = tmp_path / "zero" / "checkpoint-6"
    assert not checkpoints.missing_parts(folder)
    assert "optimizer.pt" not in {path.name for path in folder.iterdir()}
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.config.tinybert["layer_mapping"] == "0:0,1:2,2:4"
    again = sharded | {"resume": str(folder)}
    assert_same(expected, trained(processes, teacher_folder, tmp_path, "zero", 2, **again))
    for path in folder.glob("global_step6/*optim_states.pt"):
        path.unlink()
    assert checkpoints.missing_parts(folder) == ["global_step6/*optim_states.pt"]


@pytest.mark.slow
def test_the_student_is_saved_and_evaluated_after_training(processes, teacher_folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, torch, factories\n"
        "args = factories.arguments(sys.argv[2], max_steps=4, deepspeed=json.loads(sys.argv[3]))\n"
        "teacher = factories.load(sys.argv[1])\n"
        "trainer = factories.trainer(factories.small_student(teacher), teacher, args)\n"
        "trainer.train()\n"
        "trainer.save_model()\n"
        "measured = trainer.evaluate()\n"
        "loss = trainer.evaluate_teacher()['teacher_loss']\n"
        "if args.process_index == 0:\n"
        "    print('MEASURED', measured['eval_agreement'], loss)\n"
        "torch.distributed.destroy_process_group()\n",
        encoding="utf-8",
    )
    config = json.dumps(ZERO | {"zero_optimization": {"stage": 2}})
    output = finish(processes.run_ranks(2, script, teacher_folder, tmp_path / "out", config))
    measured = next(line for line in output.splitlines() if line.startswith("MEASURED")).split()
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    own = factories.trainer(student, factories.load(teacher_folder), factories.arguments(tmp_path / "own"))
    assert float(measured[1]) == pytest.approx(own.evaluate()["eval_agreement"], abs=1e-6)
    assert float(measured[2]) == pytest.approx(own.evaluate_teacher()["teacher_loss"], abs=1e-4)


REFUSAL = r"ZeRO stage 3 is not supported.*use stage 1 or 2"


def test_stage_3_is_refused(tmp_path):
    with pytest.raises(ValueError, match=REFUSAL):
        factories.arguments(tmp_path, deepspeed=ZERO | {"zero_optimization": {"stage": 3}})


def test_stage_3_of_accelerates_own_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ValueError, match=REFUSAL):
        factories.arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    assert factories.arguments(tmp_path).deepspeed_plugin.zero_stage == 2
