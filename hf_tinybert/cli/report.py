"""`hf-tinybert report`: one page from one or more runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data import loading
from hf_tinybert.model_card import SENTENCE
from hf_tinybert.models.loading import load_config
from hf_tinybert.report import Answers, LayerSimilarity, Run, check, make, measure, read


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
    sentence: str = field(default=SENTENCE, metadata={"help": "Text on which attention is shown."})
    mistakes: int = field(
        default=20,
        metadata={"help": "Mistakes of a student alone to list at most. 0: shares of right answers alone, no texts."},
    )
    task: str | None = field(
        default=None,
        metadata={"help": "Default: the task that the teacher was saved for.", "choices": list(tasks.WITH_LABELS)},
    )
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})


def run(argv: Sequence[str]) -> None:
    """Write the page.

    It shows losses, sizes and times of what the runs saved; with `--teacher`, layers and attention; with data as well,
    the mistakes that the student makes and the teacher does not.
    """
    argv = arguments.named_first(argv, "--runs")
    args, data_args = arguments.parse(
        "report", "One page from one or more runs.", (ReportArguments, loading.DataArguments), argv
    )
    if not args.runs:
        raise ValueError("Nothing to report on: name the output folders of one or more runs.")
    if args.mistakes < 0:
        raise ValueError(f"--mistakes is a number of at least 0, got {args.mistakes}.")
    found = _named([read(folder) for folder in args.runs])
    has_data = any((data_args.eval_file, data_args.test_file, data_args.dataset))
    if has_data and args.teacher is None:
        raise ValueError("The data is for comparing answers with the teacher's: give --teacher as well.")
    check(found, args.output)
    alike: dict[str, LayerSimilarity] = {}
    said: dict[str, Answers] = {}
    if args.teacher is not None:
        task = None
        if has_data:
            config = load_config(args.teacher)
            task = tasks.start(args.task or tasks.of_model(config) or "feature-extraction", config, data_args, False)
        alike, said = measure(found, args.teacher, task, args.sentence, args.mistakes, args.use_cpu)
    print(make(found, args.output, alike, said, args.sentence))


def _named(found: list[Run]) -> list[Run]:
    """Runs with different names: all are called by their paths where two share one."""
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        found = [dataclasses.replace(one, name=str(one.folder)) for one in found]
    if len({one.name for one in found}) < len(found):
        raise ValueError("The same run is named twice.")
    return found
