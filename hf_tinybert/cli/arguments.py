"""Reading flags and configuration files, for every verb."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from transformers import HfArgumentParser

if TYPE_CHECKING:  # `inspect` needs no torch
    from transformers import TrainingArguments

#: What a configuration file holds for an argument.
_Value: TypeAlias = "str | int | float | bool | list[_Value] | None"


def training_defaults() -> dict[str, object]:
    """Where the training commands differ from `TrainingArguments`' own defaults."""
    from hf_tinybert.utils import compat

    sizes = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64}
    return {"report_to": "none", **sizes, **compat.group_by_length_argument()}


def parse(verb: str, description: str, classes: Sequence[type], argv: Sequence[str], **defaults: object) -> tuple:
    """Fill dataclasses from the command line, over a `--config` file, over the command's own defaults.

    Args:
        verb: the command, for the usage line.
        description: one sentence for `--help`.
        classes: dataclasses whose fields are the flags.
        argv: the flags.
        **defaults: values that differ from the dataclasses' own.

    Raises:
        ValueError: the configuration file cannot be read or has an unknown key, a flag is unknown, or the
            output folder is a file.
        SystemExit: a value has the wrong type (status 2), or help was asked for.
    """
    parser = HfArgumentParser(classes, prog=f"hf-tinybert {verb}", description=description, allow_abbrev=False)
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    if "class_names" in actions:
        _call_label_names(parser, actions["class_names"], actions.get("label_names"))
    parser.add_argument("--config", help="YAML or JSON file with any of these arguments; flags win over it.")
    config = _config_file(argv)
    named = config.keys() | {word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    if "save_steps" in named:  # as in transformers, that is to save every so many steps
        defaults.pop("save_strategy", None)
    parser.set_defaults(**{name: value for name, value in defaults.items() if name in actions})
    unknown = sorted(config.keys() - actions.keys())
    if unknown:
        raise ValueError(f"The configuration file has the unknown argument(s) {', '.join(unknown)}.")
    from_file: list[str] = []
    for name, value in config.items():
        if isinstance(value, list) and actions[name].nargs not in ("+", "*"):
            raise ValueError(f"The configuration file gives a list for {name!r}, which takes one value.")
        from_file += [f"--{name}", *_as_text(name, value)]
    filled = parser.parse_args_into_dataclasses(args=[*from_file, *argv], look_for_args_file=False)
    for arguments in filled:
        folder = getattr(arguments, "output_dir", None)
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise ValueError(f"--output-dir {folder} is a file: name a folder.")
    return filled[: len(classes)]


def _call_label_names(
    parser: HfArgumentParser, of_classes: argparse.Action, of_columns: argparse.Action | None
) -> None:
    """Give `class_names` the flag `--label-names`, also where `TrainingArguments.label_names`, of columns, has it."""
    flags = ["--label_names", "--label-names"]
    for flag in [*of_classes.option_strings, *flags]:
        parser._option_string_actions.pop(flag, None)
    of_classes.option_strings = flags
    parser._option_string_actions |= dict.fromkeys(flags, of_classes)
    if of_columns is not None:
        of_columns.help = argparse.SUPPRESS


def named_first(argv: Sequence[str], flag: str) -> Sequence[str]:
    """Leading words without a flag, with the flag that they belong to."""
    return [flag, *argv] if argv and not argv[0].startswith("-") else argv


def resume(args: TrainingArguments) -> str | bool | None:
    """`--resume-from-checkpoint`: a folder, or `last` (or `true`) for the newest one that is whole."""
    given = args.resume_from_checkpoint
    return True if str(given).lower() in ("last", "true") else given


def _as_text(name: str, value: _Value) -> list[str]:
    """A value of a configuration file as words of a command line."""
    if value is None or value == "":
        raise ValueError(f"The configuration file gives no value for {name!r}.")
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _as_text(name, item)]
    return [json.dumps(value)]


def _config_file(argv: Sequence[str]) -> dict[str, _Value]:
    path: Path | None = None
    for index, flag in enumerate(argv):
        if flag == "--config" and index + 1 < len(argv):
            path = Path(argv[index + 1])
        elif flag.startswith("--config="):
            path = Path(flag.partition("=")[2])
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"The configuration file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"The configuration file {path} is no text.") from None
    try:
        if path.suffix.lower() == ".json":
            config = json.loads(text)
        else:
            import yaml

            # Every scalar stays the text that it is, as on the command line: `no` is no boolean, `1:6` no number.
            config = yaml.load(text, Loader=yaml.BaseLoader)
    except Exception as error:
        raise ValueError(f"The configuration file {path} is neither YAML nor JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"The configuration file {path} must hold 'argument: value' lines.")
    return {str(key).replace("-", "_"): value for key, value in config.items()}
