"""Packing: every token of every document, in order, in sequences of full length."""

from __future__ import annotations

import factories
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert.data.packing import Packer

WORDS = ["the", "film", "is", "unflinchingly", "good", "!", "\U0001f60d", "这部", "电影"]
lines = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=12)


def tokens(text):
    return factories.tokenizer()(text, add_special_tokens=False)["input_ids"]


def framed(ids):
    return [factories.tokenizer().cls_token_id, *ids, factories.tokenizer().sep_token_id]


@settings(deadline=None, max_examples=60)
@given(lines, st.integers(3, 20), st.sampled_from(["row", "blank"]))
def test_documents_are_cut_into_full_sequences(texts, max_length, documents):
    packed = Packer(factories.tokenizer(), max_length, documents=documents)({"text": texts})["input_ids"]
    if documents == "row":
        whole = [tokens(text) for text in texts]
    else:
        whole = [[]]
        for text in texts:
            whole = [*whole, []] if not text else [*whole[:-1], whole[-1] + tokens(text)]
    expected = []
    for document in whole:
        for start in range(0, len(document), max_length - 2):
            expected.append(framed(document[start : start + max_length - 2]))
    assert packed == expected
    assert all(len(sequence) <= max_length for sequence in packed)


def test_missing_texts_are_empty():
    assert Packer(factories.tokenizer(), 8)({"text": [None, "", "film"]})["input_ids"] == [framed(tokens("film"))]
    assert Packer(factories.tokenizer(), 8)({"text": []})["input_ids"] == []


def test_no_room_is_refused():
    with pytest.raises(ValueError, match="more than a sequence's 2 special tokens, got 2"):
        Packer(factories.tokenizer(), 2)


def test_the_key_knows_what_matters():
    tokenizer = factories.tokenizer()
    keys = {
        Packer(tokenizer, 8).key(),
        Packer(tokenizer, 9).key(),
        Packer(tokenizer, 8, "other").key(),
        Packer(tokenizer, 8, documents="blank").key(),
    }
    assert len(keys) == 4
    assert Packer(tokenizer, 8).key() in keys
