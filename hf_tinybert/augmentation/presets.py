"""The paper's settings for each GLUE task."""

from __future__ import annotations

from typing import TypedDict

#: n, the attempts at a variant of each text: 20 in the paper; the authors' code uses more for the smallest tasks and
#: fewer for the largest. p = 0.4 and k = 15 for all tasks.
GLUE = {
    "cola": 30,
    "sst2": 20,
    "mrpc": 30,
    "stsb": 30,
    "rte": 30,
    "qnli": 20,
    "mnli": 10,
    "qqp": 10,
}


class AugmentationSettings(TypedDict, total=False):
    """The numbers of algorithm 1, as arguments of `TextAugmenter`."""

    n: int
    k: int
    p: float


def paper_settings(task: str) -> AugmentationSettings:
    """Arguments of `TextAugmenter` for a GLUE task.

    Args:
        task: as in the Hub's `nyu-mll/glue`, such as `sst2`.

    Raises:
        ValueError: the task is unknown; the message lists the tasks.
    """
    if task not in GLUE:
        raise ValueError(f"There are no settings for {task!r}, expected one of {', '.join(GLUE)}.")
    return {"n": GLUE[task], "k": 15, "p": 0.4}
