"""Loads models, configurations and tokenizers, identifies models, and checks that teacher and student fit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.models import auto_classes, peft
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.utils.hashing import weights_digest
from hf_tinybert.utils.types import AutoClass

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
#: Arguments of `from_pretrained` that locate a checkpoint.
_LOCATION = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """Put a model into eval mode and turn its gradients off."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def has_finite_weights(model: nn.Module) -> bool:
    """Whether no parameter of a model is NaN or infinite."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def auto_class(model: PreTrainedModel) -> AutoClass:
    """The Auto class that loads models of this class, for example `AutoModelForSequenceClassification`.

    Raises:
        ValueError: no Auto class of an encoder task supports the model's class.
    """
    model = peft.unwrapped(model)
    for name in _AUTO_CLASSES:
        auto: AutoClass = getattr(transformers, name)
        if type(model) in auto_classes.model_classes(model.config, auto):
            return auto
    raise ValueError(f"{type(model).__name__} belongs to none of {', '.join(_AUTO_CLASSES)}.")


def saved_class(
    name: str | os.PathLike[str], init_kwargs: Mapping[str, object] | None = None, role: str = "teacher"
) -> AutoClass:
    """The Auto class of a checkpoint, by the class that it was saved from; of an adapter, by its task.

    Args:
        name: folder or Hub id.
        init_kwargs: arguments of `from_pretrained`, of which only those count that locate the checkpoint.
        role: the model's name in the message.

    Raises:
        ValueError: the folder holds no model, or a model of no encoder task.
    """
    if peft.is_adapter(name):
        recorded = peft.task_type(name)
        auto_name = peft.AUTO_CLASSES.get(recorded or "")
    else:
        config = load_config(name, role, init_kwargs)
        recorded = ", ".join(config.architectures or [])
        fitting = (each for each in _AUTO_CLASSES if auto_classes.saved_from(config, getattr(transformers, each)))
        auto_name = next(fitting, None)
    if auto_name is None:
        raise ValueError(
            f"The configuration of the {role} {name} does not tell which task it was trained for (recorded: "
            f"{recorded or 'nothing'}): load it with the class of its task, one of {', '.join(_AUTO_CLASSES)}, and "
            "pass the model."
        )
    auto: AutoClass = getattr(transformers, auto_name)
    return auto


def pipeline_tag(model: PreTrainedModel) -> str:
    """A model's task as `pipeline()` names it; text classification for a class that no Auto class supports."""
    try:
        return PIPELINE_TAGS[auto_class(model).__name__]
    except ValueError:
        return "text-classification"


def load_config(
    name: str | os.PathLike[str], role: str = "teacher", init_kwargs: Mapping[str, object] | None = None
) -> PretrainedConfig:
    """The configuration of a model in a folder or on the Hub.

    Args:
        name: the folder or Hub id.
        role: the model's name in the message.
        init_kwargs: as in `saved_class`.

    Raises:
        ValueError: the folder holds no model.
    """
    location = {key: value for key, value in (init_kwargs or {}).items() if key in _LOCATION}
    check_folder(name, role, str(location.get("subfolder", "")))
    source = peft.base_of(name) if peft.is_adapter(name) else str(name)
    return transformers.AutoConfig.from_pretrained(source, **location)


def check_folder(name: str | os.PathLike[str], role: str, subfolder: str = "") -> None:
    """Refuse a folder that does not exist or holds no model; a Hub id passes.

    Raises:
        ValueError: the message names the folder.
    """
    path = Path(name) / subfolder
    if path.is_dir() and not (path / "config.json").is_file() and not peft.is_adapter(path):
        raise ValueError(f"The {role} folder {path} holds no model: there is no config.json in it.")
    if not path.is_dir() and (path.is_absolute() or str(name).startswith(".")):
        raise ValueError(f"The {role} folder {path} does not exist.")


def load_model(
    name: str | os.PathLike[str],
    auto: AutoClass,
    init_kwargs: Mapping[str, object] | None = None,
    role: str = "teacher",
) -> PreTrainedModel:
    """Load a fine-tuned model from a folder or the Hub.

    Of a folder with a LoRA adapter, the base model is loaded and the adapter merged into it.

    Args:
        name: a folder or a Hub id.
        auto: the Auto class to load it with.
        init_kwargs: further arguments of `from_pretrained` (`dtype`, `revision`, `quantization_config`, ...).
        role: the model's name in the messages.

    Raises:
        ValueError: the folder holds no model, or its weights lack the task head.
    """
    kwargs = dict(init_kwargs or {})
    check_folder(name, role, str(kwargs.get("subfolder", "")))
    if peft.is_adapter(name):
        return peft.load_merged(name, auto, kwargs, role)
    try:
        model, info = auto.from_pretrained(str(name), output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise ValueError(f"The weights of the {role} {name} are damaged: {error}") from None
    missing = sorted(key for key in info["missing_keys"] if "position_ids" not in key)
    if missing and auto is transformers.AutoModelForMaskedLM:
        raise ValueError(
            f"The {role} {name} has no trained masked language modelling head (missing: {', '.join(missing[:4])}): "
            "use a checkpoint that was saved with one, such as bert-base-uncased."
        )
    if missing and auto is not transformers.AutoModel:
        raise ValueError(
            f"The {role} {name} has no trained weights for {', '.join(missing[:4])}: it was not fine-tuned for "
            f"{type(model).__name__}. Fine-tune it first, for example with `hf-tinybert finetune`."
        )
    return model


def describe(model: PreTrainedModel) -> str:
    """The Hub id of a model from the Hub, else a fingerprint of its weights; never a local path."""
    config = model.config
    name = getattr(config, "_name_or_path", "") or ""
    if getattr(config, "_commit_hash", None) and _HUB_ID.fullmatch(name) and not os.path.exists(name):
        return name
    return f"sha256:{fingerprint(model)}"


def fingerprint(model: PreTrainedModel) -> str:
    """The first 16 hex digits of `weights_digest`."""
    return weights_digest(model)[:16]


def check_vocabularies(student: PretrainedConfig, teacher: PretrainedConfig) -> None:
    """Check that both models can share token ids.

    Raises:
        ValueError: the sizes of the vocabularies differ.
    """
    if student.vocab_size != teacher.vocab_size:
        raise ValueError(
            f"The teacher has a vocabulary of {teacher.vocab_size} tokens and the student of "
            f"{student.vocab_size}: both read the same input ids, so they need the same tokenizer. With "
            "phases='prediction', data may hold the inputs of both: see teacher_processing_class."
        )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str | os.PathLike[str], role: str) -> None:
    """Check that the tokenizer of a model given by name, if it has one, is the tokenizer in use.

    Args:
        tokenizer: that the data are tokenised with.
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
            "ids, so they need the same vocabulary. Classification and sentence vectors can be distilled across "
            "vocabularies with phases='prediction'."
        )


def max_length_of(config: PretrainedConfig) -> int | None:
    """The longest input in tokens of an encoder of this configuration, or None if it is not limited."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    return Encoder.from_model(model).max_length


def load_tokenizer(name: str | os.PathLike[str], role: str, single_words: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; an adapter without one has its base model's.

    Args:
        name: folder or Hub id of the model.
        role: the model's name in the message.
        single_words: the texts will be lists of words. A tokenizer whose tokens include the space before a word
            (RoBERTa's) then adds it.

    Raises:
        ValueError: the model's folder has none (transformers 5 would return an empty one), or one that cannot be read.
    """
    if not brings_tokenizer(name) and peft.is_adapter(name):
        name = peft.base_of(name)
    if not brings_tokenizer(name):
        raise ValueError(f"The {role} folder {name} has no tokenizer: save it there with `tokenizer.save_pretrained`.")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
    except Exception as error:  # tokenizers raises no narrower one
        if not Path(name).is_dir():
            raise
        raise ValueError(f"The tokenizer in the {role} folder {name} cannot be read: {error}") from None
    if single_words and loses_spaces(tokenizer):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(name), add_prefix_space=True)
    return tokenizer


def loses_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer whose tokens include the space before a word reads single words without it."""
    splitter = tokenizer.backend_tokenizer.pre_tokenizer if tokenizer.is_fast else None
    if splitter is None:
        return False
    state = json.loads(splitter.__getstate__())
    return any(part.get("add_prefix_space") is False for part in state.get("pretokenizers", [state]))


def brings_tokenizer(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a tokenizer; a repository on the Hub is assumed to hold one."""
    folder = Path(name)
    return not folder.is_dir() or any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern))
