"""The usual names of columns, where the user names none."""

from __future__ import annotations

from collections.abc import Collection, Iterable

TEXT = ("text", "sentence", "sentence1", "question1", "premise", "question", "tokens")
#: Columns of whole texts, not of sentences that are split into words.
TEXT_COLUMNS = tuple(name for name in TEXT if name != "tokens")
#: The names of splits in a folder or file that has several.
EVAL_SPLITS = ("validation", "validation_matched", "val", "eval", "dev")
SPLITS = ("train", *EVAL_SPLITS, "test")
PAIR = {"sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
LABEL = ("label", "labels", "intent", "score")


def find(names: Iterable[str], wanted: str) -> str | None:
    """A column by its name, or by its name in another case or with spaces around it; None where there is none.

    Args:
        names: of the columns.
        wanted: the name that is looked for.
    """
    names = list(names)
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def first(names: Iterable[str], usual: Iterable[str]) -> str | None:
    """The first of the usual names that is there (see `find`)."""
    names = list(names)
    return next((found for name in usual if (found := find(names, name)) is not None), None)


def usual_texts(names: Collection[str]) -> list[str]:
    """The column of the text and, where there is one, that of the second text; none where no name is usual."""
    text = first(names, TEXT)
    if text is None:
        return []
    pair = pair_of(names, text)
    return [text, pair] if pair is not None else [text]


def pair_of(names: Iterable[str], text: str) -> str | None:
    """The column of the second text that belongs to a usual column of the first; None where there is none."""
    wanted = PAIR.get(text.strip().casefold())
    return None if wanted is None else find(names, wanted)


def count_usual(names: Iterable[str]) -> int:
    """How many of some names are usual ones of texts or labels."""
    usual = {*TEXT, *PAIR.values(), *LABEL}
    return sum(name.strip().casefold() in usual for name in names)
