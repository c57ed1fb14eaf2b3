"""The task metrics that the command line reports, for `Trainer(compute_metrics=...)`.

The packages that some of them need are optional, and imported where they are used; the `check_...` functions refuse a
task without its package before any time is spent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hf_tinybert.utils import extras

if TYPE_CHECKING:  # data are checked without models
    from torch import Tensor
    from transformers import EvalPrediction

#: Purposes of the optional packages, as the subjects of messages.
_F1_OF_LABELS = "The F1 of several labels"
_F1_OF_ENTITIES = "The F1 of entities"
_F1_OF_ANSWERS = "The F1 of answers"
_RANK_CORRELATION = "Spearman's rank correlation"


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of examples whose most likely class is the label."""
    predictions = np.argmax(_logits(prediction), axis=-1)
    return {"accuracy": float(np.mean(predictions == prediction.label_ids))}


def pearson(prediction: EvalPrediction) -> dict[str, float]:
    """Pearson correlation of predicted and gold values, and their mean squared error."""
    values, gold = _logits(prediction).reshape(-1), np.asarray(prediction.label_ids).reshape(-1)
    return {
        "pearson": float(np.corrcoef(values, gold)[0, 1]),
        "mse": float(np.mean((values - gold) ** 2)),
    }


def vector_cosine(prediction: EvalPrediction) -> dict[str, float]:
    """Mean cosine of the vectors of texts `[N, d]` and the teacher's, which take the place of labels."""
    import torch

    student, teacher = (torch.from_numpy(np.asarray(x)) for x in (_logits(prediction), prediction.label_ids))
    return {"cosine": float(torch.nn.functional.cosine_similarity(student, teacher, dim=-1).mean())}


def vector_ranking(prediction: EvalPrediction, scores: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation of gold scores and the cosines of pairs, whose two vectors are consecutive rows."""
    import torch

    regression = extras.required("torchmetrics.functional.regression", _RANK_CORRELATION)
    vectors = torch.from_numpy(np.asarray(_logits(prediction)))
    cosines = torch.nn.functional.cosine_similarity(vectors[0::2], vectors[1::2], dim=-1)
    return {"spearman": float(regression.spearman_corrcoef(cosines, torch.tensor(scores, dtype=cosines.dtype)))}


def several_labels(prediction: EvalPrediction) -> dict[str, float]:
    """Metrics of a multi-label task, with one half as the threshold.

    They are F1 over all decisions, F1 averaged over the classes that occur or were predicted, and the share of rows in
    which every label is right.
    """
    f1_score = extras.required("sklearn.metrics", _F1_OF_LABELS).f1_score
    predictions, gold = (_logits(prediction) > 0).astype(int), np.asarray(prediction.label_ids).astype(int)
    classes = np.flatnonzero(predictions.any(0) | gold.any(0))
    return {
        "f1": float(f1_score(gold, predictions, average="micro", zero_division=0.0)),
        "f1_macro": float(f1_score(gold, predictions, labels=classes, average="macro", zero_division=0.0)),
        "accuracy": float((predictions == gold).all(-1).mean()),
    }


def tags(chosen: NDArray[np.int64], gold: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """The accuracy over words and, for tags such as B-person, precision, recall and F1 of whole entities (seqeval).

    Args:
        chosen: `[N, S]` tag ids.
        gold: `[N, S]`, -100 where there is no word's first piece.
        names: of the tags.
    """
    kept = gold != -100
    measured = {"accuracy": float((chosen == gold)[kept].mean())}
    if are_entities(names):
        seqeval = extras.required("seqeval.metrics", _F1_OF_ENTITIES)
        predictions, labels = (
            [[names[tag] for tag in row[mask]] for row, mask in zip(x, kept, strict=True)] for x in (chosen, gold)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)
            precision, recall, f1 = (float(score(labels, predictions, zero_division=0)) for score in scores)
        measured |= {"precision": precision, "recall": recall, "f1": f1}
    return measured


def are_entities(names: Sequence[str]) -> bool:
    """Whether tags are those of entities: O, and others with a prefix such as B- or I-."""
    return "O" in names and all(name == "O" or name[1:2] == "-" for name in names)


def answers(chosen: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD's exact match and F1 of the words, in percent.

    Args:
        chosen: an answer for each question; empty if there is none.
        gold: the correct answers of each question; empty if there is none.
    """
    squad = extras.required("torchmetrics.functional.text", _F1_OF_ANSWERS).squad
    predictions = [{"prediction_text": text, "id": str(row)} for row, text in enumerate(chosen)]
    targets = [
        {"answers": {"text": list(texts) or [""], "answer_start": [0] * max(len(texts), 1)}, "id": str(row)}
        for row, texts in enumerate(gold)
    ]
    return {name: float(value) for name, value in squad(predictions, targets).items()}


def most_likely(logits: Tensor | tuple[Tensor, ...], labels: object) -> Tensor:
    """`preprocess_logits_for_metrics` for token classification: the logits of all tokens would not fit in memory."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def for_labels(is_regression: bool, several: bool) -> tuple[str, Callable[[EvalPrediction], dict[str, float]]]:
    """The name of the leading metric of a classification and the function that computes it.

    Raises:
        ImportError: several labels are wanted, and scikit-learn is not installed.
    """
    if is_regression:
        return "pearson", pearson
    if several:
        extras.check_installed("sklearn", _F1_OF_LABELS)
        return "f1", several_labels
    return "accuracy", accuracy


def check_tags(names: Sequence[str]) -> None:
    """Refuse `tags` without seqeval, which it needs for tags of entities.

    Raises:
        ImportError: these are tags of entities, and seqeval is not installed.
    """
    if are_entities(names):
        extras.check_installed("seqeval", _F1_OF_ENTITIES)


def check_answers() -> None:
    """Refuse `answers` without torchmetrics.

    Raises:
        ImportError: it is not installed.
    """
    extras.check_installed("torchmetrics", _F1_OF_ANSWERS)


def check_ranking() -> None:
    """Refuse `vector_ranking` without torchmetrics.

    Raises:
        ImportError: it is not installed.
    """
    extras.check_installed("torchmetrics", _RANK_CORRELATION)


def _logits(prediction: EvalPrediction) -> NDArray[np.float32]:
    logits = prediction.predictions
    return np.asarray(logits[0] if isinstance(logits, tuple) else logits)
