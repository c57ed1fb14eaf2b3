"""The pictures of a card: how the losses fell, and where teacher and student look."""

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

#: A sentence that is nobody's data.
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
    """Draw what can be drawn into `pictures/` of a folder.

    Args:
        folder: of the student.
        history: the Trainer's log history.
        student: in any mode.
        teacher: frozen.
        mapping: which layers were matched; None: no picture of attention.
        tokenizer: of both; None: no picture of attention.
        sentence: what they read.

    Returns:
        file in the folder -> what it shows; empty without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    made = {}
    target = Path(folder) / PICTURES
    target.mkdir(parents=True, exist_ok=True)
    if any(name.startswith("loss_") for entry in history for name in entry):
        plots.curves_picture(history, target / "losses.png")
        made[f"{PICTURES}/losses.png"] = "The losses of every level during training."
    if mapping is not None and tokenizer is not None and any(mapping):
        tokens, pairs = attention_maps(student, teacher, mapping, tokenizer, sentence)
        plots.attention_picture(tokens, pairs, target / "attention.png")
        caption = (
            "Attention of teacher and student, mean over heads: a query in each row, what it looks at in the columns."
        )
        made[f"{PICTURES}/attention.png"] = caption
    return made
