"""A page from one or more runs: losses, fidelity, where the models look, sizes and times, errors."""

from hf_tinybert.report.answers import Answers, Mistake
from hf_tinybert.report.likeness import Likeness
from hf_tinybert.report.making import check, make
from hf_tinybert.report.measuring import measure
from hf_tinybert.report.runs import Run, read

__all__ = ["Answers", "Likeness", "Mistake", "Run", "check", "make", "measure", "read"]
