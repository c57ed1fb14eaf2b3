"""Writing rows so that `hf_tinybert.data.loading` reads them back as they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from datasets import ClassLabel, Dataset, Value

from hf_tinybert.data.label_values import name_of
from hf_tinybert.utils.files import file_beside

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


def write_file(dataset: Dataset, path: Path) -> None:
    """Write a data set beside a file and rename it, in the form of the file's ending.

    Text files hold the names of classes, not their numbers, and CSV files lists as JSON, with every text in quotes.

    Args:
        dataset: its rows.
        path: ends in one of `ENDINGS`.

    Raises:
        ValueError: another ending.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path} must end in one of {', '.join(ENDINGS)}.")
    if ending != ".parquet":
        dataset = _with_names(dataset)
    with file_beside(path) as file:
        if ending == ".parquet":
            dataset.to_parquet(str(file))
        elif ending == ".csv":
            _lists_as_json(dataset).to_csv(str(file), quoting=csv.QUOTE_NONNUMERIC)
        else:
            dataset.to_json(str(file))


def _with_names(dataset: Dataset) -> Dataset:
    for column, feature in dataset.features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, ClassLabel):
            names = inner.names
            values = [
                [name_of(one, names) for one in value] if isinstance(value, list) else name_of(value, names)
                for value in dataset[column]
            ]
            dataset = dataset.remove_columns(column).add_column(column, values)
    return dataset


def _lists_as_json(dataset: Dataset) -> Dataset:
    for column, feature in dataset.features.items():
        if not isinstance(feature, Value | ClassLabel):
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in dataset[column]]
            dataset = dataset.remove_columns(column).add_column(column, values)
    return dataset
