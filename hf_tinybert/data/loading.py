"""Reading files and Hub data sets for the command line; `hf_tinybert.tasks` makes examples of them.

Library users bring their own tokenised data sets, as to any `Trainer`.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from hf_tinybert.data import column_names
from hf_tinybert.data.arguments import DataArguments, FileArguments
from hf_tinybert.data.conll_files import read_conll
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.json_files import read_json, with_lists
from hf_tinybert.data.label_lists import parsed_list
from hf_tinybert.data.label_values import name_of
from hf_tinybert.data.tables import read_table
from hf_tinybert.utils.hashing import file_digest
from hf_tinybert.utils.work_sharing import default_folder

if TYPE_CHECKING:  # data are read without models
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

_Value = TypeVar("_Value")
_PANDAS_INDEX = "__index_level_"
#: Split -> the names that it may have in a folder or file of several.
_ROLES = {"train": ("train",), "eval": column_names.EVAL_SPLITS, "test": ("test",)}
_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".conll")
#: A data set or a stream.
Rows: TypeAlias = Dataset | IterableDataset


@dataclass(frozen=True)
class Source:
    """Where a split comes from.

    Attributes:
        name: the file or data set.
        notes: how it was read, where that was a choice.
    """

    name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawData:
    """The splits `train`, `eval` and `test`, as far as there are any, and their sources."""

    splits: DatasetDict
    sources: dict[str, Source]


def load_raw(args: DataArguments) -> RawData:
    """Read the files or the data set named in the arguments.

    Of a file whose top level names splits, a split is taken by its name; where no other file is given for them, its
    splits for evaluation and testing are taken as well.

    Raises:
        ValueError: nothing was named, a file has another ending or no rows, a row cannot be read, or a split is
            missing.
        FileNotFoundError: a file does not exist.
    """
    if args.max_train_samples is not None and args.max_train_samples < 1:
        raise ValueError(f"--max-train-samples must be at least 1, got {args.max_train_samples}.")
    files = {"train": args.train_file, "eval": args.eval_file, "test": args.test_file}
    given = {split: Path(path) for split, path in files.items() if path}
    if args.dataset and given:
        raise ValueError("Give either --dataset or files (--train-file, --eval-file, --test-file), not both.")
    if args.dataset:
        return _load_named_dataset(args.dataset, args.dataset_config, args)
    if not given:
        raise ValueError("No data: give --train-file (and --eval-file, --test-file), or --dataset.")
    data = RawData(DatasetDict(), {})
    for split, path in given.items():
        read, source = read_file(path, args, (args.text_column, args.label_column))
        if "" in read:
            data.splits[split], data.sources[split] = read[""], source
            continue
        there = _by_role(read)
        if split not in there:
            raise ValueError(
                f"The data file {path} has the splits {', '.join(read)}, and --{split}-file takes one that is called "
                f"{' or '.join(_ROLES[split])}."
            )
        for role in there if len(given) == 1 else [split]:
            data.splits[role], data.sources[role] = there[role], source
    return data


def load_file(path: Path, options: FileArguments | None = None) -> Dataset:
    """Read one file of rows, by its ending.

    Args:
        path: of the file.
        options: how it is read, where its form leaves a choice.

    Raises:
        ValueError: another ending, no rows, several splits, or not readable as what its ending says.
        FileNotFoundError: there is no such file.
    """
    return _rows_alone(read_file(path, options or FileArguments())[0], path)


def _rows_alone(read: Mapping[str, Dataset], path: Path) -> Dataset:
    if "" not in read:
        raise ValueError(f"The data file {path} has splits {', '.join(read)}: expected rows alone.")
    return read[""]


def read_file(
    path: Path, options: FileArguments, columns: tuple[str | None, str | None] = (None, None)
) -> tuple[dict[str, Dataset], Source]:
    """Read one file, by its ending: its splits, or all of its rows under `""`, and how they were read.

    Files of delimited text have columns of strings. A text such as "null" stays that text.

    Args:
        path: of the file.
        options: how it is read, where its form leaves a choice.
        columns: of a .conll file: the numbers of the columns of words and tags, from 1.

    Raises:
        ValueError: as `load_file`.
        FileNotFoundError: there is no such file.
    """
    ending = path.suffix.lower()
    if not path.is_file():
        raise FileNotFoundError(f"The data file {path} does not exist.")
    if ending not in _ENDINGS:
        raise ValueError(
            f"The data file {path} ends in {path.suffix!r}; expected one of {', '.join(_ENDINGS)}. (Of a spreadsheet, "
            "save the sheet as .csv.)"
        )
    if not path.stat().st_size:
        raise ValueError(f"The data file {path} is empty.")
    invalid = InvalidRows(path, options.skip_invalid_rows)
    notes: list[str] = []
    if ending == ".parquet":
        found = {"": _load_parquet(path)}
    else:
        tables: dict[str, pa.Table]
        if ending in (".json", ".jsonl"):
            tables = read_json(path, options, invalid)
        elif ending == ".conll":
            table, notes = read_conll(path, options, invalid, columns)
            tables = {"": table}
        else:
            table, notes = read_table(path, options, invalid)
            tables = {"": with_lists(table)}
        found = {split: Dataset(table) for split, table in tables.items()}
    invalid.say()
    for split, dataset in found.items():
        if not len(dataset):
            raise ValueError(f"The data file {path} has no rows{f' in the split {split!r}' if split else ''}.")
    return found, Source(str(path), tuple(notes))


def _load_parquet(path: Path) -> Dataset:
    """Memory-mapped from a cache whose key is what the file holds, not its name and time."""
    try:
        loaded: Dataset = load_dataset(
            "parquet",
            data_files=glob.escape(str(path)),
            split="train",
            cache_dir=str(default_folder("parquet") / file_digest(path)[:32]),
        )
        loaded.data.table.validate(full=True)  # a damaged file may hold texts that are no UTF-8
        return loaded.remove_columns([name for name in loaded.column_names if name.startswith(_PANDAS_INDEX)])
    except Exception as error:
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise ValueError(f"The data file {path} has no rows.") from None
        raise ValueError(f"The data file {path} could not be read as parquet: {cause}") from error


def _load_named_dataset(name: str, config: str | None, args: DataArguments) -> RawData:
    data = _load_folder(Path(name), args) if Path(name).is_dir() else None
    if data is None:
        try:
            loaded = load_dataset(name, config)
        except DatasetGenerationError as error:
            raise ValueError(f"The data set {name} could not be read: {error.__cause__ or error}") from error
        splits = _by_role(loaded)
        data = RawData(DatasetDict(splits), dict.fromkeys(splits, Source(name)))
        if not splits:
            raise ValueError(
                f"The data set {name} has splits {', '.join(loaded)}; expected train, validation or test."
            )
    return data


def _load_folder(folder: Path, args: DataArguments) -> RawData | None:
    """Files of a folder that are named after a split, read as any other file; None where there are none."""
    named = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in _ENDINGS}
    paths = _by_role(named)
    if not paths:
        return None
    data = RawData(DatasetDict(), {})
    for split, path in paths.items():
        read, data.sources[split] = read_file(path, args, (args.text_column, args.label_column))
        data.splits[split] = _rows_alone(read, path)
    return data


def _by_role(named: Mapping[str, _Value]) -> dict[str, _Value]:
    """What is named after a split, under `train`, `eval` and `test`."""
    found: dict[str, _Value] = {}
    for role, names in _ROLES.items():
        name_there = next((name for name in names if name in named), None)
        if name_there is not None:
            found[role] = named[name_there]
    return found


def pick_column(
    dataset: Rows, given: str | None, usual: tuple[str, ...], what: str, flag: str, source: str = "the data"
) -> str:
    """The named column of a data set or stream, or the first of the usual ones, whatever their case.

    Args:
        dataset: with known columns.
        given: name of the column, if the user gave one.
        usual: names to look for otherwise.
        what: the column holds, for the message.
        flag: that names it.
        source: of the data, for the message.

    Raises:
        ValueError: it is not there; the message lists those that are.
    """
    names = dataset.column_names
    found = column_names.first(names, (given,) if given else usual)
    if found is not None:
        return found
    wanted = repr(given) if given else f"named {', '.join(usual)}"
    shown = ", ".join(repr(name) for name in names)
    header = "" if given else f"; if these are the values of a row, use --no-header and give numbers ({flag} 1)"
    raise ValueError(f"No {what} column {wanted}: {source} has the columns {shown}. Name it with {flag}{header}.")


def text_columns(dataset: Dataset, args: DataArguments, source: str = "the data") -> tuple[str, str | None]:
    """The columns of the text and, where there is one, of the second text: those that are named, or the usual ones.

    Args:
        dataset: with known columns.
        args: what the user named.
        source: of the data, for messages.

    Raises:
        ValueError: a column is not there; the message lists those that are.
    """
    text = pick_column(dataset, args.text_column, column_names.TEXT_COLUMNS, "text", "--text-column", source)
    pair = args.text_pair_column
    if pair is not None:
        return text, pick_column(dataset, pair, (), "second text", "--text-pair-column", source)
    return text, column_names.pair_of(dataset.column_names, text) if args.text_column is None else None


def with_texts(dataset: Dataset, columns: Iterable[str], invalid: InvalidRows) -> tuple[Dataset, list[int]]:
    """A data set with texts in some columns, and the numbers of the rows that have them all.

    Numbers become the texts by which they are written.

    Args:
        dataset: has the columns.
        columns: of texts.
        invalid: takes the rows without one.

    Raises:
        ValueError: a row has no text.
    """
    without = set()
    for column in columns:
        kind = dataset.features[column]
        if isinstance(kind, Value) and kind.dtype.startswith(("int", "uint", "float")):
            dataset = dataset.cast_column(column, Value("string"))
        for row, text in enumerate(dataset[column]):
            if not isinstance(text, str):
                what = "no text" if text is None else f"{text!r} in place of a text"
                invalid.found(f"row {row + 1}", f"there is {what} in the column {column!r}")
                without.add(row)
    return dataset, [row for row in range(len(dataset)) if row not in without]


def lists_of_words(dataset: Dataset, column: str, invalid: InvalidRows) -> tuple[list[list[str]], set[int]]:
    """A column of lists as lists of texts, a missing one being empty; and the numbers of rows with a missing value.

    Texts that write lists, as in CSV files, are taken as these; a ClassLabel's values by their names.

    Raises:
        ValueError: the column holds something else, or a row has a missing value.
    """
    feature = dataset.features[column]
    inner = getattr(feature, "feature", None)
    names = inner.names if isinstance(inner, ClassLabel) else None
    found: list[list[str]] = []
    without = set()
    for row, cell in enumerate(dataset[column]):
        values = parsed_list(cell) if isinstance(cell, str) else cell
        if values is not None and not isinstance(values, list):
            values = None
        if values is None and cell is not None:
            raise ValueError(
                f"{invalid.source}, row {row + 1}: the column {column!r} must hold a list for each text, of words or "
                f"of tags; got {str(cell)[:40]!r}."
            )
        words = [name_of(value, names) for value in values or []]
        if values is None or None in words:
            place = f", word {words.index(None) + 1}" if words else ""
            invalid.found(f"row {row + 1}{place}", f"there is a missing value in the column {column!r}")
            without.add(row)
        found.append([word or "" for word in words])
    return found, without


def only(dataset: Dataset, rows: list[int]) -> Dataset:
    """Some rows of a data set, or the data set itself where these are all."""
    return dataset if len(rows) == len(dataset) else dataset.select(rows)


def words(given: Iterable[str] | None) -> tuple[str, ...]:
    """The values of an argument that takes several: words of the command line, each also a list with commas."""
    return tuple(word.strip() for one in given or () for word in one.split(",") if word.strip())


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
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)


def check_max_length(max_length: int, limit: int | None, whose: str) -> None:
    """Refuse inputs longer than a model's positions.

    Raises:
        ValueError: `max_length` is above the limit, or not positive.
    """
    if max_length < 1 or (limit is not None and max_length > limit):
        allowed = "at least 1 token" if limit is None else f"1 to {limit} tokens"
        raise ValueError(f"--max-length is {max_length}; {whose} takes {allowed}.")
