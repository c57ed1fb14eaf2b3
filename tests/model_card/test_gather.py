"""What a card knows of a trainer."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import factories
import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DistilBertConfig,
)

from hf_tinybert import DistillationTrainingArguments
from hf_tinybert.model_card import gather
from hf_tinybert.models.loading import pipeline_tag


@pytest.fixture
def trainer(teacher_folder, tmp_path):
    shutil.copytree(teacher_folder, tmp_path / "teacher")
    teacher = factories.load(str(tmp_path / "teacher"))
    args = factories.arguments(tmp_path / "out", teacher_cache_dir=str(tmp_path / "cache"), temperature=2.0)
    return factories.trainer(factories.small_student(teacher), teacher, args)


def facts(trainer, **given):
    return gather.gather(trainer, "name", None, None, {}, **given)


def test_without_a_card_of_the_teacher_nothing_is_inherited(trainer):
    known = facts(trainer)
    assert (known.license, known.language, known.datasets) == (None, [], [])
    assert known.pipeline_tag == "text-classification"
    assert known.student_shape == "BertForSequenceClassification with 2 layers, 48 wide"
    assert known.training_rows == len(trainer.train_dataset)


def test_licence_and_language_are_the_teachers(trainer, tmp_path):
    card = "---\nlicense: mit\nlanguage: de\n---\n\n# Teacher\n"
    (tmp_path / "teacher" / "README.md").write_text(card, encoding="utf-8")
    known = facts(trainer)
    assert (known.license, known.language) == ("mit", ["de"])
    known = facts(trainer, license="apache-2.0", language=["en", "fr"])
    assert (known.license, known.language) == ("apache-2.0", ["en", "fr"])


def test_a_broken_card_of_the_teacher_is_left_aside(trainer, tmp_path):
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    assert facts(trainer).license is None


def test_arguments_are_shown_without_paths(trainer, tmp_path):
    shown = gather.shown_arguments(trainer.args)
    assert shown["temperature"] == 2.0
    assert shown["max_steps"] == 20
    assert "num_train_epochs" not in shown
    assert str(tmp_path) not in json.dumps(shown, default=str)


def test_arguments_that_a_users_own_class_adds_are_not_shown(tmp_path):
    @dataclass
    class Own(DistillationTrainingArguments):
        train_file: str = "/home/me/train.csv"
        api_key: str = "sk-123"

    shown = gather.shown_arguments(Own(str(tmp_path), use_cpu=True))
    assert not {"train_file", "api_key"} & shown.keys()


def test_of_several_teachers_a_licence_is_inherited_where_all_have_it(trainer, teacher_folder, tmp_path):
    shutil.copytree(teacher_folder, tmp_path / "second")
    trainer.teachers.append(factories.load(str(tmp_path / "second")))
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert facts(trainer).license is None
    (tmp_path / "second" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert facts(trainer).license == "mit"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["embeddings", "hidden states", "attention scores", "predictions"]),
        ({"phases": "intermediate", "attention_weight": 0.0}, ["embeddings", "hidden states"]),
        ({"phases": "prediction", "hard_label_weight": 0.5}, ["predictions", "gold labels"]),
    ],
)
def test_the_levels_are_those_that_are_matched(tmp_path, settings, expected):
    assert gather.matched_levels(factories.arguments(tmp_path, **settings)) == expected


def test_a_level_that_was_left_out_is_not_claimed(tmp_path):
    found = gather.matched_levels(factories.arguments(tmp_path), ["attention"])
    assert found == ["embeddings", "hidden states", "predictions"]


def test_data_of_the_hub_is_named(trainer):
    rows = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [0]})
    rows.info.builder_name = "clinc_oos"
    trainer.train_dataset = rows
    assert facts(trainer).datasets == ["clinc_oos"]
    assert facts(trainer).dataset_name == "clinc_oos"
    assert facts(trainer, dataset_tags="glue", dataset="GLUE SST-2").dataset_name == "GLUE SST-2"


def test_every_head_has_its_task(encoder):
    for auto, tag in (
        (AutoModel, "feature-extraction"),
        (AutoModelForMaskedLM, "fill-mask"),
        (AutoModelForQuestionAnswering, "question-answering"),
        (AutoModelForTokenClassification, "token-classification"),
    ):
        assert pipeline_tag(auto.from_pretrained(encoder)) == tag


def test_layers_that_were_not_matched_are_not_claimed(teacher, tmp_path):
    args = factories.arguments(tmp_path, max_steps=2, phases="prediction")
    trainer = factories.trainer(factories.small_student(teacher), teacher, args)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| layer 1 |" not in text
    assert "attention.png" not in text
    assert "Matched: predictions." in text


def test_a_student_of_another_family_reads_what_its_tokenizer_gives(teacher, tmp_path):
    """DistilBERT takes no token types, which BERT's tokenizer makes."""
    config = DistilBertConfig(dim=48, hidden_dim=96, n_layers=2, n_heads=4, num_labels=teacher.config.num_labels)
    config.vocab_size = teacher.config.vocab_size
    config.id2label, config.label2id = teacher.config.id2label, teacher.config.label2id
    student = AutoModelForSequenceClassification.from_config(config)
    trainer = factories.trainer(student, teacher, factories.arguments(tmp_path, max_steps=2))
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    with Image.open(tmp_path / "pictures" / "attention.png") as picture:
        assert picture.format == "PNG"
        assert picture.height > picture.width / 2 * 1.9  # two layers, in rows of two maps


def test_the_card_names_no_path(trainer, tmp_path):
    trainer.train_dataset = trainer.train_dataset.select(range(16))
    trainer.args.max_steps = 2
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(tags=["one", "two"])
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "sha256" not in text
    weights = [
        (folder / "model.safetensors").stat().st_size / 1e6 for folder in (tmp_path / "teacher", tmp_path / "out")
    ]
    assert "| size on disk | {:.1f} MB | {:.1f} MB |".format(*weights) in text
    assert {"one", "two"} <= set(ModelCard(text).data.tags)
