"""The contents of a model card. What was not measured or is unknown is None or empty, and omitted from the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from hf_tinybert.distillation.levels import Level
from hf_tinybert.layer_mapping import LayerMapping

if TYPE_CHECKING:
    from hf_tinybert.benchmark.comparison import Comparison

#: Metrics of the evaluation run, not of the model.
_NO_SCORES = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
_ERRORS = ("mse", "rmse", "mae", "error_rate", "perplexity")
#: Fidelity metrics, which compare the student with its teacher and are not metrics of the task.
FOLLOWS = ("agreement", "kl", "teacher_mse")


@dataclass(frozen=True)
class Scores:
    """Metrics of both models on one split.

    Attributes:
        split: prefix of the metrics, such as `eval` or `test`.
        student: metric -> value.
        teacher: metric -> value; empty where the teacher was not evaluated.
    """

    split: str
    student: Mapping[str, float]
    teacher: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The metrics of the task."""
        names = [name for name in self.student if name not in FOLLOWS and not name.endswith(_NO_SCORES)]
        return [name for name in names if not _is_of_a_level(name)]

    def kept(self, name: str) -> float | None:
        """The student's score relative to the teacher's; None for errors, of which a lower value is better."""
        teacher = self.teacher.get(name)
        return self.student[name] / teacher if teacher and name not in _ERRORS else None


def _is_of_a_level(name: str) -> bool:
    """Whether a metric is a loss of training, or the similarity of one layer with the teacher's."""
    if name.startswith(("loss_", "attention_overlap_")):
        return True
    try:
        return name.startswith("cosine_") and Level.parse(name.removeprefix("cosine_")).kind != "vectors"
    except ValueError:
        return False


class CardMetadata(TypedDict, total=False):
    """The arguments of `Trainer.create_model_card` that describe a model; all but the last three are used."""

    language: str | Sequence[str] | None
    license: str | None
    tags: str | Sequence[str] | None
    dataset_tags: str | Sequence[str] | None
    dataset: str | Sequence[str] | None
    finetuned_from: str | None
    tasks: object
    dataset_args: object


@dataclass(frozen=True)
class CardFacts:
    """All facts that a card is made from.

    Attributes:
        name: title of the page.
        model_id: the argument of `from_pretrained`.
        pipeline_tag: the task as `pipeline()` names it.
        teachers: Hub ids, or digests of weights (`sha256:...`).
        teacher_shape: architecture of the first teacher, in words.
        student_shape: architecture of the student, in words.
        levels: the matched levels, in words.
        mapping: student layer -> teacher layer, of the matched layers.
        phases: the phases of training, in words.
        init: initialisation of the student: `teacher`, `random`, or a description.
        start: the student's fidelity before training, by metric.
        adapter: the student was trained with a LoRA adapter.
        sentences: sentence-transformers can load the folder.
        dtypes: of the models when their latency was measured.
        comparison: sizes and latencies of teacher and student.
        scores: metrics of both, one entry for each split.
        training_rows: number of training examples.
        arguments: training arguments, by name.
        versions: package -> version.
        max_length: maximum input length in tokens.
        language: two-letter codes.
        license: identifier of the Hub, such as `apache-2.0`.
        tags: additional tags.
        datasets: Hub ids of the data.
        dataset_name: name of the data.
        pictures: file in the folder -> caption.
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
    start: Mapping[str, float] = field(default_factory=dict)
    adapter: bool = False
    sentences: bool = False
    dtypes: Sequence[str] = ("float32",)
    comparison: Comparison | None = None
    scores: Sequence[Scores] = ()
    training_rows: int | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    max_length: int | None = None
    language: Sequence[str] = ()
    license: str | None = None
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    dataset_name: str | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
