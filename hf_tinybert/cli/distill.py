"""`hf-tinybert distill`: from a fine-tuned teacher to a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data.arguments import CorpusArguments, DataArguments
from hf_tinybert.presets import DEFAULT_PRESET, PRESETS
from hf_tinybert.training_args import DistillationTrainingArguments


@dataclass
class DistillArguments:
    """Teacher and student."""

    teacher: str = field(
        metadata={"help": "Folder or Hub id of a fine-tuned encoder; in the general stage, of a pretrained one."}
    )
    student: str = field(
        default=DEFAULT_PRESET,
        metadata={
            "help": f"A preset ({', '.join(PRESETS)}), folder or Hub id of a small checkpoint, or a folder with "
            "nothing but a config.json."
        },
    )
    task: str | None = field(
        default=None,
        metadata={"help": "Default: the task that the teacher was saved for.", "choices": list(tasks.NAMES)},
    )
    stage: str = field(
        default="task",
        metadata={
            "help": "'task': learn a task from a fine-tuned teacher. 'general': learn a pretrained teacher's layers "
            "on plain text; the result is a --student for tasks.",
            "choices": ["task", "general"],
        },
    )


def run(argv: Sequence[str]) -> None:
    """Distil `--teacher` into `--student` and save it, with its tokenizer, in `--output-dir`."""
    model_args, data_args, corpus_args, training_args = arguments.parse(
        "distill",
        "Distil a fine-tuned teacher into a TinyBERT student.",
        (DistillArguments, DataArguments, CorpusArguments, DistillationTrainingArguments),
        argv,
        save_strategy="epoch",
        save_total_limit=2,
        **arguments.training_defaults(),
    )
    # Here, so that --help does not import models, data and trainer.
    if model_args.stage == "general":
        from hf_tinybert.cli import general_stage

        general_stage.run(model_args, data_args, corpus_args, training_args)
        return
    if corpus_args != CorpusArguments():
        raise ValueError("--documents, --streaming and --held-out go with --stage general.")
    from hf_tinybert.cli import task_stage

    task_stage.run(model_args, data_args, training_args)
