"""From files or a Hub data set to tokenised examples: what the command line trains on.

Library users bring their own tokenised data sets, as to any `Trainer`; nothing else imports this module.
"""

from __future__ import annotations

import csv
import glob
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert import column_names

logger = logging.get_logger(__name__)

_BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
#: Texts, not sentences that were cut into words.
TEXT_COLUMNS = tuple(name for name in column_names.TEXT if name != "tokens")
_EVAL_SPLITS = ("validation", "validation_matched", "eval", "dev")


@dataclass
class DataArguments:
    """Where the examples come from and which columns hold what."""

    train_file: str | None = field(
        default=None, metadata={"help": "Training examples: a .csv, .tsv, .json(l) or .parquet file."}
    )
    eval_file: str | None = field(default=None, metadata={"help": "Examples to evaluate on while training."})
    test_file: str | None = field(default=None, metadata={"help": "Held-out examples for the final table."})
    dataset: str | None = field(
        default=None, metadata={"help": "A data set on the Hub or a local folder, instead of files."}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of --dataset, for example sst2 of nyu-mll/glue."}
    )
    text_column: str | None = field(
        default=None,
        metadata={"help": f"Column of the text. Default: the first of {', '.join(TEXT_COLUMNS)}."},
    )
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column of the second text, for pairs of sentences."}
    )
    label_column: str | None = field(
        default=None,
        metadata={"help": f"Column of the label. Default: the first of {', '.join(column_names.LABEL)}."},
    )
    max_length: int = field(
        default=128, metadata={"help": "Longest input in tokens; longer texts are cut at the end."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first N examples only (for a quick try)."}
    )


@dataclass(frozen=True)
class Labels:
    """The classes of a task, or none for a regression."""

    names: tuple[str, ...] | None

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers to be predicted."""
        return self.names is None

    def config_kwargs(self) -> dict[str, Any]:
        """What a model's configuration says of the labels."""
        if self.names is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: index for index, name in enumerate(self.names)},
            "problem_type": "single_label_classification",
        }

    @classmethod
    def of_dataset(cls, dataset: Dataset, column: str) -> Labels:
        """The label names of a data set: a ClassLabel's own, floats as regression, else sorted values.

        Raises:
            ValueError: there are fewer than two classes, or a row has several labels.
        """
        feature = dataset.features[column]
        if hasattr(feature, "names"):
            return cls(tuple(feature.names))
        if not hasattr(feature, "dtype") or str(feature.dtype).startswith("list"):
            raise ValueError(f"The column {column!r} holds several labels for a text; one is supported so far.")
        if "float" in str(feature.dtype):
            return cls(None)
        values = dataset.unique(column)
        if len(values) < 2:
            raise ValueError(f"The column {column!r} holds one label only, {values[0]!r}: there is nothing to learn.")
        return cls(tuple(str(value) for value in sorted(values, key=lambda v: (str(type(v)), v))))

    @classmethod
    def of_config(cls, config: PretrainedConfig) -> Labels:
        """The label names that a fine-tuned model carries."""
        if config.problem_type == "regression" or config.num_labels == 1:
            return cls(None)
        return cls(tuple(config.id2label[index] for index in range(config.num_labels)))


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
    if builder is None:
        raise ValueError(f"The data file {path} ends in {path.suffix!r}; expected one of {', '.join(_BUILDERS)}.")
    if not path.stat().st_size:
        raise ValueError(f"The data file {path} is empty.")
    options: dict[str, Any] = {}
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


def _load_named_dataset(name: str, config: str | None) -> DatasetDict:
    loaded = _load_folder(Path(name)) if Path(name).is_dir() else {}
    if not loaded:
        try:
            loaded = load_dataset(name, config)
        except DatasetGenerationError as error:
            raise ValueError(f"The data set {name} could not be read: {error.__cause__ or error}") from error
    splits = DatasetDict()
    for split, candidates in {"train": ("train",), "eval": _EVAL_SPLITS, "test": ("test",)}.items():
        found = next((candidate for candidate in candidates if candidate in loaded), None)
        if found is not None:
            splits[split] = loaded[found]
    if not splits:
        raise ValueError(f"The data set {name} has splits {', '.join(loaded)}; expected train, validation or test.")
    return splits


def _load_folder(folder: Path) -> dict[str, Dataset]:
    """Files of a folder that are named after a split, read as any other file."""
    names = ("train", *_EVAL_SPLITS, "test")
    paths = {path.stem: path for path in sorted(folder.iterdir()) if path.stem in names and path.suffix in _BUILDERS}
    return {split: load_file(path) for split, path in paths.items()}


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used."""

    text: str
    pair: str | None
    label: str

    @classmethod
    def find(cls, dataset: Dataset, args: DataArguments) -> Columns:
        """Take the named columns, or the usual names.

        Raises:
            ValueError: a column is not there; the message lists those that are.
        """
        text = pick_column(dataset, args.text_column, TEXT_COLUMNS, "text", "--text-column")
        pair = args.text_pair_column
        if pair is None and args.text_column is None:
            pair = column_names.PAIR.get(text)
            pair = pair if pair in dataset.column_names else None
        elif pair is not None:
            pair = pick_column(dataset, pair, (), "second text", "--text-pair-column")
        return cls(text, pair, pick_column(dataset, args.label_column, column_names.LABEL, "label", "--label-column"))


def pick_column(dataset: Any, given: str | None, usual: tuple[str, ...], what: str, flag: str) -> str:
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


def checked(splits: DatasetDict, columns: Columns) -> DatasetDict:
    """Refuse splits with missing columns, texts or labels; leave out, with a warning, splits without any label.

    Raises:
        ValueError: names the split, the column and the row.
    """
    kept = DatasetDict()
    for name, dataset in splits.items():
        wanted = [column for column in (columns.text, columns.pair, columns.label) if column]
        missing = [column for column in wanted if column not in dataset.column_names]
        if missing:
            raise ValueError(
                f"The {name} data has no column {missing[0]!r}; its columns are {', '.join(dataset.column_names)}."
            )
        for column in wanted[:-1]:
            empty = next((row for row, text in enumerate(dataset[column]) if not isinstance(text, str)), None)
            if empty is not None:
                raise ValueError(f"The {name} data has no text in row {empty + 1}, column {column!r}.")
        hidden = hasattr(dataset.features[columns.label], "names")
        without = [row for row, label in enumerate(dataset[columns.label]) if _is_missing(label, hidden)]
        if len(without) == len(dataset):
            logger.warning(f"The {name} data has no labels and is left out.")
        elif without:
            raise ValueError(f"The {name} data has no label in row {without[0] + 1}, column {columns.label!r}.")
        else:
            kept[name] = dataset
    return kept


def _is_missing(label: Any, hidden: bool) -> bool:
    """Whether a row has no label; -1 stands for a hidden one where labels are a ClassLabel."""
    return label is None or label == "" or label != label or (hidden and label == -1)


def load_for_training(args: DataArguments) -> tuple[DatasetDict, Columns]:
    """The splits named in the arguments, checked, with training data among them, and their columns.

    Raises:
        ValueError: as `load_raw`, `Columns.find` and `checked`, or there is no labelled training data.
    """
    splits = load_raw(args)
    if "train" not in splits:
        raise ValueError("No training data: give --train-file or a --dataset with a train split.")
    columns = Columns.find(splits["train"], args)
    splits = checked(splits, columns)
    if "train" not in splits:
        raise ValueError(f"The training data has no labels in column {columns.label!r}.")
    return splits, columns


def shortened(splits: DatasetDict, args: DataArguments) -> DatasetDict:
    """The splits with no more training examples than `--max-train-samples`."""
    if args.max_train_samples is None or "train" not in splits:
        return splits
    count = min(args.max_train_samples, len(splits["train"]))
    return DatasetDict(splits | {"train": splits["train"].select(range(count))})


def encode(
    splits: DatasetDict,
    columns: Columns,
    labels: Labels,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> DatasetDict:
    """Tokenise every split and turn its labels into ids (or floats), unpadded, for a dynamic collator.

    Raises:
        ValueError: a split has a label that the model does not know.
    """

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        pair = batch[columns.pair] if columns.pair else None
        return dict(tokenizer(batch[columns.text], pair, truncation=True, max_length=max_length))

    encoded = DatasetDict()
    for name, dataset in splits.items():
        ids = _label_ids(dataset, name, columns.label, labels)
        tokens = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names, desc=f"Tokenising {name}")
        encoded[name] = tokens.add_column("labels", ids)
    return encoded


def _label_ids(dataset: Dataset, name: str, column: str, labels: Labels) -> list[int] | list[float]:
    values = list(dataset[column])
    if labels.names is None:
        return [_number(value, name, column) for value in values]
    feature = dataset.features[column]
    if hasattr(feature, "names"):
        values = [feature.names[value] for value in values]
    ids = {label: index for index, label in enumerate(labels.names)}
    numbered = all(label.lstrip("-").isdigit() for label in labels.names)
    if not numbered and all(type(value) is int for value in values):
        ids = {str(index): index for index in range(len(labels.names))}
    unknown = sorted({str(value) for value in values} - ids.keys())
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        known = ", ".join(labels.names[:10]) + (", ..." if len(labels.names) > 10 else "")
        raise ValueError(
            f"The {name} data has {len(unknown)} label(s) that the model was not trained for: {shown}. "
            f"It knows: {known}."
        )
    return [ids[str(value)] for value in values]


def _number(value: Any, name: str, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"The {name} data's column {column!r} holds a value that is no number: {value!r}.")
    return number


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
