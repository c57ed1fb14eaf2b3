"""Command-line arguments that say where the data come from; light to import, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_tinybert.data import column_names


@dataclass
class DataArguments:
    """Where the examples come from and which columns hold what."""

    train_file: str | None = field(
        default=None,
        metadata={"help": "Training examples: a .csv, .tsv, .json(l), .parquet or (words and tags) .conll file."},
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
        metadata={"help": f"Column of the text. Default: the first of {', '.join(column_names.TEXT_COLUMNS)}."},
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
    doc_stride: int = field(
        default=64,
        metadata={"help": "Question answering: tokens by which the windows of a long text overlap."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on the first N examples only (for a quick try)."}
    )


@dataclass
class CorpusArguments:
    """How plain text is read, in the general stage."""

    documents: str | None = field(
        default=None,
        metadata={
            "help": "'row': each row of a data set is a document. 'blank': documents end at empty rows. Default: "
            "'blank' for text files, else 'row'.",
            "choices": ["row", "blank"],
        },
    )
    streaming: bool = field(
        default=False, metadata={"help": "Tokenise on the fly, for text larger than the disk. Needs --max-steps."}
    )
    held_out: int = field(
        default=256, metadata={"help": "Sequences kept for evaluation where no --eval-file is given; 0: none."}
    )

    def check(self, args: DataArguments, max_steps: int) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: says what does not fit.
        """
        unused = [name for name in ("test_file", "label_column", "text_pair_column") if getattr(args, name)]
        if unused:
            flag = "--" + unused[0].replace("_", "-")
            raise ValueError(f"{flag} is for tasks; the general stage reads plain text.")
        if self.held_out < 0:
            raise ValueError(f"--held-out must not be negative, got {self.held_out}.")
        if self.streaming and max_steps <= 0:
            raise ValueError("A stream has no length: say how long to train with --max-steps.")
