"""The pictures of a card: how the losses fell, and where teacher and student look."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert import adapters, plots
from hf_tinybert.families import locate
from hf_tinybert.features import PLAIN_OUTPUT, FeatureCapture
from hf_tinybert.fidelity import attention_probabilities
from hf_tinybert.hub import PICTURES
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


@torch.no_grad()
def attention_maps(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mapping: LayerMapping,
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
) -> tuple[list[str], dict[tuple[int, int], tuple[Tensor, Tensor]]]:
    """Tokens, and for every matched layer (student's, teacher's) the two maps `[S, S]`, means over heads.

    Padding and dropout play no part.
    """
    longest = min((limit for model in (student, teacher) if (limit := locate(model).max_length)), default=None)
    inputs: Any = tokenizer(sentence, return_tensors="pt", truncation=longest is not None, max_length=longest)
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    return tokens, maps_of(student, teacher, mapping, inputs)


@torch.no_grad()
def maps_of(
    student: PreTrainedModel, teacher: PreTrainedModel, mapping: LayerMapping, inputs: Mapping[str, Tensor]
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """The same of one example `[1, S]` without padding."""
    pairs = {m: mapping[m] for m in mapping if m > 0}
    theirs = _maps(teacher, sorted(set(pairs.values())), inputs)
    ours = _maps(student, list(pairs), inputs)
    return {(m, above): (ours[m], theirs[above]) for m, above in pairs.items()}


def _maps(model: PreTrainedModel, layers: Sequence[int], inputs: Mapping[str, Tensor]) -> dict[int, Tensor]:
    model = adapters.unwrapped(model)
    place, training = locate(model), model.training
    capture = FeatureCapture(place, [], layers)
    model.eval()
    try:
        takes = inspect.signature(model.base_model.forward).parameters
        accepted = {name: value.to(model.device) for name, value in inputs.items() if name in takes}
        with capture.recording() as features:
            model.base_model(**accepted, **PLAIN_OUTPUT)
    finally:
        capture.remove()
        model.train(training)
    real = torch.ones_like(accepted["input_ids"], dtype=torch.bool)
    found = {}
    for layer in layers:
        window = place.attention[layer - 1].window
        found[layer] = attention_probabilities(features, layer, place.num_heads, real, window)[0].mean(0).cpu()
    return found
