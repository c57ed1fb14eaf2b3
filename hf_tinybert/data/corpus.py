"""From text files or a Hub data set to packed sequences: what the command line's general stage trains on."""

from __future__ import annotations

import glob
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.data import column_names, loading
from hf_tinybert.data.arguments import CorpusArguments, DataArguments
from hf_tinybert.data.packing import COLUMN, Packer
from hf_tinybert.utils.resumable_map import ResumableMap
from hf_tinybert.utils.work_sharing import default_folder

logger = logging.get_logger(__name__)

_ROWS_AT_ONCE = 10_000
_SHUFFLE_BUFFER = 10_000
_FEATURES = Features({COLUMN: List(Value("int32"))})


def load(
    args: DataArguments, corpus: CorpusArguments, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[loading.Rows, Dataset | None]:
    """Packed sequences to train on, and held-out ones.

    Text is tokenised once, piece by piece, and cached in `HF_HOME/hf_tinybert/corpus`. An interrupted run resumes with
    the next piece; several processes share the pieces. A stream is tokenised on the fly.

    Args:
        args: `train_file` (a text file, a folder of `.txt` files, or rows with a text column) or `dataset`;
            `eval_file`, `text_column`, `max_length` and `max_train_samples`.
        corpus: how to read it.
        tokenizer: the teacher's.
        seed: of the choice of held-out sequences.

    Raises:
        ValueError: nothing was named, or there is nothing in it.
        FileNotFoundError: a file or folder does not exist.
    """
    if bool(args.train_file) == bool(args.dataset):
        raise ValueError("Give the text to learn from: either --train-file (a file or a folder) or --dataset.")
    rows, documents = _rows(args, corpus.streaming)
    if isinstance(rows, IterableDataset) and rows.features is None:
        rows = rows._resolve_features()
    train = _packed(rows, _packer(args, corpus.documents or documents, rows, tokenizer))
    if args.eval_file:
        rows, documents = _file_rows(Path(args.eval_file), args, streaming=False)
        held_out = _packed(rows, _packer(args, corpus.documents or documents, rows, tokenizer))
    else:
        train, held_out = _hold_out(train, corpus.held_out, args.max_length, seed)
    if isinstance(train, IterableDataset):
        train = train.shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER)
    if args.max_train_samples is not None:
        wanted = args.max_train_samples
        if isinstance(train, IterableDataset):
            train = train.take(wanted)
        else:
            train = train.select(range(min(wanted, len(train))))
    return train, held_out


def _hold_out(train: loading.Rows, wanted: int, max_length: int, seed: int) -> tuple[loading.Rows, Dataset | None]:
    """Sequences to train on, and so many others, or as many as half of them.

    Raises:
        ValueError: there are too few.
    """
    if not wanted:
        return train, None
    if isinstance(train, IterableDataset):
        held_out = Dataset.from_list(list(train.take(wanted)))
        if len(held_out) < wanted:
            raise ValueError(f"The text makes fewer than the {wanted} sequences of --held-out.")
        return train.skip(wanted), held_out
    if len(train) < 2:
        raise ValueError(f"The text makes {len(train)} sequence of {max_length} tokens: there is too little.")
    few = min(wanted, len(train) // 2)
    if few < wanted:
        logger.warning("The text makes %d sequences: %d are held out, not %d.", len(train), few, wanted)
    split = train.train_test_split(few, seed=seed)
    return split["train"], split["test"]


def _rows(args: DataArguments, streaming: bool) -> tuple[loading.Rows, str]:
    if args.train_file:
        return _file_rows(Path(args.train_file), args, streaming)
    try:
        return load_dataset(args.dataset, args.dataset_config, split="train", streaming=streaming), "row"
    except DatasetGenerationError as error:
        raise ValueError(f"The data set {args.dataset} could not be read: {error.__cause__ or error}") from error


def _file_rows(path: Path, args: DataArguments, streaming: bool) -> tuple[loading.Rows, str]:
    """Rows of text and what ends a document there."""
    if not path.is_dir() and path.suffix.lower() != ".txt":
        rows = loading.load_file(path, args)
        return (rows.to_iterable_dataset() if streaming else rows), "row"
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not path.exists():
        raise FileNotFoundError(f"The text {path} does not exist.")
    if not any(file.stat().st_size for file in files):
        raise ValueError(f"There is no text in {path}: give a .txt file with something in it, or a folder of them.")
    names = [glob.escape(str(file)) for file in files]
    try:
        encoding = args.encoding or "utf-8"
        return load_dataset("text", data_files=names, split="train", streaming=streaming, encoding=encoding), "blank"
    except DatasetGenerationError as error:
        raise ValueError(f"The text {path} could not be read: {error.__cause__ or error}") from error


def _packer(args: DataArguments, documents: str, rows: loading.Rows, tokenizer: PreTrainedTokenizerBase) -> Packer:
    column = loading.pick_column(rows, args.text_column, column_names.TEXT_COLUMNS, "text", "--text-column")
    return Packer(tokenizer, args.max_length, column, documents)


def _packed(rows: loading.Rows, packer: Packer) -> loading.Rows:
    if isinstance(rows, IterableDataset):
        return rows.map(packer, batched=True, batch_size=1000, remove_columns=rows.column_names, features=_FEATURES)
    pieces = ResumableMap(rows, [packer.column], packer.key(), _ROWS_AT_ONCE, default_folder("corpus"))
    return pieces.ensure(packer, "Tokenising", _FEATURES)
