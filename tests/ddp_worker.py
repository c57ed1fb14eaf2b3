"""A distillation in a process of its own: `python ddp_worker.py TEACHER RESULT 'JSON of arguments'`.

Writes the gradients of the first step of each phase and the final weights, projections included, to RESULT.
Beside training arguments the JSON may hold `dropout`, `resume`, `kill_after` (die by SIGKILL after that step) and
`kill_in_checkpoint` (die while the checkpoint of that step is written: weights and optimiser are there, no more).
"""

from __future__ import annotations

import json
import os
import signal
import sys

import factories
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

torch.set_num_threads(1)


class Gradients(TrainerCallback):
    """Keeps the gradients that the optimiser is about to use, for chosen steps."""

    def __init__(self, steps):
        self.steps = steps
        self.kept = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step in self.steps:
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    self.kept[f"gradient.{state.global_step}.{name}"] = parameter.grad.detach().clone()


class Die(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def die_in_checkpoint(trained, step) -> None:
    save = trained._save_rng_state

    def save_or_die(folder):
        if trained.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(folder)

    trained._save_rng_state = save_or_die


def distil(teacher_folder: str, options: dict) -> dict[str, torch.Tensor]:
    options = dict(options)
    dropout, resume = options.pop("dropout", 0.0), options.pop("resume", None)
    kill_after, kill_in_checkpoint = options.pop("kill_after", None), options.pop("kill_in_checkpoint", None)
    teacher = factories.load(teacher_folder)
    student = factories.small_student(teacher, dropout=dropout)
    args = factories.arguments(**options)
    gradients = Gradients(steps=(0, round(args.max_steps * args.intermediate_share)))
    callbacks = [gradients] + ([Die(kill_after)] if kill_after is not None else [])
    trained = factories.trainer(student, teacher, args, callbacks=callbacks)
    die_in_checkpoint(trained, kill_in_checkpoint)
    trained.train(resume_from_checkpoint=resume)
    return gradients.kept | factories.weights(trained)


if __name__ == "__main__":
    results = distil(sys.argv[1], json.loads(sys.argv[3]))
    if int(os.environ.get("RANK", "0")) == 0:
        save_file({name: value.contiguous() for name, value in results.items()}, sys.argv[2])
