"""Real tokenizers of the three kinds on real text, and students with fewer embeddings."""

from __future__ import annotations

import copy
from functools import cache

import factories
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from hf_tinybert import trim_vocabulary
from hf_tinybert.student.vocabulary import _is_byte

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def requests():
    return factories.requests(300)


def byte_level(texts):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1500, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return bpe


def unigram(texts):
    pieces = Tokenizer(models.Unigram())
    pieces.normalizer, pieces.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    pieces.decoder = decoders.Metaspace()
    pieces.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=700, special_tokens=SPECIAL, unk_token="<unk>")
    )
    pieces.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return pieces


@cache
def tokenizer_of(kind):
    """The small teacher's WordPiece, or a BPE or Unigram that was trained on all requests."""
    if kind == "WordPiece":
        return factories.tokenizer()
    texts = factories.requests(780)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    made = byte_level(texts) if kind == "BPE" else unigram(texts)
    return PreTrainedTokenizerFast(tokenizer_object=made, cls_token="<s>", sep_token="</s>", **names)


def model_of(tokenizer, auto=AutoModelForSequenceClassification):
    return tiny_models.model(auto=auto, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_the_corpus_is_read_as_before_and_the_model_says_the_same(kind, auto, tmp_path):
    tokenizer, texts = tokenizer_of(kind), requests()[:120]
    model = model_of(tokenizer, auto)
    small, student = trim_vocabulary(tokenizer, model, texts)
    assert len(small) < 0.9 * len(tokenizer)
    assert len(small) == student.config.vocab_size == student.get_input_embeddings().num_embeddings
    assert model.config.vocab_size == len(tokenizer)
    before, after = (given(texts, padding=True, return_tensors="pt") for given in (tokenizer, small))
    assert torch.equal(before["attention_mask"], after["attention_mask"])
    for old, new in zip(before["input_ids"], after["input_ids"], strict=True):
        assert tokenizer.convert_ids_to_tokens(old) == small.convert_ids_to_tokens(new)
    with torch.no_grad():
        wide, narrow = model(**before).logits, student(**after).logits
    if auto is AutoModelForMaskedLM:
        wide = wide[..., tokenizer.convert_tokens_to_ids(small.convert_ids_to_tokens(range(len(small))))]
    torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-5)
    small.save_pretrained(tmp_path)
    student.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(texts)["input_ids"] == small(texts)["input_ids"]
    again = auto.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**after).logits, narrow)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_other_texts_are_still_read_without_unknown_tokens(kind):
    tokenizer, texts = tokenizer_of(kind), requests()
    small, _ = trim_vocabulary(tokenizer, model_of(tokenizer), texts[:50])
    for text in texts[50:]:
        assert small.unk_token_id not in small(text)["input_ids"]
        assert len(small(text)["input_ids"]) >= len(tokenizer(text)["input_ids"])
        assert small.decode(small(text)["input_ids"], skip_special_tokens=True) == tokenizer.decode(
            tokenizer(text)["input_ids"], skip_special_tokens=True
        )


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 299), min_size=1, max_size=20), st.sampled_from(["WordPiece", "BPE", "Unigram"]))
def test_any_corpus_is_encoded_as_before(rows, kind):
    tokenizer = tokenizer_of(kind)
    texts = [requests()[row] for row in sorted(rows)]
    small, _ = trim_vocabulary(tokenizer, model_of(tokenizer), texts)
    for text in texts:
        old, new = tokenizer(text, text)["input_ids"], small(text, text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(old) == small.convert_ids_to_tokens(new)


def test_what_cannot_be_trimmed():
    tokenizer = factories.tokenizer()
    with pytest.raises(ValueError, match="reads the texts twice"):
        trim_vocabulary(tokenizer, model_of(tokenizer), iter(requests()))
    with pytest.raises(ValueError, match=r"1500 tokens and the model 90 embeddings"):
        trim_vocabulary(tokenizer, tiny_models.model(), requests())
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="supports WordPiece, BPE, Unigram tokenizers, got WordLevel"):
        trim_vocabulary(words, tiny_models.model(), ["a"])


def test_a_model_may_have_more_embeddings_than_the_tokenizer_has_tokens():
    """As vocabularies that are padded to a round number have; special ids keep their meaning."""
    tokenizer = tokenizer_of("BPE")
    model = tiny_models.model(
        vocab_size=len(tokenizer) + 36, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    model.config.decoder_start_token_id = len(tokenizer) + 35
    small, student = trim_vocabulary(tokenizer, model, requests()[:40])
    assert student.config.vocab_size == len(small)
    assert student.config.pad_token_id == small.pad_token_id
    assert student.config.eos_token_id == small.eos_token_id


def test_the_head_of_another_width_keeps_its_rows():
    """Only tensors with a row a token lose rows, not those that happen to be as long."""
    tokenizer = tokenizer_of("WordPiece")
    model = tiny_models.model(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=len(tokenizer))
    _, student = trim_vocabulary(tokenizer, model, requests()[:40])
    before = model.base_model.embeddings.position_embeddings.weight
    assert torch.equal(student.base_model.embeddings.position_embeddings.weight, before)


def test_tokens_that_stand_for_bytes():
    assert _is_byte("<0x0A>")
    assert not any(map(_is_byte, ("<0x0>", "<0x0AB>", "0x0A>>", "<0x0A<", "bytes!")))


def test_the_files_of_a_slow_tokenizer_are_let_go():
    """They would still hold the old vocabulary, and be saved with the new one."""
    tokenizer = copy.deepcopy(tokenizer_of("WordPiece"))
    tokenizer.vocab_file = "vocab.txt"
    tokenizer.init_kwargs["vocab_file"] = "vocab.txt"
    small, _ = trim_vocabulary(tokenizer, model_of(tokenizer), requests()[:40])
    assert small.vocab_file is None
    assert "vocab_file" not in small.init_kwargs
    assert tokenizer.vocab_file == "vocab.txt"


def test_ids_that_name_no_token_stay_where_there_are_as_many_tokens():
    tokenizer, texts = tokenizer_of("WordPiece"), requests()[:40]
    small, _ = trim_vocabulary(tokenizer, model_of(tokenizer), texts)
    dropped = sorted(set(range(len(tokenizer))) - {tokenizer.convert_tokens_to_ids(t) for t in small.get_vocab()})
    model = model_of(tokenizer)
    model.config.bos_token_id, model.config.eos_token_id = dropped[0], dropped[-1]
    assert dropped[0] < len(small) < dropped[-1]
    _, student = trim_vocabulary(tokenizer, model, texts)
    assert (student.config.bos_token_id, student.config.eos_token_id) == (dropped[0], None)
