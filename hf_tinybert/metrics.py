"""The task metrics that the command line reports, for `Trainer(compute_metrics=...)`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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


def for_task(is_regression: bool) -> tuple[str, Callable[[EvalPrediction], dict[str, float]]]:
    """The name of the leading metric and the function that computes it."""
    return ("pearson", pearson) if is_regression else ("accuracy", accuracy)


def _logits(prediction: EvalPrediction) -> np.ndarray:
    logits = prediction.predictions
    return np.asarray(logits[0] if isinstance(logits, tuple) else logits)
