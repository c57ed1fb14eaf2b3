"""Saves a tiny model many times, in each of several processes: `torchrun ... saving_worker.py FOLDER`."""

from __future__ import annotations

import sys

import tiny_models
import torch
from transformers import TrainingArguments

from hf_tinybert.saving import SafeSavingTrainer

torch.set_num_threads(1)

if __name__ == "__main__":
    args = TrainingArguments(output_dir=sys.argv[1], use_cpu=True, report_to="none", ddp_backend="gloo")
    trainer = SafeSavingTrainer(tiny_models.model(), args)
    for _ in range(30):
        trainer.save_model()
    torch.distributed.barrier()
