"""Saves a tiny model many times, in each of several processes: `saving_worker.py FOLDER [alone]`, for each rank.

With `alone`, nothing says that they belong together.
"""

from __future__ import annotations

import sys

import tiny_models
import torch
from transformers import TrainingArguments

from hf_tinybert.hub.trainer import HubTrainer

torch.set_num_threads(1)

if __name__ == "__main__":
    together = {} if "alone" in sys.argv else {"use_cpu": True, "ddp_backend": "gloo"}
    args = TrainingArguments(output_dir=sys.argv[1], report_to="none", **together)
    trainer = HubTrainer(tiny_models.model(), args)
    for _ in range(30):
        trainer.save_model()
    torch.distributed.barrier()
