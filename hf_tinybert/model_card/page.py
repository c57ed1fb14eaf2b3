"""The page of a card: metadata in the Hub's format, and the text, from one template."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_tinybert.hub.upload import CARD_NAME
from hf_tinybert.model_card.facts import FOLLOWS, CardFacts, Scores
from hf_tinybert.utils.files import file_beside

_TEMPLATE = Path(__file__).parent / "template.md"
_TAGS = ("tinybert", "knowledge-distillation", "hf_tinybert")
#: The example of `How to use`.
_EXAMPLES = {
    "text-classification": '"I did not expect to like it."',
    "token-classification": '"Angela Merkel was born in Hamburg."',
    "fill-mask": 'f"Paris is the {pipe.tokenizer.mask_token} of France."',
    "feature-extraction": '"I did not expect to like it."',
}


def write(facts: CardFacts, folder: str | os.PathLike[str]) -> ModelCard:
    """Write the card into a folder, whole or not at all."""
    card = page(facts)
    with file_beside(Path(folder) / CARD_NAME) as file:
        card.save(file)
    return card


def page(facts: CardFacts) -> ModelCard:
    """The card."""
    card: ModelCard = ModelCard.from_template(
        metadata(facts),
        template_path=str(_TEMPLATE),
        facts=facts,
        example=_EXAMPLES.get(facts.pipeline_tag),
        table=side_by_side(facts),
        follows=follows(facts.scores),
        hub_teachers=hub_teachers(facts),
    )
    return card


def metadata(facts: CardFacts) -> ModelCardData:
    """The metadata block of the Hub."""
    teachers = hub_teachers(facts)
    base_model: str | list[str] | None = teachers[0] if len(teachers) == 1 else teachers or None
    return ModelCardData(  # None is not written
        model_name=facts.name,
        library_name="transformers",
        pipeline_tag=facts.pipeline_tag,
        tags=list(dict.fromkeys([*_TAGS, *facts.tags])),
        eval_results=_results(facts) or None,
        language=list(facts.language) or None,
        license=facts.license,
        datasets=list(facts.datasets) or None,
        base_model=base_model,
        base_model_relation="finetune" if teachers else None,
        metrics=sorted({name for scores in facts.scores for name in scores.names}) or None,
    )


def hub_teachers(facts: CardFacts) -> list[str]:
    """The teachers that are on the Hub."""
    return [name for name in facts.teachers if not name.startswith("sha256:")]


def _results(facts: CardFacts) -> list[EvalResult]:
    name = facts.dataset_name or "held-out data of the training run"
    return [
        EvalResult(
            task_type=facts.pipeline_tag,
            task_name=facts.pipeline_tag.replace("-", " ").capitalize(),
            dataset_type=facts.datasets[0] if facts.datasets else "custom",
            dataset_name=name,
            dataset_split=scores.split,
            metric_type=metric,
            metric_name=metric.replace("_", " ").capitalize(),
            metric_value=round(scores.student[metric], 6),
        )
        for scores in facts.scores
        for metric in scores.names
    ]


def follows(scores: Sequence[Scores]) -> dict[str, float]:
    """The fidelity metrics of the student on the last split."""
    return {name: scores[-1].student[name] for name in FOLLOWS if scores and name in scores[-1].student}


def side_by_side(facts: CardFacts) -> list[list[str]]:
    """Rows of the table of teacher and student: quantity, teacher, student, and their ratio in words."""
    rows = []
    for scores in facts.scores:
        for name in scores.names:
            teacher_score, retained = scores.teacher.get(name), scores.kept(name)
            cells = ["-" if teacher_score is None else f"{teacher_score:.4f}", f"{scores.student[name]:.4f}"]
            change = "" if retained is None else f"{retained:.1%} retained"
            rows.append([f"{name.replace('_', ' ')} ({scores.split})", *cells, change])
    if facts.comparison is None:
        return rows
    teacher, student = facts.comparison.teacher, facts.comparison.student
    for label, attribute, form, factor, word in (
        ("parameters", "parameters", "{:.1f}M", 1e-6, "fewer"),
        ("- in the layers", "layer_parameters", "{:.1f}M", 1e-6, "fewer"),
        ("size on disk", "bytes_on_disk", "{:.1f} MB", 1e-6, "smaller"),
        (f"latency, {facts.comparison.length} tokens", "latency_ms", "{:.2f} ms", 1.0, "faster"),
    ):
        values = [getattr(teacher, attribute), getattr(student, attribute)]
        if values[1] is None:
            continue
        cells = ["-" if value is None else form.format(value * factor) for value in values]
        rows.append([label, *cells, f"{values[0] / values[1]:.1f} times {word}" if values[0] else ""])
    return rows
