from __future__ import annotations

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForSequenceClassification, ConvBertConfig

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import FeatureCapture

LAYERS = st.sets(st.integers(0, 3))


def probabilities(features, layer, encoder, mask):
    """Attention as the model forms it: softmax of Q K^T / sqrt(head size) + bias, over real keys in the window."""
    q, k = (x[layer].unflatten(-1, (encoder.num_heads, -1)).transpose(1, 2) for x in (features.queries, features.keys))
    scores = q @ k.mT / q.shape[-1] ** 0.5 + features.bias.get(layer, 0.0)
    seen = mask[:, None, None, :].bool()
    window = encoder.attention[layer - 1].window
    if window is not None:
        places = torch.arange(mask.shape[1])
        seen = seen & ((places[:, None] - places[None, :]).abs() <= window)
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)


def check_against_the_models_own_outputs(model, batch):
    encoder = Encoder.from_model(model)
    layers = range(1, encoder.num_layers + 1)
    capture = FeatureCapture(encoder, [0, *layers], layers)
    with torch.no_grad(), capture.recording() as features:
        model(**batch)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == encoder.num_layers + 1
    real = batch["attention_mask"].bool()
    for layer, expected in enumerate(output.hidden_states):
        if layer == encoder.num_layers and model.config.model_type == "modernbert":
            # transformers 4.57 gives the last one before the final LayerNorm, transformers 5 after it.
            expected = model.base_model(**batch).last_hidden_state
        assert torch.equal(features.hidden[layer], expected), layer
    for layer, expected in enumerate(output.attentions, start=1):
        found = probabilities(features, layer, encoder, batch["attention_mask"])
        for row, kept in enumerate(real):
            torch.testing.assert_close(found[row][:, kept], expected[row][:, kept], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, found.transpose(-1, -2), atol=1e-3), "would not tell q from k"
    assert features.logits is None


@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_catches_hidden_states_and_what_attention_is_made_of(family):
    check_against_the_models_own_outputs(tiny_models.model(family, attention="eager"), tiny_models.batch())


@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_a_model_that_was_loaded_with_all_its_outputs_on_is_caught_alike(family):
    caught = []
    for outputs in ({}, {"output_attentions": True, "output_hidden_states": True}):
        model = tiny_models.model(family, attention="eager", **outputs)
        capture = FeatureCapture(Encoder.from_model(model), range(4), [1, 2, 3])
        with torch.no_grad(), capture.recording() as features:
            model(**tiny_models.batch())
        caught.append(features)
    for layer, value in caught[0].hidden.items():
        assert torch.equal(caught[1].hidden[layer], value), layer


def test_of_an_unlisted_family_with_conventional_names_the_scores_are_right():
    config = tiny_models.config(config_class=ConvBertConfig, embedding_size=24, head_ratio=2, conv_kernel_size=3)
    model = AutoModel.from_config(config).eval()
    check_against_the_models_own_outputs(model, tiny_models.batch())


def test_of_a_real_teacher_on_real_sentences(teacher_folder):
    model = AutoModelForSequenceClassification.from_pretrained(teacher_folder, attn_implementation="eager")
    check_against_the_models_own_outputs(model, tiny_models.sentences())


def test_fused_attention_gives_the_same_features(teacher_folder):
    batch, caught = tiny_models.sentences(), []
    for attention in ("sdpa", "eager"):
        model = AutoModelForSequenceClassification.from_pretrained(teacher_folder, attn_implementation=attention)
        capture = FeatureCapture(Encoder.from_model(model), range(5), range(1, 5))
        with torch.no_grad(), capture.recording() as features:
            model(**batch)
        caught.append(features)
    kept = batch["attention_mask"].bool()
    for kind in ("hidden", "queries", "keys"):
        fused, eager = (getattr(features, kind) for features in caught)
        assert fused.keys() == eager.keys() == set(range(kind != "hidden", 5))
        for layer in fused:
            torch.testing.assert_close(fused[layer][kept], eager[layer][kept], rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(LAYERS, LAYERS)
def test_catches_the_wanted_layers_and_no_others(hidden, attention):
    attention = attention - {0}
    model = tiny_models.model()
    capture = FeatureCapture(Encoder.from_model(model), hidden, attention)
    with capture.recording() as features:
        model(**tiny_models.batch())
    assert set(features.hidden) == hidden
    assert set(features.queries) == set(features.keys) == attention


def test_catches_nothing_outside_recording_and_forgets_nothing_inside():
    model = tiny_models.model()
    capture = FeatureCapture(Encoder.from_model(model), [0, 1], [2])
    with capture.recording() as first:
        model(**tiny_models.batch((5,), seed=1))
    kept = first.hidden[1]
    model(**tiny_models.batch((4,), seed=2))
    with capture.recording() as second:
        pass
    model(**tiny_models.batch((4,), seed=2))
    assert not second.hidden | second.queries | second.keys
    with pytest.raises(RuntimeError, match="out of it"), capture.recording() as third:
        raise RuntimeError("out of it")
    model(**tiny_models.batch((4,), seed=2))
    assert not third.hidden
    assert first.hidden[1] is kept
    assert kept.shape[1] == 5


def test_removing_leaves_no_hooks():
    model = tiny_models.model()
    before = tiny_models.hooks(model)
    capture = FeatureCapture(Encoder.from_model(model), range(4), [1, 2, 3])
    assert tiny_models.hooks(model) == before + 10
    capture.remove()
    capture.remove()
    assert tiny_models.hooks(model) == before
    with capture.recording() as features:
        model(**tiny_models.batch())
    assert not features.hidden | features.queries | features.keys


@pytest.mark.parametrize("family", sorted(tiny_models.ARCHITECTURES.keys() - {"albert", "mpnet", "xlm-roberta"}))
def test_gradient_checkpointing_changes_neither_features_nor_gradients(family):
    gradients, caught, calls = [], [], []
    for checkpointing in (False, True):
        model = tiny_models.undropped(tiny_models.model(family))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        passes = []
        Encoder.from_model(model).attention[1].module.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        capture = FeatureCapture(Encoder.from_model(model), range(4), [1, 2, 3])
        with capture.recording() as features:
            model.base_model(**tiny_models.batch())
        levels = features.by_layer
        tensors = {(kind, layer): value for kind, level in enumerate(levels) for layer, value in level.items()}
        assert all(value.requires_grad for value in tensors.values())
        sum(value.square().mean() * (1 + layer) for (_, layer), value in tensors.items()).backward()
        after = {(kind, layer): value for kind, level in enumerate(levels) for layer, value in level.items()}
        assert all(after[name] is value for name, value in tensors.items())
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        caught.append(tensors)
        calls.append(len(passes))
    assert calls[1] == 2 * calls[0] > 0, "the second run must have recomputed its layers"
    for name, value in caught[0].items():
        assert torch.equal(value, caught[1][name])
    assert gradients[0].keys() == gradients[1].keys()
    assert any(part in name for part in ("query", "q_lin", "attn.q", "Wqkv") for name in gradients[0])
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-5, atol=1e-6, msg=name)
