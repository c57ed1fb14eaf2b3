"""Rows of a data set: which columns hold texts, their candidates, and each row followed by its variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, IterableDataset, List, Value

from hf_tinybert.augmentation.candidates import CandidateFinder, Candidates
from hf_tinybert.augmentation.variants import VariantWriter
from hf_tinybert.data.column_names import usual_texts

#: The columns that augmentation adds: whether a row is a variant, how many of its words were replaced, and how many of
#: those by the masked language model.
AUGMENTED, REPLACED, OF_MODEL = "augmented", "words_replaced", "words_of_model"
#: The column in which candidates are kept meanwhile.
FOUND = "augmentation_candidates"


def text_columns(dataset: Dataset | IterableDataset, given: str | Sequence[str] | None) -> list[str]:
    """The columns to vary.

    Args:
        dataset: with features that are known.
        given: what the user says: one column, the two of a pair, or None to take the usual names.

    Raises:
        ValueError: there is no such column, it holds no texts, there are more than two, or none has a usual name.
    """
    features = dataset.features
    if features is None:
        raise ValueError("The stream does not know its columns: call dataset._resolve_features() first.")
    fitting = [name for name, kind in features.items() if _holds_text(kind)]
    columns = usual_texts(fitting) if given is None else [given] if isinstance(given, str) else list(given)
    wrong = [name for name in columns if name not in fitting]
    if wrong or not 1 <= len(columns) <= 2:
        raise ValueError(
            f"Name the text column, or the two of a pair: got {', '.join(columns) or 'none'}, and the columns that "
            f"hold texts or lists of words are {', '.join(fitting) or 'none'} of {', '.join(features)}."
        )
    return columns


def find(batch: Mapping[str, list[Any]], columns: Sequence[str], finder: CandidateFinder) -> dict[str, list[Any]]:
    """The candidates of a batch's rows, all columns in one go, as a column of texts."""
    texts = [text if text is not None else "" for name in columns for text in batch[name]]
    found = [one.to_json() for one in finder.find(texts)]
    rows = len(batch[columns[0]])
    by_column = [found[start : start + rows] for start in range(0, len(found), rows)]
    return {FOUND: [list(row) for row in zip(*by_column, strict=True)]}


def expand(batch: Mapping[str, list[Any]], columns: Sequence[str], writer: VariantWriter) -> dict[str, list[Any]]:
    """Every row of a batch, followed by its variants."""
    kept = [name for name in batch if name != FOUND]
    out: dict[str, list[Any]] = {name: [] for name in (*kept, AUGMENTED, REPLACED, OF_MODEL)}

    def add(row: Mapping[str, Any], augmented: bool, replaced: int, of_model: int) -> None:
        for name in kept:
            out[name].append(row[name])
        for name, value in ((AUGMENTED, augmented), (REPLACED, replaced), (OF_MODEL, of_model)):
            out[name].append(value)

    for number, found in enumerate(batch[FOUND]):
        row = {name: batch[name][number] for name in kept}
        add(row, False, 0, 0)
        for name, candidates in zip(columns, found, strict=True):
            for variant in writer.write(row[name] or "", Candidates.from_json(candidates), name):
                add(row | {name: variant.text}, True, variant.replaced, variant.of_model)
    return out


def report(dataset: Dataset) -> dict[str, float]:
    """How many originals and variants there are, words replaced, and the share of them from each source."""
    flags = Counter(dataset[AUGMENTED])
    replaced, of_model = sum(dataset[REPLACED]), sum(dataset[OF_MODEL])
    return {
        "originals": flags[False],
        "variants": flags[True],
        "words_replaced": replaced,
        "share_of_masked_lm": of_model / replaced if replaced else 0.0,
        "share_of_word_vectors": 1 - of_model / replaced if replaced else 0.0,
    }


def _holds_text(kind: Any) -> bool:
    inner = kind.feature if isinstance(kind, List) else kind
    return isinstance(inner, Value) and inner.dtype in ("string", "large_string")
