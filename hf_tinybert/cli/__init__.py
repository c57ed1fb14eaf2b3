"""The `hf-tinybert` command: one module for each verb, no logic of its own."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence

VERBS = {
    "finetune": "Fine-tune a model on a task: the teacher, or a student without a teacher for comparison.",
    "distill": "Distil a fine-tuned teacher into a TinyBERT student.",
    "evaluate": "Measure a fine-tuned model on a file or data set.",
    "inspect": "Say what is understood of data files, and what may not be meant so.",
    "augment": "Add variants of texts, with some words replaced by others that fit.",
    "benchmark": "Measure the size and speed of models, side by side.",
    "export": "Write ONNX files of a student, checked against PyTorch.",
    "report": "One page from one or more runs: losses, layers, attention, sizes and times, mistakes.",
    "push": "Upload a student to the Hub.",
    "demo": "The whole job on the data that comes with the package: no Hub, a few minutes on two cores.",
}


def usage() -> str:
    """The text of `hf-tinybert --help`."""
    width = max(map(len, VERBS))
    lines = ["usage: hf-tinybert VERB [arguments]", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join([*lines, "", "hf-tinybert VERB --help lists the arguments of a verb."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; a mistake in the input is shown without a traceback and ends with exit status 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        from hf_tinybert import __version__

        print(__version__)
        return 0
    if verb not in VERBS:
        print(f"hf-tinybert: unknown verb {verb!r}\n\n{usage()}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        status: int | None = importlib.import_module(f"hf_tinybert.cli.{verb}").run(rest)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        print(f"hf-tinybert {verb}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hf-tinybert {verb}: interrupted", file=sys.stderr)
        return 130
    return status or 0
