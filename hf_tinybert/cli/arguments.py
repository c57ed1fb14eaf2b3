"""What the commands share: reading flags and configuration files, and picking a model's Auto class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, TrainingArguments


def parse(
    verb: str, description: str, classes: Sequence[Any], argv: Sequence[str], **defaults: Any
) -> tuple[Any, ...]:
    """Fill dataclasses from the command line, over a `--config` file, over the command's own defaults.

    Args:
        verb: the command, for the usage line.
        description: one sentence for `--help`.
        classes: dataclasses whose fields are the flags.
        argv: the flags.
        **defaults: values that differ from the dataclasses' own.

    Raises:
        ValueError: the configuration file cannot be read or has an unknown key.
    """
    parser = HfArgumentParser(classes, prog=f"hf-tinybert {verb}", description=description)
    parser.add_argument("--config", help="YAML or JSON file with any of these arguments; flags win over it.")
    known = {action.dest: action for action in parser._actions}
    config = _config_file(argv)
    unknown = sorted(config.keys() - known.keys())
    if unknown:
        raise ValueError(f"The configuration file has the unknown argument(s) {', '.join(unknown)}.")
    for name, value in (defaults | config).items():
        if name in known:
            known[name].required = False
            parser.set_defaults(**{name: value})
    # `strict` lets argparse itself complain about flags that do not exist.
    filled = parser.parse_args_into_dataclasses(args=list(argv), look_for_args_file=False)
    return filled[: len(classes)]


def _config_file(argv: Sequence[str]) -> dict[str, Any]:
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
    try:
        if path.suffix.lower() == ".json":
            config = json.loads(text)
        else:
            import yaml

            config = yaml.safe_load(text)
    except Exception as error:
        raise ValueError(f"The configuration file {path} is neither YAML nor JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"The configuration file {path} must hold 'argument: value' lines.")
    return {str(key).replace("-", "_"): value for key, value in config.items()}


def resume(args: TrainingArguments) -> str | bool | None:
    """`--resume-from-checkpoint`: a folder, or `last` (or `true`) for the newest one that is whole."""
    given = args.resume_from_checkpoint
    return True if str(given).lower() in ("last", "true") else given
