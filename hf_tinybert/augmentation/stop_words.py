"""Stop words, which augmentation does not replace."""

from __future__ import annotations

from collections.abc import Collection

from hf_tinybert.utils import extras

_lists = extras.required("stop_words", "Data augmentation")


def stop_words(given: str | Collection[str] | None) -> frozenset[str]:
    """The stop words of a language, of a collection, or none, in lower case.

    Args:
        given: the name or code of a language (`"english"`, `"de"`), a collection of words, or None.

    Raises:
        ValueError: the language has no list; the message names those that have one.
    """
    if isinstance(given, str):
        try:
            given = _lists.get_stop_words(given)
        except _lists.StopWordError:
            languages = ", ".join(sorted(_lists.AVAILABLE_LANGUAGES))
            raise ValueError(
                f"There are no stop words for {given!r}; there are for {languages}. Give words of your own, or none."
            ) from None
    return frozenset(word.casefold() for word in given or ())
