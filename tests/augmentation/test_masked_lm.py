"""Candidates of a masked language model: many places at once say what one call for each word says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from hf_tinybert.augmentation import masked_lm
from hf_tinybert.augmentation.masked_lm import MaskedCandidates, Place
from hf_tinybert.augmentation.word_vectors import whole_words
from hf_tinybert.augmentation.words import words_of

TEXTS = [
    "It's a charming and often affecting journey.",
    "unflinchingly bleak and desperate",
    "The film allows us to hope.",
    "a",
]


@pytest.fixture(scope="module")
def folder(masked_lm_folder):
    return masked_lm_folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def mlm_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def places(texts=TEXTS):
    return [Place(text, word) for text in texts for word in words_of(text)]


@cache
def texts_of(tokenizer):
    return {number: text for text, number in whole_words(tokenizer).items()}


def one_call_for_each_word(model, tokenizer, place, k, second_segment):
    """The same, the slow way: every logit of every position, one word at a time."""
    encoded = tokenizer(
        place.text, place.text if second_segment else None, return_tensors="pt", return_offsets_mapping=True
    )
    spans = encoded.pop("offset_mapping")[0].tolist()
    at = [place.word.start, place.word.end]
    position = next((i for i, span in enumerate(spans) if span == at), None)
    if position is None:
        return None
    encoded["input_ids"][0, position] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = model(**encoded).logits[0, position]
    whole = texts_of(tokenizer)
    ranked = [number for number in logits.argsort(descending=True).tolist() if number in whole][:k]
    return tuple(whole[number] for number in sorted(ranked))


@pytest.fixture(scope="module")
def finder(model, mlm_tokenizer):
    """Six candidates of a place; that it looks for whole words takes longer than all the rest."""
    return MaskedCandidates(model, mlm_tokenizer, 6)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("second_segment", [True, False])
def test_a_batch_says_what_one_call_for_each_word_says(second_segment, finder, monkeypatch):
    model, tokenizer = finder.model, finder.tokenizer
    expected = {place: one_call_for_each_word(model, tokenizer, place, 6, second_segment) for place in places()}
    monkeypatch.setattr(finder, "second_segment", second_segment)
    for batch_size in (1, 5, 64):
        monkeypatch.setattr(finder, "batch_size", batch_size)
        found = finder.find(places() + places())
        assert found.candidates == {place: words for place, words in expected.items() if words is not None}
        assert found.several == {place for place, words in expected.items() if words is None}
        assert {place.word.text for place in found.several} == {"It's", "unflinchingly"}
        assert not found.unseen


def test_near_ties_are_decided_alone(finder, monkeypatch):
    """With every place taken for a tie, each is computed again in a pass of its own, and says the same."""
    usual = finder.find(places())
    passes = []
    handle = finder.model.register_forward_pre_hook(lambda *a, **k: passes.append(1))
    monkeypatch.setattr(masked_lm, "_NEAR", 1e9)
    again = finder.find(places())
    handle.remove()
    assert again.candidates == usual.candidates
    assert len(passes) == 1 + len(usual.candidates)


def test_words_beyond_the_models_length(finder):
    text = "and the of to good " * 80
    found = finder.find([*places([text])[:3], *places([text])[-3:]])
    assert found.candidates
    assert found.unseen
    assert max(p.word.end for p in found.candidates) < min(p.word.start for p in found.unseen)


def test_nothing_is_asked_of_nothing(finder):
    found = finder.find([])
    assert (found.candidates, found.several, found.unseen) == ({}, set(), set())


def test_the_model_is_left_as_it_was(finder):
    before = len(finder.model.get_output_embeddings()._forward_pre_hooks)
    finder.find(places())
    assert len(finder.model.get_output_embeddings()._forward_pre_hooks) == before
    assert not finder.model.training


def test_what_cannot_work_is_refused(encoder, tokenizer):
    model = AutoModel.from_pretrained(encoder)
    with pytest.raises(ValueError, match="has no masked language modelling head: load it by AutoModelForMaskedLM"):
        MaskedCandidates(model, tokenizer)
    without_mask = AutoTokenizer.from_pretrained(encoder)
    without_mask.mask_token = None
    with pytest.raises(ValueError, match="must be a fast one with a mask token"):
        MaskedCandidates(model, without_mask)
