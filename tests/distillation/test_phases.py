from __future__ import annotations

import io
from dataclasses import FrozenInstanceError

import factories
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from hf_tinybert.distillation.phases import LEVELS, PhasePlan, learning_rate_function, schedule_function

pytestmark = pytest.mark.also_transformers("4.57")

PLANS = st.integers(1, 300).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))
SCHEDULES = {
    "linear": None,
    "cosine": None,
    "constant": None,
    "constant_with_warmup": None,
    "polynomial": {"lr_end": 1e-6},
    "inverse_sqrt": None,
    "cosine_with_restarts": {"num_cycles": 2},
    "cosine_with_min_lr": {"min_lr": 1e-6},
    "warmup_stable_decay": {"num_decay_steps": 3},
}


@given(PLANS)
def test_every_step_is_in_one_phase_and_the_second_begins_once(plan):
    total, boundary = plan
    phases = [PhasePlan(total, boundary).phase(step) for step in range(total)]
    assert phases == ["intermediate"] * boundary + ["prediction"] * (total - boundary)
    begins = [step for step in range(total + 1) if PhasePlan(total, boundary).begins_prediction(step)]
    assert begins == ([boundary] if 0 < boundary < total else [])


def test_joint_runs_have_one_phase():
    plan = PhasePlan(10, 0, joint=True)
    assert {plan.phase(step) for step in range(11)} == {"joint"}
    assert not any(plan.begins_prediction(step) for step in range(11))


def test_a_plan_stays_as_it_is_and_has_two_phases():
    plan = PhasePlan(10, 4)
    assert plan == PhasePlan(10, 4, joint=False) != PhasePlan(10, 4, joint=True)
    with pytest.raises(FrozenInstanceError):
        plan.intermediate_steps = 5


def test_levels_of_the_phases():
    assert LEVELS["intermediate"] == {"embedding", "hidden", "attention"}
    assert LEVELS["prediction"] == {"prediction", "hard_label"}
    assert LEVELS["joint"] == LEVELS["intermediate"] | LEVELS["prediction"]


@pytest.mark.parametrize(
    ("changes", "boundary"),
    [
        ({}, 10),
        ({"intermediate_share": 0.25}, 5),
        ({"intermediate_share": 0.01}, 1),
        ({"intermediate_share": 0.999}, 19),
        ({"phases": "intermediate"}, 20),
        ({"phases": "prediction"}, 0),
        ({"phases": "joint"}, 0),
        ({"max_steps": -1, "num_train_epochs": 4, "num_intermediate_epochs": 3}, 15),
        ({"max_steps": -1, "num_train_epochs": 4, "num_intermediate_epochs": 0.5, "intermediate_share": 0.9}, 2),
    ],
)
def test_the_arguments_draw_the_boundary(changes, boundary, tmp_path):
    args = factories.arguments(tmp_path, **changes)
    plan = PhasePlan.from_arguments(args, 20)
    assert plan == PhasePlan(20, boundary, joint=args.phases == "joint")
    if not plan.joint:
        stays = 30 if args.phases == "intermediate" else boundary
        assert PhasePlan.from_arguments(args, 30, resumed=boundary).intermediate_steps == stays


@pytest.mark.parametrize(("share", "total", "boundary"), [(0.5, 1, 1), (0.5, 2, 1), (0.01, 2, 1), (0.99, 3, 2)])
def test_each_phase_has_a_step_where_there_are_two(share, total, boundary, tmp_path):
    args = factories.arguments(tmp_path, intermediate_share=share)
    assert PhasePlan.from_arguments(args, total) == PhasePlan(total, boundary)


def test_a_resumed_boundary_stays_except_where_a_run_has_none(tmp_path):
    for phases, expected in (("two_phase", 7), ("prediction", 7), ("intermediate", 20), ("joint", 0)):
        args = factories.arguments(tmp_path, phases=phases)
        assert PhasePlan.from_arguments(args, 20, resumed=7).intermediate_steps == expected


@pytest.mark.parametrize(
    ("changes", "rows", "passes"),
    [
        ({}, 40, (2.0, 2.0)),
        ({"intermediate_share": 0.25}, 40, (1.0, 3.0)),
        ({"phases": "joint"}, 40, (4.0, 4.0)),
        ({"phases": "prediction"}, 40, (0.0, 4.0)),
        ({"phases": "intermediate"}, 40, (4.0, 0.0)),
        ({"gradient_accumulation_steps": 3}, 40, (6.0, 6.0)),
        ({"per_device_train_batch_size": 2}, 40, (0.5, 0.5)),
        ({"max_steps": 1, "phases": "joint"}, 8, (1.0, 1.0)),
        ({"max_steps": 1, "phases": "joint"}, 1, (8.0, 8.0)),
        ({"max_steps": 1, "phases": "joint"}, 0, (8.0, 8.0)),
        ({"max_steps": -1, "num_train_epochs": 3, "intermediate_share": 0.25}, 20, (0.8, 2.4)),
        ({"max_steps": -1, "num_train_epochs": 4, "num_intermediate_epochs": 3}, 40, (3.0, 1.0)),
        ({"max_steps": -1, "num_train_epochs": 4}, 0, (0.0, 0.0)),
    ],
)
def test_how_often_a_run_sees_its_data(changes, rows, passes, tmp_path):
    assert PhasePlan.passes(factories.arguments(tmp_path, **changes), rows) == pytest.approx(passes)


def factors(plan, tmp_path, **changes):
    function = learning_rate_function(factories.arguments(tmp_path, **changes), plan)
    return [function(step) for step in range(plan.total_steps + 1)]


def test_the_papers_schedule_constant_then_warm_up_and_decay(tmp_path):
    found = factors(PhasePlan(10, 4), tmp_path, learning_rate=1e-5, intermediate_learning_rate=2e-5, warmup_steps=2)
    assert found == pytest.approx([2, 2, 2, 2, 0, 0.5, 1, 0.75, 0.5, 0.25, 0])


def test_an_intermediate_phase_with_warm_up_and_decay_of_its_own(tmp_path):
    found = factors(PhasePlan(8, 4), tmp_path, intermediate_lr_scheduler_type="linear", intermediate_warmup_ratio=0.5)
    assert found == pytest.approx([0, 0.5, 1, 0.5, 1, 0.75, 0.5, 0.25, 0])


def test_a_warm_up_of_part_of_a_step_is_a_step(tmp_path):
    found = factors(PhasePlan(6, 3), tmp_path, intermediate_lr_scheduler_type="linear", intermediate_warmup_ratio=0.4)
    assert found == pytest.approx([0, 0.5, 1, 1, 2 / 3, 1 / 3, 0])


def test_the_rate_of_the_first_phase_is_its_own_to_its_last_step(tmp_path):
    found = factors(PhasePlan(4, 2), tmp_path, learning_rate=1e-4, intermediate_learning_rate=5e-5)
    assert found == pytest.approx([0.5, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize("boundary", [4, 9])
def test_a_run_of_layers_alone_ends_in_its_own_schedule(boundary, tmp_path):
    found = factors(PhasePlan(4, boundary), tmp_path, learning_rate=1e-4, intermediate_learning_rate=2e-4)
    assert found == pytest.approx([2, 2, 2, 2, 1 if boundary == 4 else 2])


@pytest.mark.parametrize("joint", [True, False])
def test_without_an_intermediate_phase_the_main_schedule_runs_alone(joint, tmp_path):
    found = factors(PhasePlan(4, 0, joint), tmp_path, intermediate_learning_rate=9.0)
    assert found == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def stock(name, warmup, total, rate, kwargs):
    """Learning rates of transformers' own scheduler."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=kwargs)
    return rates(optimizer, scheduler, total)


def rates(optimizer, scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_phase_alone_has_transformers_own_learning_rates(name, tmp_path):
    args = factories.arguments(
        tmp_path,
        learning_rate=5e-5,
        lr_scheduler_type=name,
        lr_scheduler_kwargs=SCHEDULES[name] or {},
        warmup_steps=3,
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_function(args, PhasePlan(20, 0)))
    expected = stock(name, 3, 20, 5e-5, SCHEDULES[name])
    assert rates(optimizer, scheduler, 20) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_schedules_driven_by_metrics_are_refused():
    message = (
        "^lr_scheduler_type 'reduce_lr_on_plateau' is not a function of the step alone, so it cannot be one of two "
        "phases. Use for example 'linear', 'cosine' or 'constant', or pass your own scheduler with `optimizers=`.$"
    )
    with pytest.raises(ValueError, match=message):
        schedule_function("reduce_lr_on_plateau", 1e-3, 0, 10)


def test_the_joined_schedule_is_saved_without_code(tmp_path):
    factor = learning_rate_function(factories.arguments(tmp_path), PhasePlan(6, 3))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save(scheduler.state_dict(), file)
    file.seek(0)
    resumed = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), factor)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.last_epoch == 4
    assert resumed.get_last_lr() == scheduler.get_last_lr() == pytest.approx([2 / 3])
