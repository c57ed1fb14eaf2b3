"""The tasks of the command line, named as `pipeline()` names them; one file each.

The names are here, for `--help`; everything else is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_tinybert.utils.lazy import lazy_names

if TYPE_CHECKING:
    from hf_tinybert.tasks.encoding import encode_for
    from hf_tinybert.tasks.evaluator import Evaluator
    from hf_tinybert.tasks.feature_extraction import FeatureExtraction
    from hf_tinybert.tasks.question_answering import QuestionAnswering
    from hf_tinybert.tasks.registry import TASKS, of_model, start
    from hf_tinybert.tasks.task import Encoded, Task
    from hf_tinybert.tasks.text_classification import TextClassification

#: Tasks whose data have labels, or make them: they can be learnt without a teacher.
WITH_LABELS = ("text-classification", "token-classification", "question-answering", "fill-mask")
#: All of them, the keys of `TASKS`.
NAMES = (*WITH_LABELS, "feature-extraction")

__all__ = [
    "NAMES",
    "TASKS",
    "WITH_LABELS",
    "Encoded",
    "Evaluator",
    "FeatureExtraction",
    "QuestionAnswering",
    "Task",
    "TextClassification",
    "encode_for",
    "of_model",
    "start",
]

_HOMES = {
    "TASKS": "registry",
    "Encoded": "task",
    "Evaluator": "evaluator",
    "FeatureExtraction": "feature_extraction",
    "QuestionAnswering": "question_answering",
    "Task": "task",
    "TextClassification": "text_classification",
    "encode_for": "encoding",
    "of_model": "registry",
    "start": "registry",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
