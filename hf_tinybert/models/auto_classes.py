"""Which model classes transformers' Auto classes make."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from hf_tinybert.utils.types import AutoClass


def model_classes(config: PretrainedConfig, auto: AutoClass) -> tuple[type[PreTrainedModel], ...]:
    """The model classes that an Auto class makes of a configuration; none if it does not support it."""
    classes = auto._model_mapping.get(type(config), ())
    return classes if isinstance(classes, tuple) else (classes,)


def saved_from(config: PretrainedConfig, auto: AutoClass) -> bool:
    """Whether a checkpoint was saved from a model of an Auto class, its head included."""
    names = {cls.__name__ for cls in model_classes(config, auto)}
    return not names.isdisjoint(config.architectures or ())
