"""Models with LoRA adapters, as teachers and as students; peft is needed only for these."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import transformers
from safetensors import safe_open
from transformers import PreTrainedModel

from hf_tinybert.models import auto_classes
from hf_tinybert.utils.extras import required
from hf_tinybert.utils.types import AutoClass

if TYPE_CHECKING:
    from peft import PeftConfig

WEIGHTS_NAME, CONFIG_NAME = "adapter_model.safetensors", "adapter_config.json"
#: peft's task of an adapter -> the Auto class of the model that it belongs to.
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
#: Names of the weight of a task head's last layer.
_HEADS = ("classifier.weight", "out_proj.weight", "score.weight", "qa_outputs.weight")
#: Folder beside a student's adapter that holds the adapter's base model.
BASE_FOLDER = "base"


def has_adapter(model: object) -> bool:
    """Whether a model is a `PeftModel`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model inside a `PeftModel`, its adapter active; any other model itself."""
    return model.get_base_model() if has_adapter(model) else model


def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model with its adapter merged into its weights: as fast as a model without one, and saved as one.

    Args:
        model: a `PeftModel`, which is not modified. Any other model is returned itself. A quantised model is not
            merged: the model inside is returned, its adapter active.
    """
    if not hasattr(model, "merge_and_unload"):
        return unwrapped(model)
    if getattr(unwrapped(model), "is_quantized", False):
        return unwrapped(model)
    merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload()
    # It is no longer the model of that name.
    merged.config._name_or_path = ""
    return merged


def add_adapter(student: PreTrainedModel, peft_config: PeftConfig) -> PreTrainedModel:
    """A `PeftModel` that trains an adapter on a student; its task head is trained as a whole.

    Raises:
        ImportError: peft is not installed.
        ValueError: the student already has an adapter.
    """
    peft = required("peft", "peft_config")
    if has_adapter(student) or getattr(student, "_hf_peft_config_loaded", False):
        raise ValueError("peft_config would add an adapter to a student that already has one: pass one of the two.")
    return peft.get_peft_model(student, peft_config)


def save_base(
    student: PreTrainedModel,
    tokenizer: object,
    output_dir: str | os.PathLike[str],
    staging: str | os.PathLike[str],
    again: bool = False,
) -> None:
    """Write the base model of a student's adapter into `base`, and its path into the saved adapter's configuration.

    `pipeline()` reads labels, sizes and the tokenizer from there: the checkpoint that the student was made from may
    have other labels or none.

    Args:
        student: a `PeftModel`, whose adapter is already saved in `staging`.
        tokenizer: is saved with it, where it can be.
        output_dir: the final folder of the files.
        staging: the folder into which they are written first.
        again: this run has already written the base model there.
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
    """Folder or Hub id of an adapter's base model.

    Raises:
        ValueError: the adapter's configuration does not name it.
    """
    base = _saved_config(name).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"The adapter {name} does not name its base model: load it with peft and pass the loaded model."
        )
    return str(base)


def task_type(name: str | os.PathLike[str]) -> str | None:
    """The task in an adapter's configuration, for example `SEQ_CLS`."""
    task: str | None = _saved_config(name).get("task_type")
    return task


def _saved_config(name: str | os.PathLike[str]) -> dict[str, str | None]:
    return dict(json.loads((Path(name) / CONFIG_NAME).read_text(encoding="utf-8")))


def load_merged(
    name: str | os.PathLike[str], auto: AutoClass, kwargs: Mapping[str, object], role: str
) -> PreTrainedModel:
    """The model of an adapter folder, with the adapter merged into it.

    The labels are the base model's, where it has a head of the adapter's size; an adapter stores their number only.

    Raises:
        ImportError: peft is not installed.
        ValueError: the adapter has no task head though the model class has one.
    """
    peft = required("peft", f"The {role} {name} is an adapter and")
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
