from __future__ import annotations

import factories
import pytest
import tiny_models
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast

from hf_tinybert.models.loading import fingerprint
from hf_tinybert.student.encoder_init import load_encoder

WORDS = [f"word{number}" for number in range(20)]
ROLES = ("cls", "sep", "pad", "mask", "unk")
BERTS = dict(zip(ROLES, ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"), strict=True))
ROBERTAS = dict(zip(ROLES, ("<s>", "</s>", "<pad>", "<mask>", "<unk>"), strict=True))


def tokenizer_of(tokens, special):
    """Whole words; of a token's place in the list its id."""
    words = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, special["unk"]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, **{f"{role}_token": token for role, token in special.items()}
    )


def saved(folder, tokenizer, family="bert", **overrides):
    model = tiny_models.model(family, AutoModel, vocab_size=len(tokenizer), **overrides)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def rows(model):
    return model.get_input_embeddings().weight.detach()


def test_with_the_same_vocabulary_the_encoder_is_as_it_was_saved(encoder):
    teacher, expected = factories.load(factories.teacher_folder()), AutoModel.from_pretrained(encoder)
    loaded, origin = load_encoder(encoder, teacher, factories.tokenizer())
    assert type(loaded) is type(expected)
    assert origin == f"sha256:{fingerprint(expected)}"
    assert fingerprint(loaded) == fingerprint(expected)
    assert not loaded.training


@pytest.mark.also_transformers("4.57")
def test_tokens_are_matched_by_name_and_special_ones_by_role(tmp_path):
    theirs = tokenizer_of([*BERTS.values(), *WORDS, "unheard", "of"], BERTS)
    own = tokenizer_of([*reversed(WORDS), *ROBERTAS.values(), "other"], ROBERTAS)
    first = saved(tmp_path, own)
    teacher = tiny_models.model(vocab_size=len(theirs) + 3)
    loaded, origin = load_encoder(tmp_path, teacher, theirs)
    assert origin == f"sha256:{fingerprint(first)}"
    assert loaded.config.vocab_size == loaded.get_input_embeddings().num_embeddings == len(theirs) + 3
    old, new = rows(first), rows(loaded)
    for word in WORDS:
        assert torch.equal(new[theirs.convert_tokens_to_ids(word)], old[own.convert_tokens_to_ids(word)])
    for role in ROLES:
        pair = [getattr(tokenizer, f"{role}_token_id") for tokenizer in (theirs, own)]
        assert torch.equal(new[pair[0]], old[pair[1]])
    unknown = [*theirs.convert_tokens_to_ids(["unheard", "of"]), *range(len(theirs), len(theirs) + 3)]
    torch.testing.assert_close(new[unknown], old.mean(0).expand(len(unknown), -1))
    # Everything else is untouched: the encoder says of the teacher's ids what it says of its own.
    text = "word3 word19 word0"
    with torch.no_grad():
        answers = [
            model(torch.tensor([[t.cls_token_id, *t(text)["input_ids"], t.sep_token_id]])).last_hidden_state
            for model, t in ((first.eval(), own), (loaded, theirs))
        ]
    torch.testing.assert_close(*answers)


def test_begin_and_end_of_a_text_stand_for_the_tokens_that_bert_has_there(tmp_path):
    theirs = tokenizer_of([*BERTS.values(), *WORDS], BERTS)
    own = tokenizer_of([*WORDS, "<s>", "</s>", "<unk>"], {"bos": "<s>", "eos": "</s>", "unk": "<unk>"})
    first = saved(tmp_path, own)
    loaded, _ = load_encoder(tmp_path, tiny_models.model(vocab_size=len(theirs)), theirs)
    for role, other in (("cls", own.bos_token_id), ("sep", own.eos_token_id)):
        assert torch.equal(rows(loaded)[getattr(theirs, f"{role}_token_id")], rows(first)[other])
    torch.testing.assert_close(rows(loaded)[theirs.mask_token_id], rows(first).mean(0))


def test_a_role_goes_before_a_name(tmp_path):
    """A token of the same name may be another thing."""
    theirs = tokenizer_of([*BERTS.values(), *WORDS], BERTS)
    own = tokenizer_of(["[SEP]", *ROBERTAS.values(), *WORDS], ROBERTAS)
    first = saved(tmp_path, own)
    loaded, _ = load_encoder(tmp_path, tiny_models.model(vocab_size=len(theirs)), theirs)
    assert torch.equal(rows(loaded)[theirs.sep_token_id], rows(first)[own.sep_token_id])
    assert not torch.equal(rows(loaded)[theirs.sep_token_id], rows(first)[0])


def test_tokens_beyond_the_teachers_embeddings_are_left_out(tmp_path):
    theirs = tokenizer_of([*BERTS.values(), *WORDS], BERTS)
    first = saved(tmp_path, tokenizer_of([*WORDS, *BERTS.values()], BERTS))
    loaded, _ = load_encoder(tmp_path, tiny_models.model(vocab_size=20), theirs)
    assert rows(loaded).shape == (20, 24)
    assert torch.equal(rows(loaded)[5:], rows(first)[:15])


def test_an_encoder_that_knows_too_few_tokens_is_refused(tmp_path):
    theirs = tokenizer_of([*BERTS.values(), *WORDS], BERTS)
    saved(tmp_path, tokenizer_of([*BERTS.values(), *WORDS[:7], *map(str.upper, WORDS)], BERTS))
    teacher = tiny_models.model(vocab_size=len(theirs))
    with pytest.raises(ValueError, match="knows 48% of the teacher's tokens"):
        load_encoder(tmp_path, teacher, theirs)
    saved(tmp_path, tokenizer_of([*BERTS.values(), *WORDS[:8], *map(str.upper, WORDS)], BERTS))
    load_encoder(tmp_path, teacher, theirs)


def test_the_teachers_tokenizer_is_read_from_its_folder_or_asked_for(encoder, teacher, tmp_path):
    loaded, _ = load_encoder(encoder, factories.load(factories.teacher_folder()), None)
    assert loaded.config.vocab_size == 1500
    unnamed = tiny_models.model(vocab_size=1500)
    with pytest.raises(ValueError, match="pass the teacher's tokenizer"):
        load_encoder(encoder, unnamed, None)
    unnamed.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="pass the teacher's tokenizer"):
        load_encoder(encoder, type(unnamed).from_pretrained(tmp_path), None)


def test_a_folder_without_a_model_or_without_a_tokenizer(tmp_path):
    teacher = tiny_models.model()
    with pytest.raises(ValueError, match=r"The start folder .* holds no model"):
        load_encoder(tmp_path, teacher, factories.tokenizer())
    with pytest.raises(ValueError, match=r"The start folder .* does not exist"):
        load_encoder(tmp_path / "none", teacher, factories.tokenizer())
    tiny_models.model(auto=AutoModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"The start folder .* has no tokenizer"):
        load_encoder(tmp_path, teacher, factories.tokenizer())


def test_a_checkpoint_with_a_head_in_half_precision_gives_its_encoder_in_float32(tmp_path):
    tiny_models.model(vocab_size=1500).half().save_pretrained(tmp_path)
    factories.tokenizer().save_pretrained(tmp_path)
    loaded, _ = load_encoder(tmp_path, tiny_models.model(vocab_size=1500), factories.tokenizer())
    assert type(loaded).__name__ == "BertModel"
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
