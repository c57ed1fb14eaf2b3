from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_tinybert.student.linear_fit import Affine, fit_layer_norm, least_squares, refit, refit_validated

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def tensor(array):
    return torch.tensor(array, dtype=torch.float32)


def rows(seed, count=40, size=5, outputs=3, noise=1.0):
    """Inputs that are not centred and are correlated, what is wanted of them, and a map to start from."""
    source = np.random.default_rng(seed)
    inputs = source.normal(size=(count, size)) @ source.normal(size=(size, size)) + source.normal(size=size)
    wanted = inputs @ source.normal(size=(size, outputs)) + source.normal(size=outputs)
    wanted += noise * source.normal(size=wanted.shape)
    return inputs, wanted, Affine(tensor(source.normal(size=(outputs, size))), tensor(source.normal(size=outputs)))


def penalised(inputs, wanted, weight, penalty):
    """Least squares with a penalty on the distance from a weight, which is written out as further rows; free bias."""
    mean, middle = inputs.mean(0), wanted.mean(0)
    root = np.sqrt(penalty) * np.eye(inputs.shape[1])
    solution = np.linalg.lstsq(
        np.concatenate([inputs - mean, root]), np.concatenate([wanted - middle, root @ weight.T]), rcond=None
    )[0]
    return solution.T, middle - mean @ solution


def test_an_affine_map_is_made_changed_and_written():
    linear, without = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
    x, basis, offset = torch.randn(2, 5, 4), torch.randn(4, 2), torch.randn(4)
    affine, after = Affine.from_linear(linear), torch.randn(6, 3)
    torch.testing.assert_close(affine(x), linear(x))
    torch.testing.assert_close(Affine.from_linear(without)(x), without(x))
    assert Affine.from_linear(linear.bfloat16()).weight.dtype == torch.float32
    torch.testing.assert_close(affine.rows(torch.tensor([2, 0]))(x), affine(x)[..., [2, 0]])
    torch.testing.assert_close(affine.rows(slice(1, 3))(x), affine(x)[..., 1:])
    torch.testing.assert_close(affine.then(after)(x), affine(x) @ after.T)
    torch.testing.assert_close(affine.scaled(-0.5)(x), -0.5 * affine(x))
    small = torch.randn(7, 2)
    torch.testing.assert_close(affine.after(basis, offset)(small), affine(small @ basis.T + offset))


def test_a_map_fills_the_first_rows_and_columns_of_a_larger_layer():
    layer, affine = nn.Linear(6, 5), Affine(torch.randn(3, 4), torch.randn(3))
    before = [p.detach().clone() for p in layer.parameters()]
    with torch.no_grad():
        affine.write(layer)
    assert torch.equal(layer.weight[:3, :4], affine.weight)
    assert torch.equal(layer.bias[:3], affine.bias)
    assert torch.equal(layer.weight[3:], before[0][3:])
    assert torch.equal(layer.weight[:, 4:], before[0][:, 4:])
    assert torch.equal(layer.bias[3:], before[1][3:])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 9999), st.integers(4, 60), st.sampled_from([1e-3, 1e-2, 1.0]))
def test_a_refit_is_least_squares_with_a_penalty_on_the_change(seed, count, ridge):
    inputs, wanted, start = rows(seed, count)
    variance = inputs.var(axis=0).mean()
    expected = penalised(inputs, wanted, start.weight.double().numpy(), ridge * variance * count)
    found = refit(start, tensor(inputs), tensor(wanted), ridge)
    scale = max(np.abs(expected[0]).max(), 1.0)
    np.testing.assert_allclose(found.weight.numpy(), expected[0], atol=2e-3 * scale)
    np.testing.assert_allclose(found.bias.numpy(), expected[1], atol=2e-3 * scale * max(np.abs(inputs).max(), 1.0))


def test_a_refit_has_a_penalty_of_its_own_unless_told():
    inputs, wanted, start = rows(1)
    arguments = start, tensor(inputs), tensor(wanted)
    assert torch.equal(refit(*arguments).weight, refit(*arguments, 0.3).weight)
    assert not torch.allclose(refit(*arguments).weight, refit(*arguments, 0.02).weight, atol=1e-4)


@pytest.mark.parametrize("fit", [refit, refit_validated])
def test_a_start_that_is_right_stays_as_it_is(fit):
    inputs, _, start = rows(2)
    inputs = tensor(inputs)
    wanted = start(inputs)
    assert fit(start, inputs, wanted) is start
    assert fit(start, inputs, wanted + 3e-6 * wanted.abs().max()) is start
    other = fit(start, inputs, wanted + 1e-3 * wanted.abs().max())
    torch.testing.assert_close(
        other.bias - start.bias, torch.full((3,), 1e-3 * float(wanted.abs().max())), rtol=0.05, atol=1e-4
    )


@pytest.mark.parametrize("fit", [refit, refit_validated])
def test_inputs_that_never_change_move_the_bias_alone(fit):
    _, wanted, start = rows(3)
    inputs, wanted = torch.tensor([2.0, -1.0, 0.5, 0.0, 4.0]).expand(40, -1), tensor(wanted)
    found = fit(start, inputs, wanted)
    torch.testing.assert_close(found.weight, start.weight)
    torch.testing.assert_close(found(inputs), wanted.mean(0).expand(40, -1))


def errors_when_left_out(inputs, wanted, start):
    """Of each penalty, the mean squared error at each row of the map that is fitted to the others."""
    count = len(inputs)
    found = []
    for ridge in RIDGES:
        penalty = ridge * inputs.var(axis=0).mean() * count
        errors = []
        for row in range(count):
            kept = np.arange(count) != row
            weight, bias = penalised(inputs[kept], wanted[kept], start, penalty)
            errors.append(np.square(inputs[row] @ weight.T + bias - wanted[row]))
        found.append(np.mean(errors))
    return np.array(found)


def chosen(found, inputs, wanted, start):
    """The penalty whose fit was returned."""
    variance = inputs.var(axis=0).mean()
    distances = [
        np.abs(penalised(inputs, wanted, start, ridge * variance * len(inputs))[0] - found.weight.numpy()).max()
        for ridge in RIDGES
    ]
    assert min(distances) < 2e-3
    return int(np.argmin(distances))


def test_the_penalty_is_the_one_that_predicts_rows_best_which_were_left_out():
    taken = set()
    for seed, (count, noise) in enumerate([(12, 0.01), (12, 1.0), (12, 4.0), (12, 30.0), (7, 100.0), (30, 0.2)]):
        inputs, wanted, start = rows(seed, count, noise=noise)
        first = start.weight.double().numpy()
        errors = errors_when_left_out(inputs, wanted, first)
        found = refit_validated(start, tensor(inputs), tensor(wanted))
        index = chosen(found, inputs, wanted, first)
        assert errors[index] <= errors.min() * (1 + 1e-3)
        taken.add(index)
        np.testing.assert_allclose(found(tensor(inputs)).mean(0).numpy(), wanted.mean(0), atol=2e-3 * max(noise, 1))
    assert len(taken) > 2


def test_where_the_rows_say_nothing_a_validated_fit_moves_less():
    source, moved = torch.Generator().manual_seed(0), []
    for _ in range(20):
        inputs, noise = (torch.randn(12, size, generator=source) for size in (10, 1))
        start = Affine(torch.randn(1, 10, generator=source), torch.zeros(1))
        arguments = start, inputs, start(inputs) + noise
        fits = refit_validated(*arguments), refit(*arguments, ridge=0.01)
        moved.append([float((found.weight - start.weight).square().sum()) for found in fits])
    validated, plain = np.mean(moved, axis=0)
    assert validated < 0.4 * plain


def test_least_squares_finds_an_affine_map():
    source = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(*size, generator=source) for size in ((200, 6), (4, 6), (4,)))
    inputs = inputs * 3 + 5
    found = least_squares(inputs, inputs @ weight.T + bias)
    torch.testing.assert_close(found.weight, weight, rtol=0, atol=1e-2)
    torch.testing.assert_close(found(inputs), inputs @ weight.T + bias, rtol=0, atol=1e-2)


def test_least_squares_is_regularised_towards_a_constant():
    inputs, wanted, _ = rows(4)
    for ridge in (1e-4, 0.5):
        penalty = ridge * inputs.var(axis=0).mean() * len(inputs)
        weight, bias = penalised(inputs, wanted, np.zeros((3, 5)), penalty)
        given = () if ridge == 1e-4 else (ridge,)
        found = least_squares(tensor(inputs), tensor(wanted), *given)
        np.testing.assert_allclose(found.weight.numpy(), weight, atol=1e-3)
        np.testing.assert_allclose(found.bias.numpy(), bias, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 40), st.integers(2, 6))
def test_a_norms_scales_and_shifts_are_a_regression_of_each_feature(seed, count, size):
    source = np.random.default_rng(seed)
    inputs, wanted = source.normal(size=(count, size)) * 2 + 1, source.normal(size=(count, size)) + 3
    norm = nn.LayerNorm(size, eps=1e-6)
    with torch.no_grad():
        outputs = fit_layer_norm(norm, tensor(inputs), tensor(wanted))
        torch.testing.assert_close(outputs, norm(tensor(inputs)))
    plain = (inputs - inputs.mean(-1, keepdims=True)) / np.sqrt(inputs.var(-1, keepdims=True) + 1e-6)
    for feature in range(size):
        if plain[:, feature].std() < 0.05:
            continue
        x = np.stack([plain[:, feature], np.ones(count)], axis=1)
        scale, shift = np.linalg.lstsq(x, wanted[:, feature], rcond=None)[0]
        assert norm.weight[feature].item() == pytest.approx(scale, rel=1e-2, abs=1e-2)
        assert norm.bias[feature].item() == pytest.approx(shift, rel=1e-2, abs=1e-2)


def test_a_norm_that_is_right_stays_as_it_is():
    norm, inputs = nn.LayerNorm(6), torch.randn(30, 6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
        before = norm.weight.clone(), norm.bias.clone()
        fit_layer_norm(norm, inputs, norm(inputs))
    assert torch.equal(norm.weight, before[0])
    assert torch.equal(norm.bias, before[1])
