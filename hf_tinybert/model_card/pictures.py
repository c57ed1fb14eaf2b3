"""The pictures of a card: training losses, and attention maps of teacher and student."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert import plots
from hf_tinybert.evaluation.attention_maps import attention_maps
from hf_tinybert.hub.upload import PICTURES
from hf_tinybert.layer_mapping import LayerMapping

#: Contains no user's data.
SENTENCE = "The plot is thin, but the actors make up for it."


def draw(
    folder: str | os.PathLike[str],
    history: Sequence[Mapping[str, float]],
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mapping: LayerMapping | None,
    tokenizer: PreTrainedTokenizerBase | None,
    sentence: str = SENTENCE,
) -> dict[str, str]:
    """Draw the available pictures into `pictures/` of a folder.

    Args:
        folder: of the student.
        history: the Trainer's log history.
        student: in any mode.
        teacher: frozen.
        mapping: the matched layers; None: no picture of attention maps.
        tokenizer: of both; None: no picture of attention maps.
        sentence: input of both models.

    Returns:
        file in the folder -> caption; empty without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    made = {}
    target = Path(folder) / PICTURES
    target.mkdir(parents=True, exist_ok=True)
    if any(name.startswith("loss_") for entry in history for name in entry):
        plots.curves_picture(history, target / "losses.png")
        made[f"{PICTURES}/losses.png"] = "Training losses by level and layer."
    if mapping is not None and tokenizer is not None and any(mapping):
        tokens, pairs = attention_maps(student, teacher, mapping, tokenizer, sentence)
        plots.attention_picture(tokens, pairs, target / "attention.png")
        caption = "Attention maps of teacher and student, mean over heads: queries in rows, keys in columns."
        made[f"{PICTURES}/attention.png"] = caption
    return made
