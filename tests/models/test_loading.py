from __future__ import annotations

import shutil

import factories
import pytest
import tiny_models
import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, GPT2Config, GPT2LMHeadModel

from hf_tinybert.models.loading import (
    auto_class,
    check_vocabularies,
    describe,
    fingerprint,
    has_finite_weights,
    load_model,
)


@pytest.mark.parametrize("name", tiny_models.AUTO_CLASSES)
@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_the_auto_class_of_a_model(name, family):
    auto = getattr(transformers, name)
    assert auto_class(tiny_models.model(family, auto=auto, num_labels=2)) is auto


def test_a_model_of_no_encoder_task_is_refused():
    with pytest.raises(ValueError, match="GPT2LMHeadModel belongs to none of AutoModelForSequenceClassification"):
        auto_class(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1)))


# Loading


def test_loads_a_teacher_by_folder(teacher, teacher_folder):
    loaded = load_model(teacher_folder, AutoModelForSequenceClassification, {"attn_implementation": "eager"})
    assert fingerprint(loaded) == fingerprint(teacher)
    assert loaded.config._attn_implementation == "eager"


def test_a_body_without_a_trained_head_is_no_teacher_but_loads_without_a_head(encoder):
    with pytest.raises(ValueError, match=r"no trained weights for classifier\.bias.*not fine-tuned"):
        load_model(encoder, AutoModelForSequenceClassification)
    assert load_model(encoder, AutoModel).config.hidden_size == 96


def test_a_folder_without_a_model_or_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_model(tmp_path, AutoModelForSequenceClassification)
    for name in (tmp_path / "nowhere", "./nowhere", "../nowhere"):
        with pytest.raises(ValueError, match="does not exist"):
            load_model(name, AutoModelForSequenceClassification)


# Naming it without naming a path


def test_a_local_teacher_is_described_by_its_weights_alone(teacher, teacher_folder, tmp_path):
    shutil.copytree(teacher_folder, tmp_path / "elsewhere")
    name = describe(teacher)
    assert name == f"sha256:{fingerprint(teacher)}" == describe(factories.load(tmp_path / "elsewhere"))
    assert len(fingerprint(teacher)) == 16
    with torch.no_grad():
        teacher.bert.encoder.layer[3].attention.self.key.bias[3] += 1e-3
    assert describe(teacher) != name


def test_the_fingerprint_sees_type_and_shape():
    model = tiny_models.model()
    names = {fingerprint(model), fingerprint(tiny_models.model(seed=1)), fingerprint(tiny_models.model().half())}
    assert len(names) == 3
    assert fingerprint(tiny_models.model()) in names
    with torch.no_grad():
        model.classifier.weight = torch.nn.Parameter(model.classifier.weight.reshape(24, 3))
    assert fingerprint(model) not in names


def test_a_hub_teacher_is_described_by_its_id():
    model = tiny_models.model()
    model.config._name_or_path, model.config._commit_hash = "somebody/bert-intents", "0" * 40
    assert describe(model) == "somebody/bert-intents"


def test_a_folder_never_passes_for_a_hub_id(tmp_path, monkeypatch):
    model = tiny_models.model()
    model.config._commit_hash = "0" * 40
    (tmp_path / "local" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("local/teacher", str(tmp_path / "gone" / "teacher"), str(tmp_path), ""):
        model.config._name_or_path = name
        assert describe(model).startswith("sha256:"), name


# What must agree


def test_vocabularies_must_have_one_size():
    check_vocabularies(BertConfig(vocab_size=7), BertConfig(vocab_size=7))
    with pytest.raises(ValueError, match="teacher has a vocabulary of 8 tokens and the student of 7"):
        check_vocabularies(BertConfig(vocab_size=7), BertConfig(vocab_size=8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_noticed(value):
    model = tiny_models.model()
    assert has_finite_weights(model)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[3] = value
    assert not has_finite_weights(model)
