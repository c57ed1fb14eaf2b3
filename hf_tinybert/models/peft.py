"""Models with LoRA adapters: a teacher that was fine-tuned so, and a student that is.

peft is needed only where an adapter is.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from safetensors import safe_open
from transformers import PreTrainedModel

from hf_tinybert.models import auto_classes

WEIGHTS_NAME, CONFIG_NAME = "adapter_model.safetensors", "adapter_config.json"
#: peft's task of an adapter -> the Auto class of the model that it belongs to.
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
#: What the last layer of a task head is called.
_HEADS = ("classifier.weight", "out_proj.weight", "score.weight", "qa_outputs.weight")
#: Folder beside a student's adapter that holds the model which the adapter belongs to.
BASE_FOLDER = "base"


def has_adapter(model: Any) -> bool:
    """Whether a model is a `PeftModel`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model inside a `PeftModel`, its adapter at work; any other model as it is."""
    inner: PreTrainedModel = model.get_base_model() if has_adapter(model) else model
    return inner


def merge_adapter(model: Any) -> PreTrainedModel:
    """A copy of a model with its adapter worked into its weights: as fast as a model without, and saved as one.

    Args:
        model: a `PeftModel`, left as it is. Any other model is returned itself. A quantised model is not merged: the
            model inside is returned, its adapter at work.
    """
    if not hasattr(model, "merge_and_unload"):
        return unwrapped(model)
    if getattr(unwrapped(model), "is_quantized", False):
        return unwrapped(model)
    merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload()
    # It is no longer the model that it was loaded from.
    merged.config._name_or_path = ""
    return merged


def add_adapter(student: PreTrainedModel, peft_config: Any) -> Any:
    """A `PeftModel` that trains an adapter on a student; its task head is trained as a whole.

    Raises:
        ValueError: peft is not installed, or the student already has an adapter.
    """
    try:
        import peft
    except ImportError:
        raise ValueError("peft_config needs the peft package: pip install 'hf-tinybert[peft]'.") from None
    if has_adapter(student) or getattr(student, "_hf_peft_config_loaded", False):
        raise ValueError("peft_config would put an adapter on a student that already has one: give one of the two.")
    return peft.get_peft_model(student, peft_config)


def save_base(
    student: Any,
    tokenizer: Any,
    output_dir: str | os.PathLike[str],
    staging: str | os.PathLike[str],
    again: bool = False,
) -> None:
    """Write the model that a student's adapter belongs to into `base`, and have the saved adapter name that folder.

    `pipeline()` reads labels, sizes and the tokenizer from there: the checkpoint that the student was made of may have
    had other labels or none.

    Args:
        student: a `PeftModel`, whose adapter lies in `staging` already.
        tokenizer: is saved beside, where it can be.
        output_dir: where the files will stand in the end.
        staging: where they are written first.
        again: the model lies there from an earlier saving of this run.
    """
    path = Path(staging) / CONFIG_NAME
    if not path.is_file():
        return
    base = Path(output_dir) / BASE_FOLDER
    if not (again and (base / "config.json").is_file()):
        plain: PreTrainedModel = copy.deepcopy(student).unload()
        plain.save_pretrained(Path(staging) / BASE_FOLDER)
        if hasattr(tokenizer, "save_pretrained"):
            tokenizer.save_pretrained(Path(staging) / BASE_FOLDER)
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": str(base.resolve())}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def is_adapter(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    folder = Path(name)
    return (folder / CONFIG_NAME).is_file() and not (folder / "config.json").is_file()


def base_of(name: str | os.PathLike[str]) -> str:
    """Folder or Hub id of the model that an adapter belongs to.

    Raises:
        ValueError: the adapter does not say.
    """
    base = _saved_config(name).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"The adapter {name} does not say which model it belongs to: load it with peft and pass that."
        )
    return str(base)


def task_type(name: str | os.PathLike[str]) -> str | None:
    """What peft was told that an adapter's model does, for example `SEQ_CLS`."""
    said: str | None = _saved_config(name).get("task_type")
    return said


def _saved_config(name: str | os.PathLike[str]) -> dict[str, Any]:
    return dict(json.loads((Path(name) / CONFIG_NAME).read_text(encoding="utf-8")))


def load_merged(name: str | os.PathLike[str], auto: Any, kwargs: Mapping[str, Any], role: str) -> PreTrainedModel:
    """The model of an adapter folder, with the adapter worked in.

    The labels are the base model's, where it has a head of the adapter's size; an adapter knows their number only.

    Raises:
        ValueError: peft is not installed, or the adapter has no task head though the model class has one.
    """
    try:
        import peft
    except ImportError:
        raise ValueError(f"The {role} {name} is an adapter, which needs: pip install 'hf-tinybert[peft]'.") from None
    base, labels = base_of(name), _number_of_labels(name)
    config = transformers.AutoConfig.from_pretrained(base)
    if labels is not None and labels != config.num_labels:
        config.num_labels = labels
    model = auto.from_pretrained(base, config=config, **kwargs)
    headless = model.base_model is model
    if labels is None and not headless and not auto_classes.saved_from(config, auto):
        raise ValueError(
            f"The {role} {name} is an adapter without a task head, and its base model {base} has none either: it was "
            f"not fine-tuned for {type(model).__name__} (peft keeps heads with task_type or modules_to_save)."
        )
    return merge_adapter(peft.PeftModel.from_pretrained(model, str(name)))


def _number_of_labels(name: str | os.PathLike[str]) -> int | None:
    """The rows of the task head among an adapter's weights, or None if it has none."""
    path = Path(name) / WEIGHTS_NAME
    if not path.is_file():
        return None
    with safe_open(str(path), framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            if key.endswith(_HEADS) and "lora" not in key:
                return int(file.get_slice(key).get_shape()[0])
    return None
