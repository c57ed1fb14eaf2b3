from __future__ import annotations

import pytest
import tiny_models
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    ErnieConfig,
    EsmConfig,
    GPT2Config,
)

from hf_tinybert.models.architectures import ArchitectureSpec, Encoder, register_architecture
from hf_tinybert.models.architectures.registry import ARCHITECTURES
from hf_tinybert.models.features import FeatureCapture


@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_finds_layers_heads_and_width(family):
    model = tiny_models.model(family)
    encoder = Encoder.from_model(model)
    assert (encoder.num_layers, encoder.num_heads, encoder.hidden_size) == (3, 4, 24)
    assert encoder.known_scores
    for layer, attention in zip(encoder.layers, encoder.attention, strict=True):
        inside = list(layer.modules())
        for part in (attention.module, attention.queries, attention.keys, attention.values):
            assert any(module is part for module in inside)
        assert len({id(attention.queries), id(attention.keys), id(attention.values)}) in (1, 3)


def test_alberts_layers_are_named_as_often_as_they_are_called():
    model = tiny_models.model("albert", num_hidden_layers=5, num_hidden_groups=2)
    groups = [group.albert_layers[0] for group in model.albert.encoder.albert_layer_groups]
    assert Encoder.from_model(model).layers == (groups[0], groups[0], groups[0], groups[1], groups[1])
    with pytest.raises(ValueError, match="inner_group_num=2"):
        Encoder.from_model(tiny_models.model("albert", inner_group_num=2))


def test_a_window_is_as_wide_as_the_models_own():
    encoder = Encoder.from_model(tiny_models.model("modernbert"))
    assert [attention.window for attention in encoder.attention] == [None, 2, None]
    assert {attention.window for attention in Encoder.from_model(tiny_models.model()).attention} == {None}


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM])
def test_with_any_head_or_none(auto):
    model = tiny_models.model(auto=auto)
    assert Encoder.from_model(model).layers == tuple(model.base_model.encoder.layer)


@pytest.mark.parametrize(("family", "usable"), [("bert", 80), ("roberta", 78), ("electra", 80), ("distilbert", 80)])
def test_the_longest_input_is_the_longest_that_runs(family, usable):
    model = tiny_models.model(family)
    assert Encoder.from_model(model).max_length == usable
    assert Encoder.from_model(model).at_most(usable + 1) == usable
    assert Encoder.from_model(model).at_most(7) == 7
    model(torch.full((1, usable), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, usable + 1), 7))


def test_an_input_without_a_limit_may_have_any_length():
    encoder = Encoder.from_model(tiny_models.model("modernbert"))
    assert encoder.max_length is None
    assert encoder.at_most(10_000) == 10_000


def test_of_robertas_514_positions_512_can_be_used():
    assert Encoder.from_model(tiny_models.model("roberta", max_position_embeddings=514)).max_length == 512


def test_of_a_real_encoder(encoder):
    found = Encoder.from_model(BertModel.from_pretrained(encoder))
    assert (found.num_layers, found.num_heads, found.hidden_size, found.max_length) == (4, 4, 96, 512)


def test_unknown_terms_in_the_scores_are_noticed():
    config = tiny_models.config(config_class=EsmConfig, position_embedding_type="rotary", pad_token_id=1)
    assert not Encoder.from_model(AutoModel.from_config(config)).known_scores
    config = tiny_models.config(config_class=BertConfig, position_embedding_type="relative_key")
    if not hasattr(AutoModel.from_config(config).encoder.layer[0].attention.self, "distance_embedding"):
        pytest.skip("this transformers has no relative positions for BERT")
    assert not Encoder.from_model(AutoModel.from_config(config)).known_scores


def test_an_unknown_type_with_berts_names_works_and_says_so(caplog):
    config = tiny_models.config(config_class=ErnieConfig)
    encoder = Encoder.from_model(AutoModel.from_config(config))
    assert (encoder.num_layers, encoder.known_scores) == (3, True)
    assert "model_type 'ernie' is not registered" in caplog.text


def test_an_unknown_type_without_them_is_refused_with_what_it_lacks():
    config = GPT2Config(vocab_size=90, n_embd=24, n_layer=2, n_head=4)
    with pytest.raises(
        ValueError, match=r"'gpt2'.*lacks encoder\.layer and transformer\.layer.*register_architecture\('gpt2'"
    ):
        Encoder.from_model(AutoModel.from_config(config))


def test_a_registered_architecture_is_used(monkeypatch):
    monkeypatch.setattr("hf_tinybert.models.architectures.registry.ARCHITECTURES", dict(ARCHITECTURES))
    config = GPT2Config(vocab_size=90, n_embd=24, n_layer=2, n_head=4)
    model = AutoModel.from_config(config).eval()
    register_architecture("gpt2", ArchitectureSpec("h", "attn", "c_query", "c_attn", "c_attn"))
    with pytest.raises(ValueError, match=r"lacks h\.0\.attn\.c_query\."):
        Encoder.from_model(model)

    def split(module, arguments, given):
        return dict(zip(("queries", "keys", "values"), given["queries"].chunk(3, dim=-1), strict=True))

    register_architecture("gpt2", ArchitectureSpec("h", "attn", *("c_attn",) * 3, after_last="ln_f", read=split))
    capture = FeatureCapture(Encoder.from_model(model), [0, 1, 2], [1, 2])
    ids = torch.randint(90, (2, 7))
    with torch.no_grad(), capture.recording() as features:
        model(ids)
    capture.remove()
    expected = model(ids, output_hidden_states=True).hidden_states
    for layer, hidden in enumerate(expected):
        torch.testing.assert_close(features.hidden[layer], hidden)
    assert features.queries[1].shape == features.keys[2].shape == (2, 7, 24)
