"""The section on ONNX files in a student's card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import yaml
from huggingface_hub import ModelCard, ModelCardData

if TYPE_CHECKING:
    from hf_tinybert.export.onnx import Export

_TEMPLATE = Path(__file__).parent / "card_section.md"
_BEGIN, _END = "<!-- onnx -->", "<!-- /onnx -->"
_BEFORE = "## How it was made\n"
_TAGS = ("onnx", "transformers.js")
_CLASSES = {
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "fill-mask": "ORTModelForMaskedLM",
    "feature-extraction": "ORTModelForFeatureExtraction",
}
#: Where the card's own example names the model.
_MODEL_ID = re.compile(r'(?:model=|from_pretrained\(|SentenceTransformer\()"([^"]+)"')


def with_section(card: str, export: Export, pipeline_tag: str) -> str:
    """A card with a section on ONNX, in the place of one that it has.

    Args:
        card: text of the page, metadata included.
        export: what was exported.
        pipeline_tag: the task as `pipeline()` names it.
    """
    first, _, rest = card.partition(_BEGIN)
    if _END in rest:
        card = first + rest.partition(_END)[2].lstrip("\n")
    named = _MODEL_ID.search(card)
    template = jinja2.Environment(autoescape=False, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    section = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        begin=_BEGIN,
        end=_END,
        export=export,
        metrics=sorted(set.intersection(*(set(file.scores) for file in export.files.values()))),
        best=export.files[export.fastest].name.rpartition("/")[2],
        model_id=named[1] if named else export.folder.resolve().name,
        tag=pipeline_tag,
        piped=pipeline_tag != "feature-extraction",
        ort_class=_CLASSES[pipeline_tag],
    )
    position = card.find(_BEFORE)
    position = len(card) if position < 0 else position
    before = card[:position].rstrip("\n")
    return _tagged(f"{before}\n\n{section}\n{card[position:]}".rstrip("\n") + "\n")


def _tagged(card: str) -> str:
    """With the tags by which the Hub finds ONNX models, where the card's metadata can be read."""
    if not card.startswith("---"):
        return card
    try:
        page = ModelCard(card)
    except (ValueError, yaml.YAMLError):
        return card
    data = page.data
    assert isinstance(data, ModelCardData)
    data.tags = list(dict.fromkeys([*(data.tags or []), *_TAGS]))
    text = page.text.lstrip("\n")
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
