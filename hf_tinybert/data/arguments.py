"""Command-line arguments that say where the data come from; light to import, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_tinybert.data import column_names


@dataclass(kw_only=True)
class FileArguments:
    """How files are read, where their form leaves a choice."""

    encoding: str | None = field(
        default=None,
        metadata={
            "help": "Of text files, for example latin-1 or cp1252. Default: by the byte-order mark, else UTF-8."
        },
    )
    delimiter: str | None = field(
        default=None,
        metadata={
            "help": "Between the fields of a .csv or .tsv file: one character, or 'tab'. Default: the header's."
        },
    )
    quoting: str = field(
        default="auto",
        metadata={
            "help": "Whether quotes enclose fields. 'auto': in files separated by tabs, if all of the file is "
            "well-formed that way; in others yes.",
            "choices": ["auto", "quoted", "none"],
        },
    )
    no_header: bool = field(
        default=False,
        metadata={"help": "The first line is a row; columns are called 1, 2, ... (--text-column 1 --label-column 2)."},
    )
    skip_invalid_rows: bool = field(
        default=False,
        metadata={"help": "Leave out rows that cannot be used, and say which, instead of stopping at the first."},
    )


@dataclass
class DataArguments(FileArguments):
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
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "What labels are, where no fine-tuned model says it. Default: decided from all of them.",
            "choices": ["regression", "single_label_classification", "multi_label_classification"],
        },
    )
    class_names: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the classes 0, 1, ..., in this order, where the data or the model have none."},
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "Between several labels in one column, such as ','."}
    )
    label_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of 0 and 1, one for each class, in place of --label-column."}
    )
    decimal: str = field(
        default=".", metadata={"help": "Before the decimals of numbers to predict.", "choices": [".", ","]}
    )
    max_length: int = field(
        default=128,
        metadata={
            "help": "Longest input in tokens; longer texts are cut at the end, or read in windows (--doc-stride)."
        },
    )
    doc_stride: int = field(
        default=64,
        metadata={
            "help": "Questions and tagged words: tokens by which the windows of a long text overlap (of tagged words "
            "at most half a window)."
        },
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
        of_tasks = (
            "test_file",
            "label_column",
            "text_pair_column",
            "problem_type",
            "label_separator",
            "label_columns",
        )
        unused = [name for name in (*of_tasks, "class_names") if getattr(args, name)]
        if unused:
            flag = "--" + unused[0].replace("class_names", "label_names").replace("_", "-")
            raise ValueError(f"{flag} is for tasks; the general stage reads plain text.")
        if self.held_out < 0:
            raise ValueError(f"--held-out must not be negative, got {self.held_out}.")
        if self.streaming and max_steps <= 0:
            raise ValueError("A stream has no length: say how long to train with --max-steps.")
