"""Rows of a data set: the text columns, their candidates, and each row followed by its variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from datasets import Dataset, IterableDataset, List, Value

from hf_tinybert.augmentation.candidates import CandidateFinder, Candidates, Text
from hf_tinybert.augmentation.variants import VariantWriter
from hf_tinybert.data.column_names import usual_texts
from hf_tinybert.utils.types import Columns

#: The columns that augmentation adds: whether a row is a variant, the number of its replaced words, and the number of
#: those that the masked language model replaced.
AUGMENTED, REPLACED, OF_MODEL = "augmented", "words_replaced", "words_of_model"
#: The column that holds candidates until the variants are written.
FOUND = "augmentation_candidates"


def text_columns(dataset: Dataset | IterableDataset, given: str | Sequence[str] | None) -> list[str]:
    """The columns to vary.

    Args:
        dataset: with known features.
        given: one column, the two of a pair, or None for the usual names.

    Raises:
        ValueError: a column is missing or holds no texts, there are more than two, or none has a usual name.
    """
    features = dataset.features
    if features is None:
        raise ValueError("The iterable data set does not know its columns: call dataset._resolve_features() first.")
    fitting = [name for name, feature in features.items() if _holds_text(feature)]
    columns = usual_texts(fitting) if given is None else [given] if isinstance(given, str) else list(given)
    wrong = [name for name in columns if name not in fitting]
    if wrong or not 1 <= len(columns) <= 2:
        raise ValueError(
            f"Name the text column, or the two of a pair: got {', '.join(columns) or 'none'}, and the columns that "
            f"hold texts or lists of words are {', '.join(fitting) or 'none'} of {', '.join(features)}."
        )
    return columns


def find(batch: Columns, columns: Sequence[str], finder: CandidateFinder) -> dict[str, list[object]]:
    """The candidates of a batch of rows, found for all columns together, as a column of lists of JSON."""
    texts = [_text(cell) for name in columns for cell in batch[name]]
    candidates = [one.to_json() for one in finder.find(texts)]
    rows = len(batch[columns[0]])
    by_column = [candidates[start : start + rows] for start in range(0, len(candidates), rows)]
    return {FOUND: [list(row) for row in zip(*by_column, strict=True)]}


def expand(batch: Columns, columns: Sequence[str], writer: VariantWriter) -> dict[str, list[object]]:
    """Every row of a batch, followed by its variants."""
    kept = [name for name in batch if name != FOUND]
    out: dict[str, list[object]] = {name: [] for name in (*kept, AUGMENTED, REPLACED, OF_MODEL)}

    def add(row: Mapping[str, object], augmented: bool, replaced: int, of_model: int) -> None:
        for name in kept:
            out[name].append(row[name])
        for name, value in ((AUGMENTED, augmented), (REPLACED, replaced), (OF_MODEL, of_model)):
            out[name].append(value)

    for number, by_column in enumerate(batch[FOUND]):
        row = {name: batch[name][number] for name in kept}
        add(row, False, 0, 0)
        for name, candidates in zip(columns, _text(by_column), strict=True):
            for variant in writer.write(_text(row[name]), Candidates.from_json(candidates), name):
                add(row | {name: variant.text}, True, variant.replaced, variant.of_model)
    return out


def report(dataset: Dataset) -> dict[str, float]:
    """The numbers of originals, variants and replaced words, and the share of replacements from each source."""
    flags = Counter(dataset[AUGMENTED])
    replaced, of_model = sum(dataset[REPLACED]), sum(dataset[OF_MODEL])
    return {
        "originals": flags[False],
        "variants": flags[True],
        "words_replaced": replaced,
        "share_of_masked_lm": of_model / replaced if replaced else 0.0,
        "share_of_word_vectors": 1 - of_model / replaced if replaced else 0.0,
    }


def _text(cell: object) -> Text:
    """A cell as a text or a list of texts; a missing one is empty."""
    if isinstance(cell, str):
        return cell
    return list(cell) if isinstance(cell, Iterable) else ""


def _holds_text(feature: object) -> bool:
    inner = feature.feature if isinstance(feature, List) else feature
    return isinstance(inner, Value) and inner.dtype in ("string", "large_string")
