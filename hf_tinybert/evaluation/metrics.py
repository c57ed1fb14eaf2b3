"""The task metrics that the command line reports, for `Trainer(compute_metrics=...)`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import EvalPrediction


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of examples whose most likely class is the label."""
    chosen = np.argmax(_logits(prediction), axis=-1)
    return {"accuracy": float(np.mean(chosen == prediction.label_ids))}


def pearson(prediction: EvalPrediction) -> dict[str, float]:
    """Pearson correlation of predicted and gold values, and their mean squared error."""
    values, gold = _logits(prediction).reshape(-1), np.asarray(prediction.label_ids).reshape(-1)
    return {
        "pearson": float(np.corrcoef(values, gold)[0, 1]),
        "mse": float(np.mean((values - gold) ** 2)),
    }


def vector_cosine(prediction: EvalPrediction) -> dict[str, float]:
    """Mean cosine of the vectors of texts `[N, d]` and the teacher's, which stand for labels."""
    ours, theirs = (torch.from_numpy(np.asarray(x)) for x in (_logits(prediction), prediction.label_ids))
    return {"cosine": float(F.cosine_similarity(ours, theirs, dim=-1).mean())}


def vector_ranking(prediction: EvalPrediction, scores: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation of gold scores and the cosines of pairs, whose two vectors follow each other."""
    from torchmetrics.functional.regression import spearman_corrcoef  # here: half a second of every command's start

    vectors = torch.from_numpy(np.asarray(_logits(prediction)))
    cosines = F.cosine_similarity(vectors[0::2], vectors[1::2], dim=-1)
    return {"spearman": float(spearman_corrcoef(cosines, torch.tensor(scores, dtype=cosines.dtype)))}


def several_labels(prediction: EvalPrediction) -> dict[str, float]:
    """Of a multi-label task, with one half as the threshold: F1 over all decisions, F1 averaged over classes (those
    that occur or were predicted), and the share of rows in which every label is right.
    """
    from sklearn.metrics import f1_score  # here, as below: it takes half a second to import

    chosen, gold = (_logits(prediction) > 0).astype(int), np.asarray(prediction.label_ids).astype(int)
    seen = np.flatnonzero(chosen.any(0) | gold.any(0))
    return {
        "f1": float(f1_score(gold, chosen, average="micro", zero_division=0.0)),
        "f1_macro": float(f1_score(gold, chosen, labels=seen, average="macro", zero_division=0.0)),
        "accuracy": float((chosen == gold).all(-1).mean()),
    }


def tags(chosen: np.ndarray, gold: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The accuracy over words and, for tags such as B-person, precision, recall and F1 of whole entities (seqeval).

    Args:
        chosen: `[N, S]` tag ids.
        gold: `[N, S]`, -100 where there is no word's first piece.
        names: of the tags.
    """
    import seqeval.metrics as seqeval

    kept = gold != -100
    measured = {"accuracy": float((chosen == gold)[kept].mean())}
    if are_entities(names):
        said, true = (
            [[names[tag] for tag in row[mask]] for row, mask in zip(x, kept, strict=True)] for x in (chosen, gold)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)
            precision, recall, f1 = (float(score(true, said, zero_division=0)) for score in scores)
        measured |= {"precision": precision, "recall": recall, "f1": f1}
    return measured


def are_entities(names: Sequence[str]) -> bool:
    """Whether tags are those of entities: O, and others with a prefix such as B- or I-."""
    return "O" in names and all(name == "O" or name[1:2] == "-" for name in names)


def answers(chosen: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD's exact match and F1 of the words, in percent.

    Args:
        chosen: an answer for each question; empty where there is none.
        gold: the answers that are right; none where there is none.
    """
    from torchmetrics.functional.text import squad  # here: half a second of every command's start

    said: Any = [{"prediction_text": text, "id": str(row)} for row, text in enumerate(chosen)]
    true: Any = [
        {"answers": {"text": list(texts) or [""], "answer_start": [0] * max(len(texts), 1)}, "id": str(row)}
        for row, texts in enumerate(gold)
    ]
    return {name: float(value) for name, value in squad(said, true).items()}


def most_likely(logits: Any, labels: Any) -> Any:
    """`preprocess_logits_for_metrics` of classes of tokens: all their logits would not fit in memory."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def for_labels(is_regression: bool, several: bool) -> tuple[str, Callable[[EvalPrediction], dict[str, float]]]:
    """The name of the leading metric of a classification and the function that computes it."""
    if is_regression:
        return "pearson", pearson
    return ("f1", several_labels) if several else ("accuracy", accuracy)


def _logits(prediction: EvalPrediction) -> np.ndarray:
    logits = prediction.predictions
    return np.asarray(logits[0] if isinstance(logits, tuple) else logits)
