"""A process without hf_tinybert that does what it is told with models: JSON lines in, JSON lines out."""

from __future__ import annotations

import sys

from asking import serve

sys.modules["hf_tinybert"] = None  # an import now fails as if it were not installed

import torch  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline  # noqa: E402


def classify(model, text):
    """What a folder or Hub id says of a text: by its class, and by `pipeline`."""
    loaded = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokens = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")
    with torch.no_grad():
        logits = loaded(**tokens).logits[0]
    best = pipeline("text-classification", model=model)(text)[0]
    return {"class": type(loaded).__name__, "logits": logits.tolist(), "label": best["label"], "score": best["score"]}


def optimum(folder, name, texts):
    """First output of a folder's `onnx/model.onnx`, opened by one of Optimum's classes."""
    import optimum.onnxruntime

    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    model = getattr(optimum.onnxruntime, name).from_pretrained(folder, subfolder="onnx", file_name="model.onnx")
    return model(**inputs)[0].tolist()


def package():
    import hf_tinybert

    return str(hf_tinybert)


def loaded():
    """Modules of the package that are there all the same."""
    return sorted(name for name, module in sys.modules.items() if name.startswith("hf_tinybert") and module)


ACTIONS = {"classify": classify, "optimum": optimum, "package": package, "loaded": loaded}

serve(ACTIONS)
