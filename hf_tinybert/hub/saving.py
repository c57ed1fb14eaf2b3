"""The files that are saved with a student; none of an earlier model, no secrets, no paths."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_tinybert.distillation.objective import DistillationObjective
from hf_tinybert.hub import checkpoints
from hf_tinybert.models import peft, sentence_transformers_files
from hf_tinybert.models.architectures import Encoder

#: Files that determine which model is loaded from a folder.
_MODEL = (
    *(CONFIG_NAME, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, "model-*-of-*.safetensors"),
    *(peft.CONFIG_NAME, peft.WEIGHTS_NAME),
)
_SECRETS = ("hub_token", "push_to_hub_token")


def without_secrets(args: TrainingArguments) -> TrainingArguments:
    """A copy of the arguments without tokens, and with the last part of absolute paths alone."""
    clean = copy.copy(args)
    for name, value in vars(args).items():
        if name in _SECRETS:
            setattr(clean, name, None)
        elif isinstance(value, str) and os.path.isabs(os.path.expanduser(value)):
            setattr(clean, name, os.path.basename(value.rstrip(os.sep)))
    return clean


def remove_earlier_model(folder: Path, written: set[str]) -> None:
    """Remove the files of an earlier model, which would be loaded in place of the new one.

    Args:
        folder: into which a model was saved.
        written: names of the files that were written now.
    """
    if written.isdisjoint((CONFIG_NAME, peft.CONFIG_NAME)):
        return
    for pattern in _MODEL:
        for path in folder.glob(pattern):
            if path.name not in written:
                path.unlink()


class StudentFiles:
    """Writes the files beside a student: its adapter's base model, those of sentence-transformers, a checkpoint's."""

    def __init__(self) -> None:
        """Nothing has been written yet."""
        self._bases: set[str] = set()
        self._gathered: dict[str, Tensor] | None = None

    def split(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The student's part of an objective's weights, gathered from shards; the projections are written later."""
        student, self._gathered = (
            {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
            for prefix in ("student.", "projections.")
        )
        return student

    def forget(self) -> None:
        """Release the gathered projections, which have been written."""
        self._gathered = None

    def write(
        self,
        output_dir: str,
        staging: str,
        student: PreTrainedModel,
        processing_class: object,
        objective: DistillationObjective | None,
        state: checkpoints.DistillationState | None,
    ) -> None:
        """Write the files of `output_dir` into `staging`.

        Args:
            output_dir: their final folder.
            staging: the folder into which they are written.
            student: a model, or a `PeftModel`.
            processing_class: its tokenizer.
            objective: in which the student was trained, if it was.
            state: from which a run resumes; None outside of training.
        """
        in_checkpoint, adapted = checkpoints.is_checkpoint_folder(output_dir), peft.has_adapter(student)
        if adapted and not in_checkpoint:
            again = output_dir in self._bases
            peft.save_base(student, processing_class, output_dir, staging, again)
            self._bases.add(output_dir)
        if objective is None:
            return
        pooling = objective.settings.prediction.pooling
        if pooling is not None and not adapted:
            encoder, dense = Encoder.from_model(student), objective.projections.of_vectors
            sentence_transformers_files.write(staging, encoder.hidden_size, pooling, encoder.max_length, dense)
        if state is not None and in_checkpoint:
            checkpoints.save_projections(self._gathered or objective.projections.state_dict(), staging)
            state.save(staging)
