"""Saving that leaves no half-written file and no secret behind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_tinybert.data.sampler import OrderedTrainer
from hf_tinybert.hub import checkpoints
from hf_tinybert.models import peft
from hf_tinybert.utils.files import written_beside

#: Files by which a folder is loaded as one model or another.
_MODEL = (
    *(CONFIG_NAME, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model-*-of-*.safetensors"),
    *(peft.CONFIG_NAME, peft.WEIGHTS_NAME),
)
_SECRETS = ("hub_token", "push_to_hub_token")


class SafeSavingTrainer(OrderedTrainer):
    """A `Trainer` that writes models beside and renames them; `training_args.bin` holds neither tokens nor paths.

    Raises:
        ValueError: a launcher started several processes that know nothing of each other, and would all write there.
    """

    args: Any
    model: Any

    def __init__(self, model: Any = None, args: Any = None, *positional: Any, **kwargs: Any) -> None:
        """Refuse to be one of several that each train alone."""
        started = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
        if args is not None and args.world_size == 1 < started:
            raise ValueError(
                f"{started} processes were started, and each would train alone, into the same folder: there is no GPU "
                "here. Say use_cpu=True (--use-cpu) to have them train together on the CPU, or start one process."
            )
        super().__init__(model, args, *positional, **kwargs)

    @property
    def _saved(self) -> Any:
        """The model that is saved, also where it is inside another while training runs."""
        return self.model

    @contextmanager
    def _as_saved(self) -> Iterator[None]:
        """For the Trainer's own saving and loading, `self.model` is the model that is saved."""
        model = self.model
        self.model = self._saved
        try:
            yield
        finally:
            self.model = model

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.should_save:
            run_dir = self._get_output_dir(trial=trial)
            checkpoints.mark_incomplete(os.path.join(run_dir, f"checkpoint-{self.state.global_step}"))
        super()._save_checkpoint(model, trial)

    def _load_best_model(self) -> None:
        with self._as_saved():
            super()._load_best_model()

    def _set_signature_columns_if_needed(self) -> None:
        with self._as_saved():
            super()._set_signature_columns_if_needed()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        with self._as_saved():
            self._save_whole(output_dir, state_dict)

    def _save_whole(self, output_dir: str | None, state_dict: dict[str, Any] | None) -> None:
        target = output_dir if output_dir is not None else self.args.output_dir
        if not self.args.should_save:  # transformers 5 calls every process, to gather a sharded model; one writes
            super()._save(target, state_dict)
            return
        with self._without_secrets(), written_beside(target) as staging:
            super()._save(staging, state_dict)
            self._save_more(target, staging)
            written = {path.name for path in Path(staging).iterdir()}
        _remove_earlier_model(Path(target), written)

    def _save_more(self, output_dir: str, staging: str) -> None:
        """For subclasses: write further files of `output_dir` into `staging`."""

    @contextmanager
    def _without_secrets(self) -> Iterator[None]:
        args = self.args
        self.args = copy.copy(args)
        for name, value in vars(args).items():
            if name in _SECRETS:
                setattr(self.args, name, None)
            elif isinstance(value, str) and os.path.isabs(os.path.expanduser(value)):
                setattr(self.args, name, os.path.basename(value.rstrip(os.sep)))
        try:
            yield
        finally:
            self.args = args


def _remove_earlier_model(folder: Path, written: set[str]) -> None:
    """Files of the model that lay there before, which would be loaded in the place of what was written now."""
    if written.isdisjoint((CONFIG_NAME, peft.CONFIG_NAME)):
        return
    for pattern in _MODEL:
        for path in folder.glob(pattern):
            if path.name not in written:
                path.unlink()
