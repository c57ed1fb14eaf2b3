from __future__ import annotations

import pytest
import tiny_models
import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertModel,
    DebertaV2Config,
    EsmConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
)

from hf_tinybert.families import locate


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_finds_layers_heads_and_width(family):
    model = tiny_models.model(family)
    encoder = locate(model)
    assert (encoder.num_layers, encoder.num_heads, encoder.hidden_size) == (3, 4, 24)
    assert encoder.plain_scores
    assert [p.out_features for p in (*encoder.queries, *encoder.keys)] == [24] * 6
    assert len({id(module) for module in (*encoder.queries, *encoder.keys, *encoder.layers)}) == 9
    for layer, query, key in zip(encoder.layers, encoder.queries, encoder.keys, strict=True):
        inside = list(layer.modules())
        assert any(module is query for module in inside)
        assert any(module is key for module in inside)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM])
def test_with_any_head_or_none(auto):
    model = tiny_models.model(auto=auto)
    assert locate(model).layers == tuple(model.base_model.encoder.layer)


@pytest.mark.parametrize(("family", "usable"), [("bert", 80), ("roberta", 78), ("electra", 80), ("distilbert", 80)])
def test_the_longest_input_is_the_longest_that_runs(family, usable):
    model = tiny_models.model(family)
    assert locate(model).max_length == usable
    model(torch.full((1, usable), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, usable + 1), 7))


def test_of_robertas_514_positions_512_can_be_used():
    assert locate(tiny_models.model("roberta", max_position_embeddings=514)).max_length == 512


def test_of_a_real_body(body):
    encoder = locate(BertModel.from_pretrained(body))
    assert (encoder.num_layers, encoder.num_heads, encoder.hidden_size, encoder.max_length) == (6, 12, 384, 512)


def test_scores_with_added_or_rotated_positions_are_not_plain():
    config = tiny_models.config(config_class=EsmConfig, position_embedding_type="rotary", pad_token_id=1)
    assert not locate(AutoModel.from_config(config)).plain_scores
    config = tiny_models.config(config_class=BertConfig, position_embedding_type="relative_key")
    if not hasattr(AutoModel.from_config(config).encoder.layer[0].attention.self, "distance_embedding"):
        pytest.skip("this transformers has no relative positions for BERT")
    assert not locate(AutoModel.from_config(config)).plain_scores


@pytest.mark.parametrize(
    ("config_class", "overrides"),
    [
        (AlbertConfig, {"embedding_size": 24}),
        (DebertaV2Config, {}),
        (GPT2Config, {"n_embd": 24, "n_layer": 2, "n_head": 4}),
        (ModernBertConfig, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1}),
        (MPNetConfig, {}),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_other_architectures_are_refused_by_name(config_class, overrides):
    if config_class is GPT2Config:
        config = config_class(vocab_size=90, **overrides)
    else:
        config = tiny_models.config(config_class=config_class, **overrides)
    with pytest.raises(ValueError, match=rf"model_type '{config.model_type}'.*encoder\.layer\.N.*q_lin"):
        locate(AutoModel.from_config(config))
