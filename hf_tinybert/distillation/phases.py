"""The phases of task distillation, the levels that each matches, and their learning rates.

Section 3.2 of the paper: first the intermediate layers, then the prediction layer. The phase is a function of the
global step alone, so that resuming, callbacks and early stopping are the Trainer's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import get_scheduler

from hf_tinybert.training_args import DistillationTrainingArguments

Phase = Literal["intermediate", "prediction", "joint"]

INTERMEDIATE_LEVELS = frozenset({"embedding", "hidden", "attention"})
PREDICTION_LEVELS = frozenset({"prediction", "hard_label"})
LEVELS: dict[Phase, frozenset[str]] = {
    "intermediate": INTERMEDIATE_LEVELS,
    "prediction": PREDICTION_LEVELS,
    "joint": INTERMEDIATE_LEVELS | PREDICTION_LEVELS,
}


@dataclass(frozen=True)
class PhasePlan:
    """The phases of a run of `total_steps` optimiser steps.

    Attributes:
        total_steps: optimiser steps of the whole run.
        intermediate_steps: number of steps of the intermediate phase, which comes first.
        joint: all levels are matched in every step; `intermediate_steps` is then 0.
    """

    total_steps: int
    intermediate_steps: int
    joint: bool = False

    @classmethod
    def from_arguments(
        cls, args: DistillationTrainingArguments, total_steps: int, resumed: int | None = None
    ) -> PhasePlan:
        """The plan that the arguments describe.

        Args:
            args: `phases`, `intermediate_share` or `num_intermediate_epochs`.
            total_steps: optimiser steps of the run.
            resumed: `intermediate_steps` of the checkpoint that the run continues, which stays the same.
        """
        if args.phases == "joint":
            return cls(total_steps, 0, joint=True)
        if args.phases == "intermediate":  # also for a resumed run with more steps
            return cls(total_steps, total_steps)
        if resumed is not None:
            return cls(total_steps, resumed)
        if args.phases == "prediction":
            return cls(total_steps, 0)
        share = args.intermediate_share
        if args.num_intermediate_epochs is not None:
            share = args.num_intermediate_epochs / args.num_train_epochs
        return cls(total_steps, min(max(round(total_steps * share), 1), max(total_steps - 1, 1)))

    @classmethod
    def passes(cls, args: DistillationTrainingArguments, rows: int) -> tuple[float, float]:
        """Passes over the data in which layers are matched, and in which logits are matched.

        Args:
            args: the arguments of the run.
            rows: examples of the training data.
        """
        batch = args.train_batch_size * args.gradient_accumulation_steps * max(args.world_size, 1)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * rows / batch)
        plan = cls.from_arguments(args, max(steps, 1))
        total = steps * batch / max(rows, 1)
        if plan.joint:
            return total, total
        intermediate = total * plan.intermediate_steps / plan.total_steps
        return intermediate, total - intermediate

    def phase(self, step: int) -> Phase:
        """The phase of the step that follows `step` finished ones."""
        if self.joint:
            return "joint"
        return "intermediate" if step < self.intermediate_steps else "prediction"

    def begins_prediction(self, step: int) -> bool:
        """Whether the next step is the first of the prediction phase of a two-phase run."""
        return 0 < self.intermediate_steps == step < self.total_steps


def learning_rate_function(args: DistillationTrainingArguments, plan: PhasePlan) -> Callable[[int], float]:
    """The schedules of both phases, each counting from its phase's first step, as one factor of the base rate.

    It is a plain function, so that a scheduler's saved state contains numbers only.
    """
    boundary, main_steps = plan.intermediate_steps, max(plan.total_steps - plan.intermediate_steps, 0)
    rate, intermediate_rate = args.learning_rate, args.intermediate_learning_rate
    warmup, specific = args.get_warmup_steps(main_steps), args.lr_scheduler_kwargs or None
    main = schedule_function(args.lr_scheduler_type, rate, warmup, main_steps, specific)
    warmup = math.ceil(boundary * args.intermediate_warmup_ratio)
    intermediate = schedule_function(args.intermediate_lr_scheduler_type, intermediate_rate, warmup, boundary)
    scale = intermediate_rate / rate if boundary and intermediate_rate != rate else 1.0

    def factor(step: int) -> float:
        return scale * intermediate(step) if step < boundary else main(step - boundary)

    return factor


def schedule_function(
    name: str, rate: float, warmup_steps: int, total_steps: int, specific: dict | None = None
) -> Callable[[int], float]:
    """One of transformers' schedules as a function from step to a factor of the base learning rate `rate`.

    Raises:
        ValueError: the schedule depends on metrics or state and cannot be joined to another.
    """
    parameter = torch.nn.Parameter(torch.zeros(()))
    scheduler = get_scheduler(
        name,
        torch.optim.SGD([parameter], lr=rate),
        num_warmup_steps=warmup_steps,
        num_training_steps=max(total_steps, 1),
        scheduler_specific_kwargs=specific,
    )
    functions = getattr(scheduler, "lr_lambdas", None)
    if not functions:
        raise ValueError(
            f"lr_scheduler_type {name!r} is not a function of the step alone, so it cannot be one of two phases. "
            "Use for example 'linear', 'cosine' or 'constant', or pass your own scheduler with `optimizers=`."
        )
    function: Callable[[int], float] = functions[0]
    return function
