"""Candidates of a masked language model: many places at once say what one call for each word says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from hf_tinybert.augmentation.masked_lm import MaskedCandidates, Place
from hf_tinybert.augmentation.word_vectors import whole_words
from hf_tinybert.augmentation.words import words_of

pytestmark = pytest.mark.one_world("5")

TEXTS = [
    "It's a charming and often affecting journey.",
    "unflinchingly bleak and desperate",
    "The film allows us to hope that Nolan is poised to embark on a major career.",
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


@pytest.mark.parametrize("second_segment", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_batch_says_what_one_call_for_each_word_says(second_segment, batch_size, model, mlm_tokenizer):
    finder = MaskedCandidates(model, mlm_tokenizer, 6, second_segment, batch_size)
    found = finder.find(places() + places())
    for place in places():
        expected = one_call_for_each_word(model, mlm_tokenizer, place, 6, second_segment)
        assert found.candidates.get(place) == expected
        assert (place in found.several) == (expected is None)
    assert {place.word.text for place in found.several} == {"It's", "unflinchingly", "poised", "embark"} & {
        place.word.text for place in found.several
    }
    assert not found.unseen


def test_near_ties_are_decided_alone(model, mlm_tokenizer, monkeypatch):
    """With every place taken for a tie, each is computed again in a pass of its own, and says the same."""
    from hf_tinybert.augmentation import masked_lm

    usual = MaskedCandidates(model, mlm_tokenizer, 6).find(places())
    passes = []
    model.register_forward_pre_hook(lambda *a, **k: passes.append(1))
    monkeypatch.setattr(masked_lm, "_NEAR", 1e9)
    again = MaskedCandidates(model, mlm_tokenizer, 6).find(places())
    assert again.candidates == usual.candidates
    assert len(passes) == 1 + len(usual.candidates)
    model._forward_pre_hooks.clear()


def test_words_beyond_the_models_length(model, mlm_tokenizer):
    text = "and the of to good " * 80
    finder = MaskedCandidates(model, mlm_tokenizer, 3)
    found = finder.find([*places([text])[:3], *places([text])[-3:]])
    assert found.candidates
    assert found.unseen
    assert max(p.word.end for p in found.candidates) < min(p.word.start for p in found.unseen)


def test_nothing_is_asked_of_nothing(model, mlm_tokenizer):
    found = MaskedCandidates(model, mlm_tokenizer, 3).find([])
    assert (found.candidates, found.several, found.unseen) == ({}, set(), set())


def test_the_model_is_left_as_it_was(model, mlm_tokenizer):
    before = len(model.get_output_embeddings()._forward_pre_hooks)
    MaskedCandidates(model, mlm_tokenizer, 3).find(places())
    assert len(model.get_output_embeddings()._forward_pre_hooks) == before
    assert not model.training


def test_what_cannot_work_is_refused(body, tokenizer, model):
    with pytest.raises(ValueError, match="has no masked language modelling head"):
        MaskedCandidates(AutoModel.from_pretrained(body), tokenizer)
