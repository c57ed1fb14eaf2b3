"""`hf-tinybert report`: one page from one or more runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data.arguments import DataArguments


@dataclass
class ReportArguments:
    """Which runs, and what to measure for the page."""

    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "Output folders of `hf-tinybert distill`; may also stand first, without --runs."},
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the runs' teacher: layers and attention are compared."}
    )
    output: str = field(
        default="report.html", metadata={"help": "Page to write: .html with all in it, or .md with pictures beside."}
    )
    sentence: str | None = field(
        default=None, metadata={"help": "Text on which attention is shown; a sentence about a film by default."}
    )
    mistakes: int = field(
        default=20,
        metadata={"help": "Mistakes of a student alone to list at most. 0: shares of right answers alone, no texts."},
    )
    task: str | None = field(
        default=None,
        metadata={"help": "Default: the task that the teacher was saved for.", "choices": list(tasks.WITH_LABELS)},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even if a GPU is available."})


def run(argv: Sequence[str]) -> None:
    """Write the page.

    It shows losses, sizes and times of what the runs saved; with `--teacher`, layers and attention; with data as well,
    the mistakes that the student makes and the teacher does not.
    """
    argv = arguments.named_first(argv, "--runs")
    args, data_args = arguments.parse(
        "report", "One page from one or more runs.", (ReportArguments, DataArguments), argv
    )
    if not args.runs:
        raise ValueError("Nothing to report on: name the output folders of one or more runs.")
    if args.mistakes < 0:
        raise ValueError(f"--mistakes is a number of at least 0, got {args.mistakes}.")
    has_data = any((data_args.eval_file, data_args.test_file, data_args.dataset))
    if has_data and args.teacher is None:
        raise ValueError("The data is for comparing answers with the teacher's: give --teacher as well.")
    # Here, so that --help does not import models and data.
    from hf_tinybert.model_card import SENTENCE
    from hf_tinybert.models.loading import load_config
    from hf_tinybert.report import check, make, measure, read_all
    from hf_tinybert.tasks.inspection import announce

    runs, sentence = read_all(args.runs), args.sentence or SENTENCE
    check(runs, args.output)
    if args.teacher is None:
        print(make(runs, args.output, sentence=sentence))
        return
    task = None
    if has_data:
        config = load_config(args.teacher)
        task = tasks.start(args.task or tasks.of_model(config) or "feature-extraction", config, data_args, False)
        announce(task)
    similarities, answers = measure(runs, args.teacher, task, sentence, args.mistakes, args.use_cpu)
    print(make(runs, args.output, similarities, answers, sentence))
