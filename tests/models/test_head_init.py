"""New multi-label heads start at the frequencies of the labels."""

from __future__ import annotations

import factories
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertModel

from hf_tinybert import create_student
from hf_tinybert.models import head_init

SEVERAL = {"num_labels": 3, "problem_type": "multi_label_classification"}


@pytest.fixture
def loaded(encoder):
    return AutoModelForSequenceClassification.from_pretrained(encoder, output_loading_info=True, **SEVERAL)


def test_a_new_head_says_how_frequent_each_label_is(loaded):
    model, info = loaded
    head_init.start_at_frequencies(model, info["missing_keys"], [[0], [0, 1], [0], [0, 1, 1]] * 100)
    expected = torch.tensor([401 / 402, 201 / 402, 1 / 402])  # a label that never occurs is rare, not impossible
    torch.testing.assert_close(model.classifier.bias.sigmoid(), expected)


def test_a_head_that_was_there_is_left_alone(loaded):
    model, _ = loaded
    before = model.classifier.bias.clone()
    head_init.start_at_frequencies(model, (), [[0]])
    assert torch.equal(model.classifier.bias, before)


def test_the_last_layer_is_found_behind_others():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 3, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 3}
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=9, num_labels=3, **sizes))
    assert head_init.output_bias(model)[0] == "classifier.out_proj.bias"


def test_a_student_of_a_headless_checkpoint_starts_at_its_teachers(loaded, encoder, tmp_path):
    teacher, _ = loaded
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([-2.0, -3.0, 1.0]))
    headless = BertModel.from_pretrained(encoder)
    create_student(headless, factories.student_config(headless)).save_pretrained(tmp_path)
    student = create_student(teacher, str(tmp_path))
    assert torch.equal(student.classifier.bias, teacher.classifier.bias)
    teacher.config.problem_type = "single_label_classification"
    student = create_student(teacher, str(tmp_path))
    assert not torch.equal(student.classifier.bias, teacher.classifier.bias)
