"""The facts of a card, from a trainer."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Mapping, Sequence, Sized
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import datasets
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from hf_tinybert.configuration import PROVENANCE_KEY
from hf_tinybert.distillation.phases import INTERMEDIATE_LEVELS, PREDICTION_LEVELS
from hf_tinybert.hub.upload import CARD_NAME
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.model_card.facts import CardFacts
from hf_tinybert.model_card.recorder import Recorder
from hf_tinybert.models import peft, sentence_transformers_files
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import pipeline_tag
from hf_tinybert.student.provenance import start_of
from hf_tinybert.training_args import DistillationTrainingArguments

if TYPE_CHECKING:
    from hf_tinybert.benchmark.comparison import Comparison

logger = logging.getLogger(__name__)

#: The Trainer's arguments that affect training. Those of this package are shown where they are not the defaults.
_SHOWN = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "label_smoothing_factor",
    "bf16",
    "fp16",
    "seed",
)
_PHASES = {
    "two_phase": "first the intermediate layers, then the predictions",
    "intermediate": "intermediate layers only",
    "prediction": "predictions only",
    "joint": "all levels in every step",
}
_LEVELS = {
    "embedding": "embeddings",
    "hidden": "hidden states",
    "attention": "attention scores",
    "prediction": "predictions",
    "hard_label": "gold labels",
}
_FILE_DATA = ("csv", "json", "pandas", "parquet", "text", "arrow", "generator")


class CardTrainer(Protocol):
    """The attributes of a `DistillationTrainer` that a card is made from."""

    args: DistillationTrainingArguments
    state: TrainerState
    student: PreTrainedModel
    teacher: PreTrainedModel
    teachers: Sequence[PreTrainedModel]
    recorder: Recorder
    train_dataset: object
    processing_class: object
    hub_model_id: str | None
    is_fsdp_enabled: bool


def gather(
    trainer: CardTrainer,
    name: str,
    mapping: LayerMapping | None,
    comparison: Comparison | None,
    pictures: Mapping[str, str],
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset: str | Sequence[str] | None = None,
    finetuned_from: str | None = None,
    tasks: object = None,
    dataset_args: object = None,
) -> CardFacts:
    """Collect the facts about a trainer's student.

    Args:
        trainer: a `DistillationTrainer`.
        name: title of the page.
        mapping: the matched layers.
        comparison: sizes and latencies.
        pictures: file -> caption.
        language: two-letter codes; by default the teacher's.
        license: by default the teacher's, if all teachers have the same.
        tags: additional tags.
        dataset_tags: Hub ids of the data; by default the id that `datasets` recorded.
        dataset: name of the data; by default the ids.
        finetuned_from: not used; the teacher is known.
        tasks: not used; the student's head is known.
        dataset_args: not used.
    """
    student, provenance = trainer.student, dict(getattr(trainer.student.config, PROVENANCE_KEY, None) or {})
    cards = [_card_of(teacher) for teacher in trainer.teachers]
    licenses = {card.license for card in cards}
    teachers = provenance.get("teacher") or []
    ids = _several(dataset_tags) or _data_ids(trainer.train_dataset)
    data_name = ", ".join(_several(dataset)) or ", ".join(ids)
    return CardFacts(
        name=name,
        model_id=trainer.hub_model_id or trainer.args.hub_model_id or name,
        pipeline_tag=pipeline_tag(student),
        teachers=[teachers] if isinstance(teachers, str) else list(teachers),
        teacher_shape=shape(trainer.teacher),
        student_shape=shape(student),
        levels=matched_levels(trainer.args, provenance.get("unmatched", ())),
        mapping=mapping,
        phases=_PHASES.get(provenance.get("phases", "")),
        init=provenance.get("init"),
        start=start_of(student),
        adapter=peft.has_adapter(student),
        sentences=(Path(trainer.args.output_dir) / sentence_transformers_files.MODULES).is_file(),
        dtypes=sorted({str(model.dtype).removeprefix("torch.") for model in (trainer.teacher, student)}),
        comparison=comparison,
        scores=trainer.recorder.scores(),
        training_rows=len(trainer.train_dataset) if isinstance(trainer.train_dataset, Sized) else None,
        arguments=shown_arguments(trainer.args),
        versions={**provenance.get("versions", {}), "datasets": datasets.__version__},
        max_length=Encoder.from_model(student).max_length,
        language=_several(language) or _several(cards[0].language),
        license=license or (licenses.pop() if len(licenses) == 1 else None),
        tags=_several(tags),
        datasets=ids,
        dataset_name=data_name or None,
        pictures=pictures,
    )


def shape(model: PreTrainedModel) -> str:
    """The architecture of a model, in words."""
    encoder = Encoder.from_model(model)
    name = type(peft.unwrapped(model)).__name__
    return f"{name} with {encoder.num_layers} layers, {encoder.hidden_size} wide"


def matched_levels(args: DistillationTrainingArguments, unmatched: Collection[str] = ()) -> list[str]:
    """The levels that a run matches, in words; without those that were left out because of the start."""
    weights = args.level_weights() | dict.fromkeys(unmatched, 0.0)
    by_phase = {"intermediate": INTERMEDIATE_LEVELS, "prediction": PREDICTION_LEVELS}
    wanted = by_phase.get(args.phases, INTERMEDIATE_LEVELS | PREDICTION_LEVELS)
    return [_LEVELS[level] for level, weight in weights.items() if weight and level in wanted]


def shown_arguments(args: DistillationTrainingArguments) -> dict[str, object]:
    """The arguments that affect training, without paths and tokens."""
    standard = {field.name for field in dataclasses.fields(TrainingArguments)}
    added = [field for field in dataclasses.fields(DistillationTrainingArguments) if field.name not in standard]
    shown: dict[str, object] = {name: getattr(args, name) for name in _SHOWN if hasattr(args, name)}
    shown.pop("num_train_epochs" if args.max_steps > 0 else "max_steps", None)
    for field in added:  # not those of a user's own subclass
        value = getattr(args, field.name)
        if not field.name.endswith("_dir") and value != field.default:
            shown[field.name] = value
    if args.world_size > 1:
        shown["processes"] = args.world_size
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in shown.items()}
    return {name: value for name, value in plain.items() if value not in (None, False, 0, 0.0, "")}


def _card_of(teacher: PreTrainedModel) -> ModelCardData:
    """The metadata of the teacher's card; empty if it has none."""
    name = getattr(teacher.config, "_name_or_path", "") or ""
    path = Path(name) / CARD_NAME
    if not name or (os.path.isdir(name) and not path.is_file()):
        return ModelCardData()
    try:
        data: ModelCardData = ModelCard.load(path if path.is_file() else name, ignore_metadata_errors=True).data
        return data
    except Exception as error:  # no network, no card, or an invalid one: nothing is inherited
        logger.info(f"The teacher's card could not be read, nothing is inherited from it: {type(error).__name__}.")
        return ModelCardData()


def _data_ids(dataset: object) -> list[str]:
    """The Hub id of a data set that was loaded from the Hub."""
    name = getattr(dataset, "builder_name", None)
    return [] if name is None or name in _FILE_DATA or "imagefolder" in name else [str(name)]


def _several(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
