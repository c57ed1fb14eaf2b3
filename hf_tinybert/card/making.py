"""Making a trainer's card: what is still to be measured, the pictures, the page."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_tinybert.card import pictures
from hf_tinybert.card.gather import gather
from hf_tinybert.card.page import write
from hf_tinybert.comparison import Comparison, compare
from hf_tinybert.configuration import PROVENANCE_KEY
from hf_tinybert.layer_mapping import LayerMapping


def make(
    trainer: Any, name: str, comparison: Comparison | None = None, sentence: str = pictures.SENTENCE, **given: Any
) -> None:
    """Write card and pictures into a trainer's output folder.

    Args:
        trainer: a `DistillationTrainer`, in the one process that writes.
        name: title of the page.
        comparison: of teacher and student; by default their sizes and latencies are taken now.
        sentence: what both models read in the picture of attention.
        **given: `language`, `license`, `tags`, `dataset_tags`, `dataset` (see `gather`).
    """
    folder, student, teacher = trainer.args.output_dir, trainer.student, trainer.teacher
    whole = not trainer.is_fsdp_enabled  # of a sharded model this process has a part
    if comparison is None and whole:
        folders = {"teacher": getattr(teacher.config, "_name_or_path", "") or "", "student": folder}
        comparison = compare({"teacher": teacher, "student": student}, {}, folders, metric="", split="")
    known = getattr(student.config, PROVENANCE_KEY, None) or {}
    matched = whole and trainer.teacher_processing_class is None and known.get("layer_mapping")
    mapping = LayerMapping.parse(known["layer_mapping"]) if matched else None
    reads = trainer.processing_class
    tokenizer = reads if isinstance(reads, PreTrainedTokenizerBase) else None
    drawn = pictures.draw(folder, trainer.state.log_history, student, teacher, mapping, tokenizer, sentence)
    write(gather(trainer, name, comparison, drawn, **given), folder)
