"""`hf-tinybert augment`: a file with variants of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForMaskedLM

from hf_tinybert import data
from hf_tinybert.augmentation import TextAugmenter, WordVectors, paper_settings, report
from hf_tinybert.cli import arguments
from hf_tinybert.saving import file_beside
from hf_tinybert.teacher import load_teacher, load_tokenizer

_WRITERS = {".jsonl": "to_json", ".json": "to_json", ".csv": "to_csv", ".parquet": "to_parquet"}


@dataclass
class AugmentArguments:
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
    text_columns: list[str] | None = field(
        default=None, metadata={"help": "The text column, or the two of a pair. Default: those that hold texts."}
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
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})


def run(argv: Sequence[str]) -> None:
    """Write the file and print what was done."""
    (args,) = arguments.parse(
        "augment", "Add variants of texts, with some words replaced by others that fit.", (AugmentArguments,), argv
    )
    output = Path(args.output_file)
    if output.suffix not in _WRITERS:
        raise ValueError(f"--output-file must end in {', '.join(_WRITERS)}, got {args.output_file}.")
    rows = data.load_file(Path(args.input_file))
    settings = paper_settings(args.task) if args.task else {}
    settings |= {name: value for name in ("n", "k", "p") if (value := getattr(args, name)) is not None}
    model = tokenizer = None
    if args.masked_lm is not None:
        model = load_teacher(args.masked_lm, AutoModelForMaskedLM, role="masked language model")
        tokenizer = load_tokenizer(args.masked_lm, "masked language model")
    augmenter = TextAugmenter(
        model,
        tokenizer,
        WordVectors.from_file(args.word_vectors) if args.word_vectors else None,
        stop_words=None if args.stop_words == "none" else args.stop_words,
        seed=args.seed,
        second_segment=args.second_segment,
        batch_size=args.batch_size,
        **settings,
    )
    augmented = augmenter.map(rows, args.text_columns, num_proc=args.num_proc)
    output.parent.mkdir(parents=True, exist_ok=True)
    with file_beside(output) as file:
        getattr(augmented, _WRITERS[output.suffix])(str(file))
    for name, value in report(augmented).items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
