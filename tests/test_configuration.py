from __future__ import annotations

import json
import logging

import pytest
import tiny_models
import torch
from transformers import AutoConfig, AutoModel, BertConfig

from hf_tinybert import TinyBertConfig
from hf_tinybert.presets import PRESETS

pytestmark = pytest.mark.also_transformers("4.57")
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


def sizes(config):
    return {name: getattr(config, name) for name in SIZES}


def without_version(config):
    return {k: v for k, v in config.to_dict().items() if k not in ("transformers_version", "_name_or_path")}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_saved_as_a_plain_bert_and_becomes_a_model(name, tmp_path):
    config = TinyBertConfig.preset(name, vocab_size=50, hidden_dropout_prob=0.25)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    for loaded in (AutoConfig.from_pretrained(tmp_path), BertConfig.from_pretrained(tmp_path)):
        assert type(loaded) is BertConfig
        assert sizes(loaded) == PRESETS[name]
        assert without_version(loaded) == without_version(config)
    assert type(config.to_bert_config()) is BertConfig
    assert without_version(config.to_bert_config()) == without_version(config)
    with torch.device("meta"):
        model = AutoModel.from_config(config.to_bert_config())
    first, width = model.encoder.layer[0], PRESETS[name]["hidden_size"]
    assert len(model.encoder.layer) == PRESETS[name]["num_hidden_layers"]
    assert model.embeddings.word_embeddings.weight.shape == (50, width)
    assert first.intermediate.dense.weight.shape == (PRESETS[name]["intermediate_size"], width)
    assert first.attention.self.num_attention_heads == PRESETS[name]["num_attention_heads"]


def test_a_model_of_a_preset_reads_tokens():
    config = TinyBertConfig.preset("tinybert-3l-192d", vocab_size=50)
    hidden = AutoModel.from_config(config.to_bert_config())(torch.tensor([[3, 4, 5]])).last_hidden_state
    assert hidden.shape == (1, 3, 192)
    assert hidden.isfinite().all()


def test_no_sizes_given_is_the_papers_small_student():
    assert sizes(TinyBertConfig()) == PRESETS["tinybert-4l-312d"]
    assert TinyBertConfig(hidden_size=144).num_hidden_layers == 4


@pytest.mark.parametrize("given", [{}, {"attention_probs_dropout_prob": 0.2}, {"hidden_dropout_prob": 0.1}])
def test_nothing_is_dropped_unless_asked_for(given, tmp_path):
    for config in (TinyBertConfig(**given), TinyBertConfig.from_teacher(BertConfig(), **given)):
        config.save_pretrained(tmp_path)
        for loaded in (config, config.to_bert_config(), AutoConfig.from_pretrained(tmp_path)):
            for name in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
                assert getattr(loaded, name) == given.get(name, 0.0)


def test_round_trip_through_its_own_class(tmp_path):
    config = TinyBertConfig.preset("tinybert-3l-192d", num_labels=5)
    config.save_pretrained(tmp_path)
    assert without_version(TinyBertConfig.from_pretrained(tmp_path)) == without_version(config)


def test_an_unknown_preset_lists_those_there_are():
    for make in (TinyBertConfig.preset, lambda name: TinyBertConfig.from_teacher(BertConfig(), name)):
        with pytest.raises(ValueError, match="Unknown preset") as error:
            make("tinybert-2l")
        assert str(error.value) == f"Unknown preset 'tinybert-2l'; the presets are {', '.join(PRESETS)}."


TEACHER = {
    "vocab_size": 123,
    "pad_token_id": 7,
    "type_vocab_size": 5,
    "max_position_embeddings": 77,
    "id2label": {0: "no", 1: "yes", 2: "perhaps"},
    "label2id": {"no": 0, "yes": 1, "perhaps": 2},
    "problem_type": "multi_label_classification",
    "layer_norm_eps": 1e-5,
    "hidden_act": "relu",
}


def test_takes_over_what_the_teachers_inputs_and_labels_need(tmp_path):
    teacher = BertConfig(**TEACHER, num_attention_heads=4, hidden_size=32)
    config = TinyBertConfig.from_teacher(teacher, "tinybert-3l-192d")
    assert {name: getattr(config, name) for name in TEACHER} == TEACHER
    assert config.num_labels == 3
    assert sizes(config) == PRESETS["tinybert-3l-192d"] | {"num_attention_heads": 4}
    config.save_pretrained(tmp_path)
    assert without_version(AutoConfig.from_pretrained(tmp_path)) == without_version(config)


def test_of_a_real_teacher(teacher):
    config = TinyBertConfig.from_teacher(teacher.config)
    for name in ("vocab_size", "pad_token_id", "type_vocab_size", "max_position_embeddings", "id2label"):
        assert getattr(config, name) == getattr(teacher.config, name)


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert"])
def test_of_a_teacher_of_another_family(family):
    teacher = tiny_models.config(family, pad_token_id=1)
    config = TinyBertConfig.from_teacher(teacher)
    assert (config.vocab_size, config.pad_token_id, config.num_attention_heads) == (90, 1, 4)
    assert config.type_vocab_size == getattr(teacher, "type_vocab_size", 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 9),
        ("pad_token_id", 0),
        ("hidden_size", 144),
        ("num_attention_heads", 6),
        ("num_hidden_layers", 2),
        ("problem_type", "regression"),
        ("max_position_embeddings", 32),
        ("num_labels", 2),
    ],
)
def test_overrides_win_over_teacher_and_preset(name, value):
    config = TinyBertConfig.from_teacher(BertConfig(**TEACHER), **{name: value})
    assert getattr(config, name) == value


def test_other_label_names_do_not_keep_the_teachers_ids():
    config = TinyBertConfig.from_teacher(BertConfig(**TEACHER), id2label={0: "off", 1: "on"})
    assert config.num_labels == 2
    assert config.label2id == {"off": 0, "on": 1}


def test_heads_that_do_not_divide_the_width_stay_the_presets_with_a_warning(caplog):
    teacher = BertConfig(num_attention_heads=16, hidden_size=1024)
    with caplog.at_level(logging.WARNING):
        config = TinyBertConfig.from_teacher(teacher)
        assert config.num_attention_heads == 12
        assert "16 attention heads" in caplog.text
        caplog.clear()
        assert TinyBertConfig.from_teacher(teacher, hidden_size=320).num_attention_heads == 16
        assert TinyBertConfig.from_teacher(teacher, num_attention_heads=6).num_attention_heads == 6
        assert not caplog.records


def test_a_width_that_is_no_multiple_of_the_heads_is_refused():
    with pytest.raises(ValueError, match="312 is no multiple of its 10"):
        TinyBertConfig.from_teacher(BertConfig(), num_attention_heads=10)
