"""`hf-tinybert distill --stage general` in a process that may be killed: `python general_worker.py 'JSON' FLAGS...`.

The JSON may hold `kill_after_pieces` (die by SIGKILL while that many pieces of text are tokenised) and
`kill_after_step` (die after that step of training). Text is tokenised fifty rows at a time, and every piece that is
made is a line of HF_HOME/made. No card is written: its pictures would take longer than all the rest.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import datasets
import ddp_worker
import torch

from hf_tinybert import DistillationTrainer
from hf_tinybert.cli import main, stage
from hf_tinybert.data import corpus
from hf_tinybert.data.packing import Packer
from hf_tinybert.utils import work_sharing

torch.set_num_threads(1)


class CountedPacker(Packer):
    """A packer that writes down its calls and dies when told to."""

    kill_after: int | None = None
    calls = 0

    def __call__(self, *args, **kwargs):
        CountedPacker.calls += 1
        if self.kill_after is not None and self.calls > self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        packed = super().__call__(*args, **kwargs)
        with (Path(os.environ["HF_HOME"]) / "made").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return packed


def run(options: dict, flags: list[str]) -> int:
    home = os.environ["HF_HOME"]
    work_sharing.HF_HOME, datasets.config.HF_DATASETS_CACHE = home, Path(home) / "datasets"
    CountedPacker.kill_after = options.get("kill_after_pieces")
    corpus.Packer, corpus._ROWS_AT_ONCE = CountedPacker, 50
    DistillationTrainer.create_model_card = lambda *args, **kwargs: None
    train = stage.train

    def trained(trainer):
        trainer.add_callback(ddp_worker.Die(options.get("kill_after_step")))
        train(trainer)

    stage.train = trained
    return main(["distill", "--stage", "general", *flags])


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1]), sys.argv[2:]))
