from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import layer_norm
from transformers import AutoModel

from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.layer_init import (
    StudentSpace,
    _reduced,
    _set_attention,
    _set_feed_forward,
    init_layer,
    run_layer,
    strongest,
)
from hf_tinybert.student.linear_fit import RIDGE, Affine
from hf_tinybert.student.teacher_trace import TeacherTrace

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}

pytestmark = pytest.mark.usefixtures("no_gradients")


def random_affine(outputs, inputs):
    return Affine(torch.randn(outputs, inputs), torch.randn(outputs))


def texts_of(*lengths, seed=0):
    return CalibrationTexts.from_batch(tiny_models.batch(lengths or (7, 12, 4, 9) * 6, seed=seed), 80)


def teacher_trace(family="bert", layers=(1, 2, 3), texts=None, **overrides):
    return TeacherTrace(tiny_models.model(family, AutoModel, **overrides), texts or texts_of(), layers)


def student_layer(trace, **overrides):
    """A random layer of a BERT, of the tiny teacher's size unless told."""
    torch.manual_seed(5)
    config = tiny_models.same_size_config(trace.teacher, **overrides).to_bert_config()
    return AutoModel.from_config(config).eval().encoder.layer[0]


def padded(packed, texts, filling=0.0):
    """Values of real positions as chunks."""
    chunks, start = [], 0
    for mask in texts.masks:
        chunk = torch.full((*mask.shape, packed.shape[-1]), filling)
        count = int(mask.sum())
        chunk[mask] = packed[start : start + count]
        chunks.append(chunk)
        start += count
    return chunks


# The student's space


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999), st.integers(1, 6))
def test_the_space_is_the_leading_principal_components(seed, size):
    """Of all given states together; what is left out is as little as can be."""
    source = np.random.default_rng(seed)
    spread = source.normal(size=(7, 7)) * np.logspace(0, -1, 7)
    given = [source.normal(size=(40, 7)) @ spread + layer for layer in range(3)]
    space = StudentSpace.from_states([torch.tensor(each) for each in given], size)
    states = np.concatenate(given)
    centred = states - states.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    np.testing.assert_allclose((space(torch.tensor(centred)).numpy() ** 2).sum(0), values[:size], rtol=1e-9)
    np.testing.assert_allclose(space.basis.T @ space.basis, np.eye(size), atol=1e-12)
    assert not space.is_whole
    mean = torch.tensor(states.mean(0))
    outside = space.offset(mean)
    np.testing.assert_allclose(space.basis.T @ outside, np.zeros(size), atol=1e-12)
    np.testing.assert_allclose(outside + space.basis @ space(mean), mean, atol=1e-12)


def test_at_the_teachers_width_the_space_is_the_teachers():
    states = torch.randn(30, 6)
    space = StudentSpace.from_states([states, states * 2], 6)
    assert space.is_whole
    assert torch.equal(space(states), states)
    assert torch.equal(space.offset(states.mean(0)), torch.zeros(6))


def test_a_map_reads_the_state_that_the_space_holds_of_it():
    """The projection onto the space, and of what is outside the mean."""
    states, linear = torch.randn(50, 7) @ torch.randn(7, 7) + 3, random_affine(4, 7)
    space = StudentSpace.from_states([states], 4)
    mean = states.mean(0)
    kept = (states - mean) @ space.basis @ space.basis.T + mean
    torch.testing.assert_close(space.reading(linear, states)(space(states)), linear(kept), **TOLERANCE)


def test_a_space_of_two_models_is_the_best_map_between_their_states():
    student = torch.randn(200, 5) * 2 + 1
    into, linear = random_affine(8, 5), random_affine(3, 8)
    exact = StudentSpace.from_pair(student, into(student))
    torch.testing.assert_close(exact.reading(linear, student)(student), linear(into(student)), rtol=1e-2, atol=2e-2)
    teacher = into(student) + torch.randn(200, 8)
    space = StudentSpace.from_pair(student, teacher)
    assert not space.is_whole
    solution = np.linalg.lstsq(np.c_[student.numpy(), np.ones(200)], teacher.numpy(), rcond=None)[0]
    expected = linear(torch.from_numpy(np.c_[student.numpy(), np.ones(200)] @ solution).float())
    torch.testing.assert_close(space.reading(linear, teacher)(student), expected, rtol=0, atol=0.05)


# Heads of another size


def assert_best(found, wanted, rank, slack=1e-3):
    """As close to the wanted matrix as any of this rank (Eckart and Young)."""
    least = torch.linalg.svdvals(wanted)[rank:].square().sum().sqrt()
    assert (wanted - found).norm() <= 1.02 * least + slack * wanted.norm()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([(6, 4), (6, 2), (8, 7), (4, 6)]))
def test_scores_and_values_of_a_head_are_the_best_of_its_size(seed, sizes):
    size, small = sizes
    torch.manual_seed(seed)
    states = torch.randn(80, 10) @ torch.randn(10, 10) + 1
    reading = {name: random_affine(size, 10) for name in ("query", "key", "value")}
    outgoing, rank = torch.randn(size, 9), min(sizes)
    wide = {name: linear(states) for name, linear in reading.items()}
    found, out = _reduced(reading, outgoing, wide, rank, (small / size) ** 0.25)
    narrow = {name: linear(states) for name, linear in found.items()}
    assert [values.shape for values in narrow.values()] == [(80, rank)] * 3
    assert out.shape == (rank, 9)
    scores = wide["query"] @ wide["key"].T / size**0.5
    assert_best(narrow["query"] @ narrow["key"].T / small**0.5, scores, rank)
    assert_best(narrow["value"] @ out, wide["value"] @ outgoing, rank)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.sampled_from([16, 20]))
def test_each_of_a_layers_heads_gets_the_best_of_its_own_head(seed, width):
    """Of states inside the student's space, which it reads without an error."""
    trace = teacher_trace(seed=seed)
    old, weights, activations = trace.encoder.layers[0].attention, trace.weights(1), trace.activations(1)
    space = StudentSpace(torch.linalg.qr(torch.randn(24, width)).Q)
    seen = torch.randn(120, width)
    entering = seen @ space.basis.T
    wide = {part: getattr(old.self, part)(entering) for part in ("query", "key", "value")}
    given = dict(zip(("queries", "keys", "values"), wide.values(), strict=True))
    new = student_layer(trace, hidden_size=width).attention
    _set_attention(new, weights, replace(activations, entering=entering, **given), space, seen, 4)
    narrow = {part: getattr(new.self, part)(seen) for part in ("query", "key", "value")}
    size = width // 4
    for head in range(4):
        at, into = slice(head * 6, (head + 1) * 6), slice(head * size, (head + 1) * size)
        scores = wide["query"][:, at] @ wide["key"][:, at].T / 6**0.5
        assert_best(narrow["query"][:, into] @ narrow["key"][:, into].T / size**0.5, scores, size, 2e-3)
        values = wide["value"][:, at] @ old.output.dense.weight[:, at].T @ space.basis
        assert_best(narrow["value"][:, into] @ new.output.dense.weight[:, into].T, values, size, 2e-3)


def by_head(linear, states, heads):
    return linear(states).unflatten(-1, (heads, -1)).transpose(0, 1)


def test_a_larger_head_has_the_scores_of_the_teachers_and_its_other_rows_begin_without_an_effect():
    """But they can learn one: queries and values are not 0."""
    trace = teacher_trace()
    space, entering = StudentSpace.from_states([trace.states[1]], 24), trace.states[0]
    ours, theirs = student_layer(trace, num_attention_heads=2).attention, trace.encoder.layers[0].attention.self
    _set_attention(ours, trace.weights(1), trace.activations(1), space, entering, 4)
    found = by_head(ours.self.query, entering, 2) @ by_head(ours.self.key, entering, 2).mT / 12**0.5
    wanted = by_head(theirs.query, entering, 4) @ by_head(theirs.key, entering, 4).mT / 6**0.5
    torch.testing.assert_close(found, wanted[:2], rtol=0, atol=1e-2)
    for head in range(2):
        rest = slice(head * 12 + 6, (head + 1) * 12)
        assert ours.self.key.weight[rest].abs().max() == 0
        assert ours.output.dense.weight[:, rest].abs().max() == 0
        assert ours.self.query.weight[rest].abs().sum(1).min() > 0
        assert ours.self.value.weight[rest].abs().sum(1).min() > 0


def test_heads_that_the_teacher_does_not_have_are_silent():
    trace = teacher_trace()
    layer = student_layer(trace, num_attention_heads=8)
    space = StudentSpace.from_states([trace.states[1]], 24)
    _set_attention(layer.attention, trace.weights(1), trace.activations(1), space, trace.states[0], 4)
    assert layer.attention.self.key.weight[12:].abs().max() == 0
    assert layer.attention.output.dense.weight[:, 12:].abs().max() == 0
    assert layer.attention.output.dense.weight[:, :12].abs().sum(0).min() > 0


# The feed-forward block


def test_the_neurons_that_contribute_most_are_kept_in_order():
    neurons = torch.ones(10, 5) * torch.tensor([1.0, -3.0, 2.0, 0.0, 5.0])
    out = torch.ones(2, 5) * torch.tensor([4.0, 1.0, 0.1, 9.0, -1.0])
    assert strongest(neurons, out, 3).tolist() == [0, 1, 4]
    assert strongest(neurons, out, 9).tolist() == [0, 1, 2, 3, 4]


def test_a_gated_block_becomes_neurons_of_its_inputs_with_and_without_their_gates():
    trace = teacher_trace("modernbert")
    layer = student_layer(trace, intermediate_size=20)
    weights, activations = trace.weights(2), trace.activations(2)
    space = StudentSpace.from_states([activations.middle], 24)
    last_rows = layer.intermediate.dense.weight[18:].clone()
    _set_feed_forward(layer, weights, activations, space, activations.middle)
    inputs, gates = weights.neurons(activations.middle).chunk(2, dim=-1)
    chosen = strongest(activations.neurons, weights.feed_forward_output.weight, 6)
    expected = torch.cat([inputs[:, chosen] + sign * gates[:, chosen] for sign in (0, 1, -1)], dim=1)
    found = layer.intermediate.dense(activations.middle)
    torch.testing.assert_close(found[:, :18], expected, **TOLERANCE)
    assert torch.equal(layer.intermediate.dense.weight[18:], last_rows)
    assert layer.output.dense.weight.abs().max() == 0


# The whole layer


def test_a_layer_that_reads_what_the_teachers_reads_is_the_teachers():
    trace = teacher_trace()
    space = StudentSpace.from_states([trace.states[0]], 24)
    for number in (1, 2, 3):
        layer, theirs = student_layer(trace), trace.encoder.layers[number - 1]
        states = padded(trace.states[number - 1], trace.texts)
        returned = init_layer(layer, trace, number, space, states)
        for (name, one), (_, other) in zip(layer.named_parameters(), theirs.named_parameters(), strict=True):
            assert torch.equal(one, other), name
        torch.testing.assert_close(trace.texts.pack(returned), trace.states[number], **TOLERANCE)


@pytest.mark.parametrize("width", [16, 24])
def test_what_a_layer_reads_wrongly_is_corrected_as_far_as_it_can_be(width):
    """It reads noise, too; its answer is closer to the teacher's than the projected maps' is, on texts unseen."""
    trace, other = teacher_trace(), teacher_trace(texts=texts_of(*(6, 11, 8) * 6, seed=1))
    space = StudentSpace.from_states([trace.states[1], trace.states[2]], width)

    def entering(trace):
        source = torch.Generator().manual_seed(1)
        noise = torch.randn(24, 24, generator=torch.Generator().manual_seed(0)) * 0.1
        states = trace.states[1] + trace.states[1] @ noise
        return padded(space(states + torch.randn(states.shape, generator=source) * 0.1), trace.texts)

    fitted, plain = student_layer(trace, hidden_size=width), student_layer(trace, hidden_size=width)
    init_layer(fitted, trace, 2, space, entering(trace))
    init_layer(plain, trace, 2, space, padded(space(trace.states[1]), trace.texts))
    wanted = space(other.states[2])
    errors = [
        float((other.texts.pack(run_layer(layer, entering(other), other.texts)) - wanted).square().mean())
        for layer in (fitted, plain)
    ]
    assert errors[0] < 0.8 * errors[1]
    assert errors[0] < 0.6 * float((wanted - wanted.mean(0)).square().mean())


def test_each_fit_is_least_squares_of_what_the_layer_is_to_add():
    """Against the normal equations of the output maps, and of a norm; they start from the projected maps."""
    trace = teacher_trace()
    space = StudentSpace.from_states([trace.states[1], trace.states[2]], 16)
    layer = student_layer(trace, hidden_size=16, intermediate_size=24)
    states = padded(space(trace.states[1]), trace.texts)
    returned = trace.texts.pack(init_layer(layer, trace, 2, space, states))
    seen, maps = trace.activations(2), trace.weights(2)
    middles = [
        layer.attention(each, (~mask[:, None, None, :]).float() * -1e9)[0]
        for each, mask in zip(states, trace.texts.masks, strict=True)
    ]
    middle = trace.texts.pack(middles)
    neurons = layer.intermediate(middle)
    chosen = strongest(seen.neurons, maps.feed_forward_output.weight, 24)
    first = space.basis.T @ maps.feed_forward_output.weight[:, chosen]
    x = (neurons - neurons.mean(0)).double().numpy()
    dense = layer.output.dense
    wanted = space(seen.output_sum) - middle
    rest = (wanted - dense(neurons)).double().numpy()
    np.testing.assert_allclose(rest.mean(0), 0.0, atol=1e-4)
    penalty = RIDGE * x.var(0).mean()
    change = (dense.weight - first).double().numpy()
    assert np.abs(change).max() > 0.02
    np.testing.assert_allclose(rest.T @ x / len(x), penalty * change, atol=1e-4)
    # The norm's scale and shift are a regression of each feature.
    plain = layer_norm(middle + dense(neurons), (16,), eps=layer.output.LayerNorm.eps)
    error = returned - space(trace.states[2])
    torch.testing.assert_close(error.mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close((error * plain).mean(0), torch.zeros(16), rtol=0, atol=1e-4)


def test_at_the_teachers_width_idle_neurons_are_not_missed():
    teacher = tiny_models.model(auto=AutoModel)
    for layer in teacher.encoder.layer:
        layer.output.dense.weight[:, ::2] = 0
    trace = TeacherTrace(teacher, texts_of(), [2])
    layer = student_layer(trace, intermediate_size=20)
    space = StudentSpace.from_states([trace.states[0]], 24)
    states = padded(trace.activations(2).entering, trace.texts)
    returned = init_layer(layer, trace, 2, space, states)
    torch.testing.assert_close(trace.texts.pack(returned), trace.states[2], **TOLERANCE)
    assert torch.equal(layer.intermediate.dense.weight, teacher.encoder.layer[1].intermediate.dense.weight[1::2])


@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_a_layer_of_any_architecture_has_a_students_that_follows_it(family):
    """At the teacher's width, reading what the teacher reads: closer to it than what it reads, and than a constant."""
    trace = teacher_trace(family, texts=texts_of(*(7, 12, 4, 9) * 12))
    space = StudentSpace.from_states([trace.states[0]], 24)
    layer, states = student_layer(trace), padded(trace.activations(2).entering, trace.texts)
    found = trace.texts.pack(init_layer(layer, trace, 2, space, states))
    wanted = trace.states[2]
    error = (found - wanted).square().mean()
    assert error < 0.5 * (wanted - wanted.mean(0)).square().mean()
    assert error < 0.7 * (trace.states[1] - wanted).square().mean()


@pytest.mark.parametrize("size", ["same", "small"])
def test_the_layer_that_is_made_is_the_same_whatever_was_in_it(size):
    trace = teacher_trace()
    sizes = {} if size == "same" else {"hidden_size": 16, "intermediate_size": 56, "num_attention_heads": 2}
    space = StudentSpace.from_states([trace.states[1]], sizes.get("hidden_size", 24))
    layers = [student_layer(trace, **sizes) for _ in range(2)]
    for parameter in layers[1].parameters():
        parameter.normal_()
    for layer in layers:
        layer.attention.output.LayerNorm.reset_parameters()
        layer.output.LayerNorm.reset_parameters()
        init_layer(layer, trace, 2, space, padded(space(trace.states[1]), trace.texts))
    for (name, one), (_, other) in zip(*(each.named_parameters() for each in layers), strict=True):
        assert torch.equal(one, other), name


def test_a_layer_runs_as_in_its_model_and_does_not_see_padding():
    texts = texts_of(7, 3, 5)
    model = tiny_models.model(auto=AutoModel)
    states = model(**texts.chunks[0], output_hidden_states=True).hidden_states
    (found,) = run_layer(model.encoder.layer[1], [states[1]], texts)
    mask = texts.masks[0]
    torch.testing.assert_close(found[mask], states[2][mask], **TOLERANCE)
    changed = states[1].clone()
    changed[~mask] = 9.0
    (again,) = run_layer(model.encoder.layer[1], [changed], texts)
    torch.testing.assert_close(again[mask], found[mask], **TOLERANCE)
