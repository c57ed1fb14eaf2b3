"""What a model card can say. What was not measured, or is not known, is None or empty, and left out of the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_tinybert.layer_mapping import LayerMapping

if TYPE_CHECKING:
    from hf_tinybert.benchmark.comparison import Comparison

#: Metrics that say how the evaluation went, not how good the model is.
_NO_SCORES = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
_ERRORS = ("mse", "rmse", "mae", "error_rate", "perplexity")
#: How closely the student follows its teacher, which is no metric of the task.
FOLLOWS = ("agreement", "kl", "teacher_mse")


@dataclass(frozen=True)
class Scores:
    """Metrics of both models on one split.

    Attributes:
        split: prefix of the metrics: `eval`, `test`.
        student: metric -> value.
        teacher: metric -> value; empty where the teacher was not evaluated.
    """

    split: str
    student: Mapping[str, float]
    teacher: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Those metrics that a task is judged by."""
        known = [name for name in self.student if name not in FOLLOWS and not name.endswith(_NO_SCORES)]
        return [name for name in known if not name.startswith(("loss_", "cosine_hidden", "attention_overlap"))]

    def kept(self, name: str) -> float | None:
        """Student's score as a share of the teacher's; None of an error, of which less is better."""
        teacher = self.teacher.get(name)
        return self.student[name] / teacher if teacher and name not in _ERRORS else None


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card is made from.

    Attributes:
        name: title of the page.
        model_id: what `from_pretrained` is given.
        pipeline_tag: the task as `pipeline()` names it.
        teachers: Hub ids, or fingerprints of weights (`sha256:...`).
        teacher_shape: how the first teacher is built, in words.
        student_shape: the same for the student.
        levels: what was matched, in words.
        mapping: which teacher layer each student layer learnt from.
        phases: which phases were trained.
        init: what the student started from.
        adapter: it was trained through a LoRA adapter.
        sentences: the folder opens with sentence-transformers.
        dtypes: numbers that the models computed with when they were timed.
        comparison: sizes and times of teacher and student.
        scores: metrics of both, each split once.
        training_rows: examples of the training data.
        arguments: training arguments, by name.
        versions: package -> version.
        max_length: the longest input in tokens.
        language: two-letter codes.
        license: as the Hub writes it.
        tags: further tags.
        datasets: Hub ids of the data.
        dataset_name: what the data is called.
        pictures: file in the folder -> what it shows.
    """

    name: str
    model_id: str
    pipeline_tag: str
    teachers: Sequence[str]
    teacher_shape: str
    student_shape: str
    levels: Sequence[str] = ()
    mapping: LayerMapping | None = None
    phases: str | None = None
    init: str | None = None
    adapter: bool = False
    sentences: bool = False
    dtypes: Sequence[str] = ("float32",)
    comparison: Comparison | None = None
    scores: Sequence[Scores] = ()
    training_rows: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    language: Sequence[str] = ()
    license: str | None = None
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    dataset_name: str | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
