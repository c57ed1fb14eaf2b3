"""One optimiser step of a sharded objective in each of two processes, against the whole batch in one.

`shard_worker.py TEACHER RESULT`, for each rank.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import factories
import tiny_models
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.objective import DistillationObjective, Step
from hf_tinybert.distillation.phases import LEVELS
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.distillation.validation import build_objective_config
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.teacher.source import OnlineTeacher


def step(objective, teacher, batch, counts):
    """A loss, its gradients, and a step of plain gradient descent."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    features = teacher.features(batch, intermediate=True, prediction=True)
    loss, _ = objective(**batch, step=Step(features, LEVELS["joint"], counts))
    loss.backward()
    optimizer.step()
    return loss.item()


def main(teacher_folder: str, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    model = factories.load(teacher_folder)
    student = tiny_models.undropped(factories.small_student(model))
    settings = build_objective_config(factories.arguments("unused", phases="joint"), student, model)
    projections = Projections(
        student.config.hidden_size, model.config.hidden_size, settings.hidden_layers, shared=False
    )
    wanted = [settings.mapping[m] for m in settings.hidden_layers]
    teacher = OnlineTeacher(model, wanted, [settings.mapping[m] for m in settings.attention_layers])
    batch = tiny_models.sentences(8, labels=True)
    twin = copy.deepcopy(student)
    start = [parameter.detach().clone() for parameter in projections.parameters()]
    alone = DistillationObjective(twin, Encoder.from_model(twin), copy.deepcopy(projections), settings).train()
    whole = BatchCounts.from_batches([batch], torch.device("cpu"))
    expected_loss = step(alone, teacher, batch, whole)

    def reduce(total: torch.Tensor, reduction: str) -> torch.Tensor:
        dist.all_reduce(total)
        return total

    objective = DistillationObjective(student, Encoder.from_model(student), projections, settings).train()
    for layer in Encoder.from_model(student).layers:
        fully_shard(layer)
    fully_shard(objective)
    own = {name: value[rank::processes] for name, value in batch.items()}
    counts = BatchCounts.from_batches([own], torch.device("cpu"), reduce=reduce, processes=processes)
    loss = torch.tensor(step(objective, teacher, own, counts) / processes)
    dist.all_reduce(loss)
    sharded = sum(hasattr(parameter, "full_tensor") for parameter in objective.parameters())
    found = {name: parameter.full_tensor() for name, parameter in objective.named_parameters()}
    if rank == 0:
        target = dict(alone.named_parameters())
        worst = max(float((found[name] - value).abs().max()) for name, value in target.items())
        after = alone.projections.parameters()
        moved = max(float((now - then).abs().max()) for now, then in zip(after, start, strict=True))
        report = {"loss": loss.item(), "expected": expected_loss, "worst": worst, "sharded": sharded, "moved": moved}
        report |= {"names": sorted(found), "expected_names": sorted(target)}
        Path(result).write_text(json.dumps(report), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
