"""What transformers' Auto classes know."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


def model_classes(config: PretrainedConfig, auto: Any) -> tuple[Any, ...]:
    """The model classes that an Auto class makes of a configuration; none if it does not know it."""
    known = auto._model_mapping.get(type(config), ())
    return known if isinstance(known, tuple) else (known,)


def saved_from(config: PretrainedConfig, auto: Any) -> bool:
    """Whether a checkpoint was saved from a model of an Auto class, its head included."""
    names = {cls.__name__ for cls in model_classes(config, auto)}
    return not names.isdisjoint(config.architectures or ())
