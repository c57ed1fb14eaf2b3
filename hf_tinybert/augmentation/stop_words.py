"""Words that augmentation leaves alone."""

from __future__ import annotations

from collections.abc import Collection

from stop_words import AVAILABLE_LANGUAGES, StopWordError, get_stop_words


def stop_words(given: str | Collection[str] | None) -> frozenset[str]:
    """The stop words of a language, of a collection, or none, in lower case.

    Args:
        given: the name or code of a language (`"english"`, `"de"`), words of one's own, or None.

    Raises:
        ValueError: the language has no list; the message names those that have one.
    """
    if isinstance(given, str):
        try:
            given = get_stop_words(given)
        except StopWordError:
            raise ValueError(
                f"There are no stop words for {given!r}; there are for {', '.join(sorted(AVAILABLE_LANGUAGES))}. Give "
                "words of your own, or none."
            ) from None
    return frozenset(word.casefold() for word in given or ())
