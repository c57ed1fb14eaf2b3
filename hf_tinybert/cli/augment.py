"""`hf-tinybert augment`: a file with variants of its texts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_tinybert.augmentation import TextAugmenter, WordVectors, keep_labels, paper_settings, report
from hf_tinybert.augmentation.presets import AugmentationSettings
from hf_tinybert.augmentation.rows import text_columns
from hf_tinybert.cli import arguments
from hf_tinybert.data import column_names, loading
from hf_tinybert.data.arguments import FileArguments
from hf_tinybert.data.writing import ENDINGS, write_file
from hf_tinybert.models.loading import load_model, load_tokenizer


@dataclass
class AugmentArguments(FileArguments):
    """What to augment, with what."""

    input_file: str = field(metadata={"help": "A .csv, .tsv, .json(l) or .parquet file with one or two text columns."})
    output_file: str = field(metadata={"help": "Where the rows and their variants go: .jsonl, .csv or .parquet."})
    masked_lm: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a masked language model, such as bert-base-uncased."}
    )
    word_vectors: str | None = field(
        default=None,
        metadata={"help": "Text file of GloVe or word2vec. Default: the masked language model's own embeddings."},
    )
    text_column: str | None = field(
        default=None, metadata={"help": f"Column of the text. Default: the first of {', '.join(column_names.TEXT)}."}
    )
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column of the second text, for pairs of sentences."}
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the label, for --filter-teacher. Default: the first of "
            f"{', '.join(column_names.LABEL)}."
        },
    )
    filter_teacher: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a fine-tuned model: variants for which it predicts another label are dropped."
        },
    )
    class_names: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the filtering model's classes 0, 1, ..., in this order, where it has none."},
    )
    task: str | None = field(default=None, metadata={"help": "GLUE task whose settings of the paper to take."})
    n: int | None = field(default=None, metadata={"help": "Attempts at a variant of each text (20)."})
    k: int | None = field(default=None, metadata={"help": "Candidates of a word (15)."})
    p: float | None = field(default=None, metadata={"help": "Probability that a word is replaced (0.4)."})
    stop_words: str = field(
        default="english", metadata={"help": "Language whose stop words stay, or 'none' to vary every word."}
    )
    second_segment: bool = field(
        default=True,
        metadata={"help": "Show the model the original beside the masked text, as the paper's code does."},
    )
    seed: int = field(default=0, metadata={"help": "Of all choices."})
    batch_size: int = field(default=64, metadata={"help": "Masks in one pass of the model."})
    num_proc: int | None = field(default=None, metadata={"help": "Processes that write variants."})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even if a GPU is available."})


def run(argv: Sequence[str]) -> None:
    """Write the file and print what was done; of several processes (`accelerate launch`), the first does."""
    (args,) = arguments.parse(
        "augment", "Add variants of texts, with some words replaced by others that fit.", (AugmentArguments,), argv
    )
    output = Path(args.output_file)
    _check_output(output, Path(args.input_file))
    if args.text_pair_column and not args.text_column:
        raise ValueError("--text-pair-column needs --text-column.")
    columns = [name for name in (args.text_column, args.text_pair_column) if name] or None
    rows = loading.load_file(Path(args.input_file), args)
    print(f"{args.input_file}: {len(rows):,} rows; texts in {', '.join(text_columns(rows, columns))}", file=sys.stderr)
    output.parent.mkdir(parents=True, exist_ok=True)
    state = PartialState(cpu=args.use_cpu)
    augmenter = _augmenter(args, state.device)
    filtering: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None
    if args.filter_teacher is not None:
        teacher = load_model(args.filter_teacher, AutoModelForSequenceClassification, role="filtering teacher")
        filtering = teacher.to(state.device), load_tokenizer(args.filter_teacher, "filtering teacher")
    candidates = augmenter.find(rows, columns)
    state.wait_for_everyone()
    if not state.is_main_process:
        return
    augmented = augmenter.write(candidates, columns, num_proc=args.num_proc)
    written = len(augmented)
    if filtering:
        names = loading.words(args.class_names)
        augmented = keep_labels(augmented, *filtering, columns, args.label_column, args.batch_size, names)
    write_file(augmented, output)
    for name, value in report(augmented).items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    if filtering:
        print(f"dropped: {written - len(augmented)}")


def _check_output(output: Path, source: Path) -> None:
    if output.suffix.lower() not in ENDINGS:
        raise ValueError(f"--output-file must end in {', '.join(ENDINGS)}, got {output}.")
    if output.is_dir():
        raise ValueError(f"--output-file {output} is a folder: name a file.")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"--output-file {output} is the input file: name another, or your own rows would be lost.")
    existing = next(folder for folder in output.absolute().parents if folder.exists())
    if not os.access(existing, os.W_OK):
        raise ValueError(f"--output-file {output} cannot be written: {existing} is not open to you.")


def _augmenter(args: AugmentArguments, device: torch.device) -> TextAugmenter:
    settings = paper_settings(args.task) if args.task else AugmentationSettings()
    if args.n is not None:
        settings["n"] = args.n
    if args.k is not None:
        settings["k"] = args.k
    if args.p is not None:
        settings["p"] = args.p
    model = tokenizer = None
    if args.masked_lm is not None:
        model = load_model(
            args.masked_lm, AutoModelForMaskedLM, {"dtype": torch.float32}, role="masked language model"
        ).to(device)
        tokenizer = load_tokenizer(args.masked_lm, "masked language model")
    return TextAugmenter(
        model,
        tokenizer,
        WordVectors.from_file(args.word_vectors) if args.word_vectors else None,
        stop_words=None if args.stop_words == "none" else args.stop_words,
        seed=args.seed,
        second_segment=args.second_segment,
        batch_size=args.batch_size,
        **settings,
    )
