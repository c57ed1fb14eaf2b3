"""The teacher: loading it, knowing it again, and checking that it fits the student."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.models import auto_classes, peft
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.utils.hashing import weights_digest

_AUTO_CLASSES = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMaskedLM",
    "AutoModel",
)


_TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "tekken.json")
#: Auto class -> the task as `pipeline()` names it.
PIPELINE_TAGS = {
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModel": "feature-extraction",
}
_WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """Eval mode and no gradients, for good."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def auto_class(model: PreTrainedModel) -> Any:
    """The Auto class that loads models of this class, for example `AutoModelForSequenceClassification`.

    Raises:
        ValueError: no Auto class of an encoder task knows the model's class.
    """
    model = peft.unwrapped(model)
    for name in _AUTO_CLASSES:
        auto = getattr(transformers, name)
        if type(model) in auto_classes.model_classes(model.config, auto):
            return auto
    raise ValueError(f"{type(model).__name__} belongs to none of {', '.join(_AUTO_CLASSES)}.")


def saved_class(
    name: str | os.PathLike[str], init_kwargs: Mapping[str, Any] | None = None, role: str = "teacher"
) -> Any:
    """The Auto class of a checkpoint, by the class that it was saved from; of an adapter, by its task.

    Args:
        name: folder or Hub id.
        init_kwargs: arguments of `from_pretrained`, of which those count that say where the checkpoint lies.
        role: what the message calls it.

    Raises:
        ValueError: the folder holds no model, or what it was saved from is no encoder's task.
    """
    if peft.is_adapter(name):
        said = peft.task_type(name)
        found = peft.AUTO_CLASSES.get(said or "")
    else:
        config = load_config(name, role, init_kwargs)
        said = ", ".join(config.architectures or [])
        known = (each for each in _AUTO_CLASSES if auto_classes.saved_from(config, getattr(transformers, each)))
        found = next(known, None)
    if found is None:
        raise ValueError(
            f"The {role} {name} does not say which task it was trained for ({said or 'nothing is said'}): load it "
            f"with the class of its task, one of {', '.join(_AUTO_CLASSES)}, and give the model."
        )
    return getattr(transformers, found)


def pipeline_tag(model: PreTrainedModel) -> str:
    """A model's task as `pipeline()` names it; text classification of a class that is not known."""
    try:
        return PIPELINE_TAGS[auto_class(model).__name__]
    except ValueError:
        return "text-classification"


def load_config(
    name: str | os.PathLike[str], role: str = "teacher", init_kwargs: Mapping[str, Any] | None = None
) -> PretrainedConfig:
    """The configuration of a model in a folder or on the Hub.

    Args:
        name: the folder or Hub id.
        role: what the message calls it.
        init_kwargs: as in `saved_class`.

    Raises:
        ValueError: the folder holds no model.
    """
    where = {key: value for key, value in (init_kwargs or {}).items() if key in _WHERE}
    check_folder(name, role, where.get("subfolder", ""))
    source = peft.base_of(name) if peft.is_adapter(name) else str(name)
    config: PretrainedConfig = transformers.AutoConfig.from_pretrained(source, **where)
    return config


def check_folder(name: str | os.PathLike[str], role: str, subfolder: str = "") -> None:
    """Refuse a folder that is not there, or holds no model; a Hub id passes.

    Raises:
        ValueError: says which.
    """
    path = Path(name) / subfolder
    if path.is_dir() and not (path / "config.json").is_file() and not peft.is_adapter(path):
        raise ValueError(f"The {role} folder {path} holds no model: there is no config.json in it.")
    if not path.is_dir() and (path.is_absolute() or str(name).startswith(".")):
        raise ValueError(f"The {role} folder {path} does not exist.")


def load_model(
    name: str | os.PathLike[str], auto: Any, init_kwargs: Mapping[str, Any] | None = None, role: str = "teacher"
) -> Any:
    """Load a fine-tuned model from a folder or the Hub, with a clear error if there is none.

    A folder with a LoRA adapter gives its base model with the adapter worked into its weights.

    Args:
        name: a folder or a Hub id.
        auto: the Auto class to load it with.
        init_kwargs: further arguments of `from_pretrained` (`dtype`, `revision`, `quantization_config`, ...).
        role: what the messages call it.

    Raises:
        ValueError: the folder holds no model, or its weights lack the task head.
    """
    kwargs = dict(init_kwargs or {})
    check_folder(name, role, kwargs.get("subfolder", ""))
    if peft.is_adapter(name):
        return peft.load_merged(name, auto, kwargs, role)
    try:
        model, info = auto.from_pretrained(str(name), output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise ValueError(f"The weights of the {role} {name} are damaged: {error}") from None
    missing = sorted(key for key in info["missing_keys"] if "position_ids" not in key)
    if missing and auto is transformers.AutoModelForMaskedLM:
        raise ValueError(
            f"The {role} {name} has no trained masked language modelling head ({', '.join(missing[:4])} are missing): "
            "use a checkpoint that was saved with one, such as bert-base-uncased."
        )
    if missing and auto is not transformers.AutoModel:
        raise ValueError(
            f"The {role} {name} has no trained weights for {', '.join(missing[:4])}: it was not fine-tuned for "
            f"{type(model).__name__}. Fine-tune it first, for example with `hf-tinybert finetune`."
        )
    return model


def describe(model: PreTrainedModel) -> str:
    """The teacher's Hub id if it came from the Hub, else a fingerprint of its weights; never a local path."""
    config = model.config
    name = getattr(config, "_name_or_path", "") or ""
    if getattr(config, "_commit_hash", None) and _HUB_ID.fullmatch(name) and not os.path.exists(name):
        return name
    return f"sha256:{fingerprint(model)}"


def fingerprint(model: PreTrainedModel) -> str:
    """The first 16 hex digits of `weights_digest`."""
    return weights_digest(model)[:16]


def check_vocabularies(student: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Check that token ids can mean the same to both models.

    Raises:
        ValueError: the sizes of the vocabularies differ.
    """
    if student.vocab_size != teacher.vocab_size:
        raise ValueError(
            f"The teacher has a vocabulary of {teacher.vocab_size} tokens and the student of "
            f"{student.vocab_size}: both read the same input ids, so they need the same tokenizer (or, for the "
            "prediction level alone, data with the inputs of both: teacher_processing_class)."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str | os.PathLike[str], role: str) -> None:
    """Check that a model that is given by name brings the tokenizer in use, if it brings any.

    Args:
        tokenizer: what the data are tokenised with.
        name: folder or Hub id of the model.
        role: `"teacher"` or `"student"`, for the message.

    Raises:
        ValueError: the vocabularies differ.
    """
    if not brings_tokenizer(name):
        return
    try:
        other = transformers.AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError):
        return
    if other.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"The {role} {name} has another tokenizer than the one in use: teacher and student read the same input "
            "ids, so they need the same vocabulary (with phases='prediction', classification and sentence vectors do "
            "without)."
        )


def max_length_of(config: PretrainedConfig) -> int | None:
    """The longest input in tokens of an encoder of this configuration, or None if it is not limited."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    return Encoder.from_model(model).max_length


def load_tokenizer(name: str | os.PathLike[str], role: str, single_words: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that a model brings; an adapter without one of its own has its base model's.

    Args:
        name: folder or Hub id of the model.
        role: what the message calls it.
        single_words: it will be given texts as lists of words. A tokenizer to which the space before a word belongs
            (RoBERTa's) is then told to put one there.

    Raises:
        ValueError: the model's folder has none (transformers 5 would make an empty one up).
    """
    if not brings_tokenizer(name) and peft.is_adapter(name):
        name = peft.base_of(name)
    if not brings_tokenizer(name):
        raise ValueError(f"The {role} folder {name} has no tokenizer: save it there with `tokenizer.save_pretrained`.")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
    if single_words and loses_spaces(tokenizer):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(name), add_prefix_space=True)
    return tokenizer


def loses_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer to which the space before a word belongs reads single words without one."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer if tokenizer.is_fast else None
    if splitter is None:
        return False
    state = json.loads(splitter.__getstate__())
    return any(part.get("add_prefix_space") is False for part in state.get("pretokenizers", [state]))


def brings_tokenizer(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a tokenizer; of a name on the Hub, that is taken for granted."""
    folder = Path(name)
    return not folder.is_dir() or any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern))
