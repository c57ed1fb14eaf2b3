"""The Trainer's ways to the Hub, with nothing on them but the student."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress

from hf_tinybert.hub import upload
from hf_tinybert.hub.saving import SafeSavingTrainer
from hf_tinybert.models import peft

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last-checkpoint"


class HubTrainer(SafeSavingTrainer):
    """A `Trainer` whose pushes hold weights, tokenizer, card, pictures and `onnx/`, and say what went wrong.

    A model with an adapter goes up merged, once training is over. Of others, `hub_strategy="checkpoint"` and
    `"all_checkpoints"` upload whole checkpoints besides, to resume elsewhere.
    """

    hub_model_id: Any
    push_in_progress: Any

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository `args.hub_model_id` (by default named as the output folder), if it is not there.

        Raises:
            hf_tinybert.hub.upload.PushError: the Hub refused, or was not reached; says what to do.
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
        **kwargs: Any,
    ) -> Any:
        """Save the model, write its card and upload both.

        Args:
            commit_message: of the commit.
            blocking: wait until all has arrived.
            token: of the user; `args.hub_token` by default.
            revision: branch; `args.hub_revision` by default.
            private: of a repository that has yet to be created; `args.hub_private_repo` by default.
            **kwargs: for `create_model_card`.

        Returns:
            huggingface_hub's `CommitInfo`; a future of it where `blocking` is false.

        Raises:
            hf_tinybert.hub.upload.PushError: the Hub refused, or was not reached; says what to do.
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
            return upload.push(
                folder,
                self.hub_model_id,
                token=token or self.args.hub_token,
                revision=revision or getattr(self.args, "hub_revision", None),
                commit_message=commit_message or "End of training",
                blocking=blocking or folder != self.args.output_dir,  # the merged folder is gone afterwards
            )

    @property
    def _repository(self) -> str:
        """The repository as it was asked for; by default it is named as the output folder."""
        return self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    @property
    def _title(self) -> str:
        """What the model is called: its repository without the owner."""
        return self._repository.split("/")[-1]

    @contextmanager
    def _folder_to_push(self) -> Iterator[str]:
        """The output folder; of a model with an adapter a folder with both merged, which loads without the base."""
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
            logger.info("A model with an adapter is pushed when training is over, merged.")
            return
        if self._is_pushing() and not args.hub_always_push:
            return
        self._report_failures()
        self._announce_push()
        upload.copy_student(checkpoint_folder, args.output_dir)
        try:
            with upload.explained(self.hub_model_id):
                jobs = self._begin_pushes(checkpoint_folder)
        except upload.PushError as error:
            logger.error(f"An upload during training failed. {error}")
            return
        if self.push_in_progress is None:
            self.push_in_progress = PushInProgress(jobs)
        else:  # what it holds is reported once all of it is done
            self.push_in_progress.jobs.extend(jobs)

    def _begin_pushes(self, checkpoint_folder: str) -> list[Any]:
        args = self.args
        by_step = args.save_strategy == SaveStrategy.STEPS
        where = f"step {self.state.global_step}" if by_step else f"epoch {int(self.state.epoch or 0)}"
        message = f"Training in progress, {where}"
        common = {"token": args.hub_token, "revision": getattr(args, "hub_revision", None)}
        jobs = [upload.push(args.output_dir, self.hub_model_id, commit_message=message, blocking=False, **common)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            only_last = args.hub_strategy == HubStrategy.CHECKPOINT
            path = LAST_CHECKPOINT if only_last else Path(checkpoint_folder).name
            message = f"{message}, checkpoint"
            jobs.append(
                upload.push_checkpoint_later(
                    checkpoint_folder, self.hub_model_id, path, commit_message=message, **common
                )
            )
        return jobs

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
        """Say which uploads in the background failed; training goes on, and the next upload sends what is missing."""
        if getattr(self, "push_in_progress", None) is None or self._is_pushing():
            return
        for job in self.push_in_progress.jobs:
            error = job.exception()
            if error is not None:
                logger.error(f"An upload during training failed. {upload.explain(error, self.hub_model_id)}")
        self.push_in_progress = None
