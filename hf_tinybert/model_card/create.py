"""Making a trainer's card: what is still to be measured, the pictures, the page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from hf_tinybert.distillation.objective import ObjectiveConfig
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.model_card import pictures
from hf_tinybert.model_card.gather import gather
from hf_tinybert.model_card.page import write
from hf_tinybert.models import peft

if TYPE_CHECKING:
    from hf_tinybert.benchmark.comparison import Comparison

logger = logging.getLogger(__name__)


def make(
    trainer: Any,
    name: str,
    settings: ObjectiveConfig,
    comparison: Comparison | None = None,
    sentence: str = pictures.SENTENCE,
    **given: Any,
) -> None:
    """Write card and pictures into a trainer's output folder.

    Args:
        trainer: a `DistillationTrainer`, in the one process that writes.
        name: title of the page.
        settings: what is matched.
        comparison: of teacher and student; by default their sizes and latencies are taken now.
        sentence: what both models read in the picture of attention.
        **given: `language`, `license`, `tags`, `dataset_tags`, `dataset` (see `gather`).
    """
    from hf_tinybert.benchmark.comparison import compare  # with exporters and runtimes, a second to import

    folder, student, teacher = trainer.args.output_dir, trainer.student, trainer.teacher
    whole = not trainer.is_fsdp_enabled  # of a sharded model this process has a part
    if comparison is None and whole:
        folders = {
            "teacher": getattr(teacher.config, "_name_or_path", "") or "",
            "student": "" if peft.has_adapter(student) else folder,
        }
        comparison = compare({"teacher": teacher, "student": student}, {}, folders, metric="", split="")
    matched = sorted({*settings.hidden_layers, *settings.attention_layers})
    mapping = LayerMapping({m: settings.mapping[m] for m in matched}) if matched else None
    reads = trainer.processing_class
    tokenizer = reads if isinstance(reads, PreTrainedTokenizerBase) and whole else None
    drawn: dict[str, str] = {}
    try:
        drawn = pictures.draw(folder, trainer.state.log_history, student, teacher, mapping, tokenizer, sentence)
    except Exception as error:  # a card without pictures is better than none
        logger.warning(f"The card has no pictures: {type(error).__name__}: {error}")
    write(gather(trainer, name, mapping, comparison, drawn, **given), folder)
