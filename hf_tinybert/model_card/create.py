"""A trainer's card: sizes and latencies, pictures, and the page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Unpack

from transformers import PreTrainedTokenizerBase

from hf_tinybert.distillation.objective import ObjectiveConfig
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.model_card import pictures
from hf_tinybert.model_card.facts import CardMetadata
from hf_tinybert.model_card.gather import CardTrainer, gather
from hf_tinybert.model_card.page import write

if TYPE_CHECKING:
    from hf_tinybert.benchmark.comparison import Comparison

logger = logging.getLogger(__name__)


def make(
    trainer: CardTrainer,
    name: str,
    settings: ObjectiveConfig,
    comparison: Comparison | None = None,
    sentence: str = pictures.SENTENCE,
    **given: Unpack[CardMetadata],
) -> None:
    """Write card and pictures into a trainer's output folder.

    Args:
        trainer: a `DistillationTrainer`, in the main process.
        name: title of the page.
        settings: the matched levels.
        comparison: of teacher and student; by default their sizes and latencies are measured now.
        sentence: input of both models for the picture of attention maps.
        **given: `language`, `license`, `tags`, `dataset_tags`, `dataset` (see `gather`).
    """
    from hf_tinybert.benchmark.comparison import compare_pair  # with exporters and runtimes, a second to import

    folder, student, teacher = trainer.args.output_dir, trainer.student, trainer.teacher
    comparison = comparison or compare_pair(trainer)
    matched = sorted({*settings.hidden_layers, *settings.attention_layers})
    mapping = LayerMapping({m: settings.mapping[m] for m in matched}) if matched else None
    processing = trainer.processing_class
    whole = not trainer.is_fsdp_enabled  # this process holds a part of a sharded model
    tokenizer = processing if isinstance(processing, PreTrainedTokenizerBase) and whole else None
    drawn: dict[str, str] = {}
    try:
        drawn = pictures.draw(folder, trainer.state.log_history, student, teacher, mapping, tokenizer, sentence)
    except Exception as error:  # the card is written without pictures
        logger.warning(f"The card has no pictures: {type(error).__name__}: {error}")
    write(gather(trainer, name, mapping, comparison, drawn, **given), folder)
