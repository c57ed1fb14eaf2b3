"""The usual names of columns, where the user names none."""

from __future__ import annotations

from collections.abc import Collection

TEXT = ("text", "sentence", "sentence1", "question1", "premise", "question", "tokens")
#: Columns of whole texts, not of sentences that are split into words.
TEXT_COLUMNS = tuple(name for name in TEXT if name != "tokens")
PAIR = {"sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
LABEL = ("label", "labels", "intent", "score")


def usual_texts(names: Collection[str]) -> list[str]:
    """The column of the text and, where there is one, that of the second text; none where no name is usual."""
    text = next((name for name in TEXT if name in names), None)
    if text is None:
        return []
    pair = PAIR.get(text)
    return [text, pair] if pair is not None and pair in names else [text]
