import pytest

from hf_tinybert.augmentation.stop_words import stop_words


def test_languages_collections_and_none():
    assert {"the", "and", "of"} <= stop_words("english")
    assert stop_words("en") == stop_words("english")
    assert {"der", "und"} <= stop_words("german")
    assert stop_words(["The", "STRASSE"]) == {"the", "strasse"}
    assert stop_words(None) == frozenset()


def test_an_unknown_language_is_refused():
    with pytest.raises(
        ValueError, match=r"no stop words for 'klingon'; there are for .*english.* Give words of your own"
    ):
        stop_words("klingon")
