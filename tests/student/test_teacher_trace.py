from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from transformers import AutoModel, AutoModelForTokenClassification
from transformers.activations import ACT2FN

from hf_tinybert.models.architectures import registry
from hf_tinybert.models.features import accepted_inputs
from hf_tinybert.student import calibration
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.teacher_trace import TeacherTrace, normalised

#: Scores of these are queries times keys alone, without windows.
PLAIN = ("bert", "roberta", "electra", "distilbert", "xlm-roberta", "albert")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def traced(family, layers=(1, 2, 3), **overrides):
    """A model whose biases and norms are no zeros and ones, and what it computes on two chunks of texts."""
    teacher = tiny_models.model(family, AutoModelForTokenClassification, **overrides)
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if parameter.dim() == 1 and "orm" in name and "weight" in name:
                parameter.uniform_(0.7, 1.4)
            elif parameter.dim() == 1:
                parameter.normal_(std=0.2)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(calibration, "_CHUNK", 40)
        texts = CalibrationTexts.from_batch(tiny_models.batch((9, 3, 12, 7, 1)), 64)
        assert len(texts.chunks) > 1
        return TeacherTrace(teacher, texts, layers)


def hidden_states(trace):
    """By layer at the real positions, as transformers gives them."""
    chunks = []
    for chunk in trace.texts.chunks:
        inputs = accepted_inputs(trace.teacher.base_model, chunk)
        with torch.no_grad():
            output = trace.teacher.base_model(**inputs, output_hidden_states=True)
        # The last is behind the final norm, which transformers 4.57 leaves out of them.
        chunks.append([*output.hidden_states[:-1], output.last_hidden_state])
    return [trace.texts.pack(layer) for layer in zip(*chunks, strict=True)]


def normal(x):
    x = np.asarray(x, dtype=np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_normalised_vectors_have_mean_0_and_variance_1():
    x = torch.randn(4, 3, 9) * 5 + 2
    np.testing.assert_allclose(normalised(x).numpy(), normal(x), atol=1e-5)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_states_are_the_models_own_at_real_positions_and_normalised_where_the_model_does_so_later(family):
    trace = traced(family, (1, 3))
    states = hidden_states(trace)
    assert trace.hidden.keys() == trace.states.keys() == {0, 1, 3}
    for layer, found in trace.hidden.items():
        torch.testing.assert_close(found, states[layer], **TOLERANCE)
        assert found.shape == (32, 24)
        expected = normal(found) if family == "modernbert" else found
        np.testing.assert_allclose(trace.states[layer].numpy(), expected, atol=1e-4)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_a_layers_maps_give_its_activations(family):
    """In the terms of a BERT: from the state that the layer reads to what its norms read and return."""
    trace = traced(family)
    gated = family == "modernbert"
    config = trace.teacher.config
    activation = ACT2FN[
        next(v for n in ("hidden_act", "activation", "hidden_activation") if (v := getattr(config, n, None)))
    ]
    with torch.no_grad():
        for layer in (1, 2, 3):
            seen, maps = trace.activations(layer), trace.weights(layer)
            torch.testing.assert_close(seen.entering, trace.states[layer - 1], **TOLERANCE)
            if not (gated and layer == 1):  # which has no norm before its first attention
                for name in ("queries", "keys", "values"):
                    torch.testing.assert_close(getattr(maps, name)(seen.entering), getattr(seen, name), **TOLERANCE)
            before = maps.neurons(seen.middle)
            if gated:
                inner, gate = before.chunk(2, dim=-1)
                torch.testing.assert_close(activation(inner) * gate, seen.neurons, **TOLERANCE)
            else:
                torch.testing.assert_close(activation(before), seen.neurons, **TOLERANCE)
                torch.testing.assert_close(maps.attention_norm(seen.attention_sum), seen.middle, **TOLERANCE)
                added = maps.feed_forward_output(seen.neurons)
                torch.testing.assert_close(seen.output_sum - seen.middle, added, **TOLERANCE)
                if not (family == "deberta-v2" and layer == 1):  # which has a convolution behind
                    expected = maps.output_norm(seen.output_sum)
                    torch.testing.assert_close(trace.states[layer], expected, **TOLERANCE)


def test_a_model_that_normalises_before_its_blocks_has_the_sums_of_one_that_does_so_behind_them():
    """n(r + a) = n(n(r) + a / s), and a / s is what the layer adds, whatever its size."""
    trace = traced("modernbert")
    with torch.no_grad():
        for layer in (1, 2):
            seen, maps = trace.activations(layer), trace.weights(layer)
            assert (maps.attention_norm, maps.output_norm) == (None, None)
            np.testing.assert_allclose(normal(seen.attention_sum), seen.middle, atol=1e-3)
            np.testing.assert_allclose(normal(seen.output_sum), trace.states[layer], atol=1e-3)
            added, sums = maps.feed_forward_output(seen.neurons), seen.output_sum - seen.middle
            added = added - added.mean(-1, keepdim=True)
            # Of the same direction at each position, though not of the same length.
            torch.testing.assert_close(torch.cosine_similarity(added, sums), torch.ones(len(sums)), rtol=0, atol=1e-4)
            # The residual stream's spread is what stands between the two.
            stream = hidden_states(trace)[layer] - maps.feed_forward_output(seen.neurons)
            lengths = added.norm(dim=-1) / stream.std(dim=-1, correction=0)
            torch.testing.assert_close(sums.norm(dim=-1), lengths, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", PLAIN)
def test_queries_keys_and_values_and_the_output_map_give_what_attention_adds(family):
    trace = traced(family)
    for layer in (1, 3):
        seen, maps = trace.activations(layer), trace.weights(layer)
        start, contexts = 0, []
        for size in (int(mask.sum()) for texts in trace.texts.masks for mask in texts):
            rows = slice(start, start + size)
            q, k, v = (
                getattr(seen, name)[rows].unflatten(-1, (4, 6)).transpose(0, 1)
                for name in ("queries", "keys", "values")
            )
            attended = (q @ k.mT / math.sqrt(6)).softmax(-1) @ v
            contexts.append(attended.transpose(0, 1).flatten(1))
            start += size
        added = maps.attention_output(torch.cat(contexts))
        torch.testing.assert_close(seen.attention_sum - seen.entering, added, **TOLERANCE)


def test_scores_of_several_terms_are_divided_by_their_number_too():
    trace = traced("deberta-v2")
    projection = trace.teacher.base_model.encoder.layer[1].attention.self.query_proj
    seen = trace.activations(2)
    with torch.no_grad():
        torch.testing.assert_close(seen.queries, projection(seen.entering) / math.sqrt(3), **TOLERANCE)


def test_a_shared_layer_is_seen_at_each_of_its_calls():
    """The first group serves the first two layers."""
    trace = traced("albert")
    first, second = trace.activations(1), trace.activations(2)
    assert trace.encoder.layers[0] is trace.encoder.layers[1]
    torch.testing.assert_close(first.entering, trace.states[0], **TOLERANCE)
    torch.testing.assert_close(second.entering, trace.states[1], **TOLERANCE)
    assert not torch.allclose(first.queries, second.queries, atol=0.1)


def test_nothing_stays_on_the_model_also_after_an_error():
    trace = traced("bert")
    assert tiny_models.hooks(trace.teacher) == 0
    trace.activations(2)
    assert tiny_models.hooks(trace.teacher) == 0
    layer = trace.teacher.base_model.encoder.layer[1]
    layer.output.forward = lambda *args: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        trace.activations(2)
    with pytest.raises(RuntimeError, match="broken"):
        TeacherTrace(trace.teacher, trace.texts, [2])
    assert tiny_models.hooks(trace.teacher) == 0


def test_an_architecture_that_does_not_name_its_parts_has_no_activations(monkeypatch):
    monkeypatch.setitem(registry.ARCHITECTURES, "bert", replace(registry.ARCHITECTURES["bert"], parts=None))
    texts = CalibrationTexts.from_batch(tiny_models.batch(), 8)
    with pytest.raises(ValueError, match="does not name the parts of its layers"):
        TeacherTrace(tiny_models.model(auto=AutoModel), texts, [1])


def test_a_model_in_half_precision_is_traced_in_float32():
    teacher = tiny_models.model(auto=AutoModel).bfloat16()
    with torch.no_grad():
        trace = TeacherTrace(teacher, CalibrationTexts.from_batch(tiny_models.batch(), 8), [1])
        assert {value.dtype for value in vars(trace.activations(1)).values()} == {torch.float32}
    assert {value.dtype for value in (*trace.states.values(), *trace.hidden.values())} == {torch.float32}
