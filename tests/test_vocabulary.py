"""Real tokenizers of the three kinds on real text, and students with fewer embeddings."""

from __future__ import annotations

import pytest
import tiny_models
import torch
import workbench
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

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def requests():
    return workbench.requests(300)


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


def tokenizer_of(kind):
    """MiniLM's WordPiece, or a BPE or Unigram that was trained on all requests."""
    if kind == "WordPiece":
        return workbench.tokenizer()
    texts = workbench.requests(780)
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    made = byte_level(texts) if kind == "BPE" else unigram(texts)
    return PreTrainedTokenizerFast(tokenizer_object=made, cls_token="<s>", sep_token="</s>", **names)


def model_of(tokenizer, auto=AutoModelForSequenceClassification):
    return tiny_models.model(auto=auto, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)


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
    for name in ("attention_mask",):
        assert torch.equal(before[name], after[name])
    tokens = [
        given.convert_ids_to_tokens(ids)
        for given, ids in ((tokenizer, before), (small, after))
        for ids in [ids["input_ids"][0]]
    ]
    assert tokens[0] == tokens[1]
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


@pytest.mark.one_world("5")
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
    tokenizer = workbench.tokenizer()
    with pytest.raises(ValueError, match="reads the texts twice"):
        trim_vocabulary(tokenizer, model_of(tokenizer), iter(requests()))
    with pytest.raises(ValueError, match="30522 tokens and the model 90 embeddings"):
        trim_vocabulary(tokenizer, tiny_models.model(), requests())
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="knows WordPiece, BPE, Unigram tokenizers, got WordLevel"):
        trim_vocabulary(words, tiny_models.model(), ["a"])
