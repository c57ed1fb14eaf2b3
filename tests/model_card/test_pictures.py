"""The maps of the pictures are what the models' own eager attention computes."""

from __future__ import annotations

import factories
import pytest
import torch
from PIL import Image

from hf_tinybert.evaluation import attention_maps
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.model_card import pictures

MAPPING = LayerMapping({0: 0, 1: 2, 2: 4})


@pytest.fixture(scope="module")
def pair(teacher_folder):
    teacher = factories.load(teacher_folder)
    return factories.small_student(teacher, init="teacher"), teacher


def test_the_maps_are_the_models_own(pair, tokenizer):
    student, teacher = pair
    tokens, maps = attention_maps.attention_maps(student, teacher, MAPPING, tokenizer, pictures.SENTENCE)
    assert tokens[0] == "[CLS]"
    assert list(maps) == [(1, 2), (2, 4)]
    inputs = tokenizer(pictures.SENTENCE, return_tensors="pt")
    for place, model in enumerate(pair):
        model.set_attn_implementation("eager")
        with torch.no_grad():
            own = model(**inputs, output_attentions=True).attentions
        model.set_attn_implementation("sdpa")
        for layers, both in maps.items():
            torch.testing.assert_close(both[place], own[layers[place] - 1][0].mean(0), rtol=0, atol=1e-5)


def test_training_mode_is_left_as_it_was(pair, tokenizer):
    student, teacher = pair
    student.train()
    first = attention_maps.attention_maps(student, teacher, MAPPING, tokenizer, "one sentence")[1]
    assert student.training
    student.eval()
    again = attention_maps.attention_maps(student, teacher, MAPPING, tokenizer, "one sentence")[1]
    assert all(torch.equal(first[key][0], again[key][0]) for key in first)


def test_what_cannot_be_drawn_is_left_out(pair, tokenizer, tmp_path):
    student, teacher = pair
    history = [{"loss": 2.0, "loss_hidden_1": 1.0, "loss_embedding": 0.5, "step": 1}, {"eval_loss": 1.0, "step": 1}]
    made = pictures.draw(tmp_path, history, student, teacher, MAPPING, tokenizer)
    assert list(made) == ["pictures/losses.png", "pictures/attention.png"]
    with Image.open(tmp_path / "pictures" / "losses.png") as losses:
        assert losses.size == (832, 338)  # two levels side by side
    with Image.open(tmp_path / "pictures" / "attention.png") as attention:
        assert attention.width == attention.height >= 832  # two pairs of layers
    assert list(pictures.draw(tmp_path, history, student, teacher, None, tokenizer)) == ["pictures/losses.png"]
    assert pictures.draw(tmp_path, [], student, teacher, MAPPING, None) == {}
