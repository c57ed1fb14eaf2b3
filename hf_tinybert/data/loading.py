"""Reading files and Hub data sets for the command line; `hf_tinybert.tasks` makes examples of them.

Library users bring their own tokenised data sets, as to any `Trainer`.
"""

from __future__ import annotations

import csv
import glob
import math
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsFloat, TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.data import column_names
from hf_tinybert.data.arguments import DataArguments

logger = logging.get_logger(__name__)

_BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
#: A data set or a stream.
Rows: TypeAlias = Dataset | IterableDataset
_ENDINGS = (*_BUILDERS, ".conll")
_EVAL_SPLITS = ("validation", "validation_matched", "eval", "dev")


def load_raw(args: DataArguments) -> DatasetDict:
    """Read the files or the data set named in the arguments into splits `train`, `eval` and `test`.

    Tab-separated files are read without quoting, as GLUE distributes them; a byte-order mark is dropped; a
    text such as "null" stays that text.

    Raises:
        ValueError: nothing was named, a file has another ending or no rows, or a split is missing.
        FileNotFoundError: a file does not exist.
    """
    if args.max_train_samples is not None and args.max_train_samples < 1:
        raise ValueError(f"--max-train-samples must be at least 1, got {args.max_train_samples}.")
    files = {"train": args.train_file, "eval": args.eval_file, "test": args.test_file}
    given = {split: Path(path) for split, path in files.items() if path}
    if args.dataset and given:
        raise ValueError("Give either --dataset or files (--train-file, --eval-file, --test-file), not both.")
    if args.dataset:
        splits = _load_named_dataset(args.dataset, args.dataset_config)
    elif given:
        splits = DatasetDict({split: load_file(path) for split, path in given.items()})
    else:
        raise ValueError("No data: give --train-file (and --eval-file, --test-file), or --dataset.")
    return splits


def load_file(path: Path) -> Dataset:
    """Read one file of rows, by its ending.

    Raises:
        ValueError: another ending, no rows, or not readable as what its ending says.
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The data file {path} does not exist.")
    builder = _BUILDERS.get(path.suffix.lower())
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"The data file {path} ends in {path.suffix!r}; expected one of {', '.join(_ENDINGS)}.")
    if not path.stat().st_size:
        raise ValueError(f"The data file {path} is empty.")
    if builder is None:
        return _load_conll(path)
    options: dict[str, str | bool | int] = {}
    if builder == "csv":
        options = {"encoding": "utf-8-sig", "keep_default_na": False}
        if path.suffix.lower() == ".tsv":
            options |= {"sep": "\t", "quoting": csv.QUOTE_NONE}
    try:
        dataset = load_dataset(builder, data_files=glob.escape(str(path)), split="train", **options)
    except Exception as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise ValueError(f"The data file {path} has no rows.") from None
        raise ValueError(f"The data file {path} could not be read as {builder}: {cause}") from error
    if not len(dataset):
        raise ValueError(f"The data file {path} has no rows.")
    return dataset


def _load_conll(path: Path) -> Dataset:
    """A word and its tag in each line, first and last of the columns; an empty line ends a text."""
    texts: list[dict[str, list[str]]] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*path.read_text(encoding="utf-8-sig").split("\n"), ""], start=1):
        columns = line.split("\t") if "\t" in line else line.split(" ")
        columns = [column for column in columns if column.strip()]
        if not columns or columns[0] == "-DOCSTART-":
            if words:
                texts.append({"tokens": words, "tags": tags})
            words, tags = [], []
        elif len(columns) == 1:
            raise ValueError(f"The data file {path} has no tag in line {number}: {line!r}.")
        else:
            words.append(columns[0].strip())
            tags.append(columns[-1].strip())
    if not texts:
        raise ValueError(f"The data file {path} has no rows.")
    return Dataset.from_list(texts)


def _load_named_dataset(name: str, config: str | None) -> DatasetDict:
    loaded = _load_folder(Path(name)) if Path(name).is_dir() else {}
    if not loaded:
        try:
            loaded = load_dataset(name, config)
        except DatasetGenerationError as error:
            raise ValueError(f"The data set {name} could not be read: {error.__cause__ or error}") from error
    splits = DatasetDict()
    for split, candidates in {"train": ("train",), "eval": _EVAL_SPLITS, "test": ("test",)}.items():
        name_there = next((candidate for candidate in candidates if candidate in loaded), None)
        if name_there is not None:
            splits[split] = loaded[name_there]
    if not splits:
        raise ValueError(f"The data set {name} has splits {', '.join(loaded)}; expected train, validation or test.")
    return splits


def _load_folder(folder: Path) -> dict[str, Dataset]:
    """Files of a folder that are named after a split, read as any other file."""
    names = ("train", *_EVAL_SPLITS, "test")
    paths = {path.stem: path for path in sorted(folder.iterdir()) if path.stem in names and path.suffix in _ENDINGS}
    return {split: load_file(path) for split, path in paths.items()}


def pick_column(dataset: Rows, given: str | None, usual: tuple[str, ...], what: str, flag: str) -> str:
    """The named column of a data set or stream, or the first of the usual ones.

    Raises:
        ValueError: it is not there; the message lists those that are.
    """
    for name in (given,) if given else usual:
        if name in dataset.column_names:
            return name
    wanted = given or f"one of {', '.join(usual)}"
    raise ValueError(
        f"No {what} column {wanted!r}: the data has the columns {', '.join(dataset.column_names)}. Use {flag}."
    )


def text_columns(dataset: Dataset, args: DataArguments) -> tuple[str, str | None]:
    """The columns of the text and, where there is one, of the second text: those that are named, or the usual ones.

    Raises:
        ValueError: a column is not there; the message lists those that are.
    """
    text = pick_column(dataset, args.text_column, column_names.TEXT_COLUMNS, "text", "--text-column")
    pair = args.text_pair_column
    if pair is not None:
        return text, pick_column(dataset, pair, (), "second text", "--text-pair-column")
    if args.text_column is None:
        pair = column_names.PAIR.get(text)
    return text, pair if pair in dataset.column_names else None


def require_texts(name: str, dataset: Dataset, columns: Iterable[str]) -> None:
    """Refuse a split with a missing column, or a row without a text.

    Raises:
        ValueError: names the split, the column and the row.
    """
    columns = list(columns)
    require_columns(name, dataset, columns)
    for column in columns:
        empty = next((row for row, text in enumerate(dataset[column]) if not isinstance(text, str)), None)
        if empty is not None:
            raise ValueError(f"The {name} data has no text in row {empty + 1}, column {column!r}.")


def number(value: object, name: str, column: str) -> float:
    """A finite number.

    Raises:
        ValueError: the value is none; the message names its split and column.
    """
    try:
        finite = float(value) if isinstance(value, str | SupportsFloat) else math.nan
    except ValueError:
        finite = math.nan
    if not math.isfinite(finite):
        raise ValueError(f"The {name} data's column {column!r} holds a value that is no number: {value!r}.")
    return finite


def require_columns(name: str, dataset: Rows, columns: Iterable[str]) -> None:
    """Refuse a split that lacks a column.

    Raises:
        ValueError: names the split, the first column that is missing, and those that are there.
    """
    for column in columns:
        if column not in dataset.column_names:
            raise ValueError(
                f"The {name} data has no column {column!r}; its columns are {', '.join(dataset.column_names)}."
            )


def shortened(splits: DatasetDict, args: DataArguments) -> DatasetDict:
    """The splits with no more training examples than `--max-train-samples`."""
    if args.max_train_samples is None or "train" not in splits:
        return splits
    count = min(args.max_train_samples, len(splits["train"]))
    return DatasetDict(splits | {"train": splits["train"].select(range(count))})


def collator(tokenizer: PreTrainedTokenizerBase) -> DataCollatorWithPadding:
    """Pad each batch to its longest example, rounded up to a multiple of 8."""
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)


def check_max_length(max_length: int, limit: int | None, whose: str) -> None:
    """Refuse inputs longer than a model's positions.

    Raises:
        ValueError: `max_length` is above the limit, or not positive.
    """
    if max_length < 1 or (limit is not None and max_length > limit):
        allowed = "at least 1 token" if limit is None else f"1 to {limit} tokens"
        raise ValueError(f"--max-length is {max_length}; {whose} takes {allowed}.")
