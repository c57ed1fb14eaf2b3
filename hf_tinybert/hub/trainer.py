"""A Trainer that saves atomically, and whose uploads hold nothing but the model."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from hf_tinybert.hub import checkpoints, upload
from hf_tinybert.hub.saving import remove_earlier_model, without_secrets
from hf_tinybert.models import peft
from hf_tinybert.utils import compat
from hf_tinybert.utils.files import written_beside
from hf_tinybert.utils.types import AnyDataset

if TYPE_CHECKING:
    from concurrent.futures import Future

    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last-checkpoint"


class HubTrainer(Trainer):
    """A `Trainer` that writes models atomically, and uploads nothing but the model.

    Uploads hold weights, tokenizer, card, pictures and `onnx/`. `training_args.bin` holds neither tokens nor paths. A
    model with an adapter is uploaded merged, at the end of training. For others, `hub_strategy="checkpoint"` and
    `"all_checkpoints"` also upload whole checkpoints, from which training can be resumed on another machine.
    Predictions are in the order of the data. With length grouping, the stock Trainer also groups evaluation data, and
    metrics that use other columns than the labels then compare the wrong rows.

    Args:
        model: the model to train.
        args: the training arguments.
        **kwargs: further arguments of `Trainer`.

    Raises:
        ValueError: a launcher started several processes that are not connected, and would all write into one folder.
    """

    args: TrainingArguments
    model: PreTrainedModel
    hub_model_id: str | None
    push_in_progress: PushInProgress | None

    def __init__(
        self, model: PreTrainedModel | None = None, args: TrainingArguments | None = None, **kwargs: object
    ) -> None:
        """Refuse to be one of several processes that each train alone."""
        started = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
        if args is not None and args.world_size == 1 < started:
            raise ValueError(
                f"{started} processes were started, and each would train alone, into the same folder: there is no GPU "
                "here. Set use_cpu=True (--use-cpu) to train together on the CPU, or start one process."
            )
        super().__init__(model, args, **kwargs)

    @property
    def _saved(self) -> PreTrainedModel:
        """The model that is saved, also while it is trained inside another one."""
        return self.model

    @contextmanager
    def _as_saved(self) -> Iterator[None]:
        """Inside, for the Trainer's own saving and loading, `self.model` is the model that is saved."""
        model = self.model
        self.model = self._saved
        try:
            yield
        finally:
            self.model = model

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        with self._as_saved():
            self._save_whole(output_dir, state_dict)

    def _save_whole(self, output_dir: str | None, state_dict: dict[str, Tensor] | None) -> None:
        target = output_dir if output_dir is not None else self.args.output_dir
        if not self.args.should_save:  # transformers 5 calls every process to gather a sharded model; one writes
            super()._save(target, state_dict)
            return
        with self._with_args(without_secrets(self.args)), written_beside(target) as staging:
            super()._save(staging, state_dict)
            self._save_more(target, staging)
            written = {path.name for path in Path(staging).iterdir()}
        remove_earlier_model(Path(target), written)

    def _save_more(self, output_dir: str, staging: str) -> None:
        """For subclasses: write further files of `output_dir` into `staging`."""

    @contextmanager
    def _with_args(self, args: TrainingArguments) -> Iterator[None]:
        kept, self.args = self.args, args
        try:
            yield
        finally:
            self.args = kept

    def _get_eval_sampler(self, eval_dataset: AnyDataset) -> torch.utils.data.Sampler | None:
        with compat.without_grouping(self.args):
            return super()._get_eval_sampler(eval_dataset)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository `args.hub_model_id` (by default named as the output folder), if it does not exist.

        Raises:
            hf_tinybert.hub.upload.PushError: the Hub refused, or was not reached; the message tells what to do.
        """
        if not self.is_world_process_zero():
            return
        private = self.args.hub_private_repo if private is None else private
        self.hub_model_id = upload.create_repository(self._repository, token or self.args.hub_token, private)
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: object,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Save the model, write its card and upload both.

        Args:
            commit_message: of the commit.
            blocking: wait until the upload is complete.
            token: of the user; `args.hub_token` by default.
            revision: branch; `args.hub_revision` by default.
            private: of a repository that has yet to be created; `args.hub_private_repo` by default.
            **kwargs: for `create_model_card`.

        Returns:
            huggingface_hub's `CommitInfo`; a future of it where `blocking` is false; None in all processes but one.

        Raises:
            hf_tinybert.hub.upload.PushError: the Hub refused, or was not reached; the message tells what to do.
        """
        self._announce_push()
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(model_name=kwargs.pop("model_name", None) or self._title, **kwargs)
        self._finish_current_push()
        with self._folder_to_push() as folder:
            merged = folder != self.args.output_dir  # and gone afterwards
            send = upload.push if blocking or merged else upload.push_later
            return send(
                folder,
                self._repository,
                token=token or self.args.hub_token,
                revision=revision or getattr(self.args, "hub_revision", None),
                commit_message=commit_message or "End of training",
            )

    @property
    def _repository(self) -> str:
        """The repository's name, as in the arguments until it exists; by default that of the output folder."""
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    @property
    def _title(self) -> str:
        """The model's name: its repository without the owner."""
        return self._repository.split("/")[-1]

    @contextmanager
    def _folder_to_push(self) -> Iterator[str]:
        """The output folder; for a model with an adapter, a folder with the merged model, which needs no base."""
        if not peft.has_adapter(self._saved):
            yield self.args.output_dir
            return
        with tempfile.TemporaryDirectory() as merged:
            for name in upload.files_of(self.args.output_dir):
                if name == upload.CARD_NAME or name.startswith(f"{upload.PICTURES}/"):
                    (Path(merged) / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(Path(self.args.output_dir) / name, Path(merged) / name)
            peft.merge_adapter(self._saved).save_pretrained(merged)
            if hasattr(self.processing_class, "save_pretrained"):
                self.processing_class.save_pretrained(merged)
            yield merged

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if peft.has_adapter(self._saved):
            logger.info("A model with an adapter is pushed at the end of training, merged.")
            return
        if self._is_pushing() and not args.hub_always_push:
            return
        self._report_failures()
        self._announce_push()
        upload.copy_student(checkpoint_folder, args.output_dir)
        try:
            with upload.explained(self._repository):
                jobs = self._begin_pushes(checkpoint_folder)
        except upload.PushError as error:
            logger.error(f"An upload during training failed. {error}")
            return
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress(jobs)
        else:  # failures are reported once all jobs are done
            self.push_in_progress.jobs.extend(jobs)

    def _begin_pushes(self, checkpoint_folder: str) -> list[object]:
        """Begin the uploads of a checkpoint; returns their futures."""
        args = self.args
        by_step = args.save_strategy == SaveStrategy.STEPS
        progress = f"step {self.state.global_step}" if by_step else f"epoch {int(self.state.epoch or 0)}"
        message = f"Training in progress, {progress}"
        common = {"token": args.hub_token, "revision": getattr(args, "hub_revision", None)}
        jobs: list[object] = [upload.push_later(args.output_dir, self._repository, commit_message=message, **common)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            only_last = args.hub_strategy == HubStrategy.CHECKPOINT
            path = LAST_CHECKPOINT if only_last else Path(checkpoint_folder).name
            message = f"{message}, checkpoint"
            jobs.append(
                upload.push_checkpoint_later(
                    checkpoint_folder, self._repository, path, commit_message=message, **common
                )
            )
        return jobs

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        compat.let_cpus_have_numbers()
        super()._load_optimizer_and_scheduler(checkpoint)

    def _is_pushing(self) -> bool:
        return self.push_in_progress is not None and not self.push_in_progress.is_done()

    def _announce_push(self) -> None:
        begin = getattr(self.callback_handler, "on_push_begin", None)  # from transformers 5 on
        if begin is not None:
            begin(self.args, self.state, self.control)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self._report_failures()

    def _report_failures(self) -> None:
        """Log which background uploads failed; training continues, and the next upload sends what is missing."""
        push = getattr(self, "push_in_progress", None)
        if push is None or self._is_pushing():
            return
        for job in push.jobs:
            error = job.exception()
            if error is not None:
                logger.error(f"An upload during training failed. {upload.explain(error, self._repository)}")
        self.push_in_progress = None
