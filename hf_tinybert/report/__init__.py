"""A page from one or more runs: losses, layer similarity, attention maps, sizes, latencies and mistakes."""

from hf_tinybert.evaluation.error_analysis import Answers, Mistake
from hf_tinybert.evaluation.layer_similarity import LayerSimilarity
from hf_tinybert.report.create import check, make
from hf_tinybert.report.measure import measure
from hf_tinybert.report.runs import Run, read, read_all

__all__ = ["Answers", "LayerSimilarity", "Mistake", "Run", "check", "make", "measure", "read", "read_all"]
