"""Every loss and its gradient against the float64 references; masks, padding, forms and bad shapes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import references as ref
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tinybert import losses
from hf_tinybert.losses import kernels, reductions

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3))
FEW = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 2))


def batch(seed, sequences, positions, widths, padded=True):
    """Random arrays `[B, S, width]` and a mask with at least one real position in each row."""
    random = np.random.default_rng(seed)
    mask = np.ones((sequences, positions))
    if padded:
        for row, length in enumerate(random.integers(1, positions + 1, sequences)):
            mask[row, length:] = 0
    return [random.normal(size=(sequences, positions, width)) for width in widths], mask


def tensor(array):
    return torch.tensor(array, dtype=torch.float32)


def check(loss, reference, arrays, tolerance=1e-5, gradient_tolerance=1e-4):
    """Compare a loss and its gradient in the first array with a reference."""
    first = tensor(arrays[0]).requires_grad_(True)
    value = loss(first, *map(tensor, arrays[1:]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference(*arrays), rel=tolerance, abs=tolerance)
    value.backward()
    numeric = ref.gradient(lambda x: reference(x, *arrays[1:]), arrays[0].copy())
    np.testing.assert_allclose(first.grad.numpy(), numeric, rtol=gradient_tolerance, atol=gradient_tolerance)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 10_000))
def test_vector_loss_and_gradient(rows, width, seed):
    random = np.random.default_rng(seed)
    arrays = [random.normal(size=(rows, width)) + 0.5 for _ in range(2)]
    check(losses.vector_loss, ref.vectors, arrays, gradient_tolerance=1e-3)
    student, teacher = map(tensor, arrays)
    total = losses.vector_loss(student, teacher, reduction="sum")
    assert total.item() == pytest.approx(rows * ref.vectors(*arrays), rel=1e-4, abs=1e-5)
    longer = losses.vector_loss(3 * student, 0.5 * teacher)
    assert longer.item() == pytest.approx(ref.vectors(*arrays), rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="vector_loss: the shapes must be the same"):
        losses.vector_loss(student, teacher[:, 1:])


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_hidden_loss_and_gradient(shape, seed):
    arrays, mask = batch(seed, shape[0], shape[1], [4, 4])
    check(lambda s, t: losses.hidden_loss(s, t, tensor(mask)), lambda s, t: ref.hidden(s, t, mask), arrays)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_embedding_loss_is_the_same_function(shape, seed):
    arrays, mask = batch(seed, shape[0], shape[1], [3, 3])
    check(lambda s, t: losses.embedding_loss(s, t, tensor(mask)), lambda s, t: ref.hidden(s, t, mask), arrays)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 10_000), st.sampled_from(["auto", "linear", "map"]), st.booleans(), st.booleans())
def test_attention_loss_and_gradient_in_query_and_key(shape, seed, form, by_key, centred):
    heads = shape[2]
    (q_s, k_s, q_t, k_t), mask = batch(seed, shape[0], shape[1], [heads * 2, heads * 2, heads * 3, heads * 3])

    def loss(x, y, u, v):
        q, k = (y, x) if by_key else (x, y)
        return losses.attention_loss(q, k, u, v, heads, tensor(mask), form=form, centred=centred)

    def reference(x, y, u, v):
        q, k = (y, x) if by_key else (x, y)
        return ref.attention(q, k, u, v, heads, mask, centred=centred)

    arrays = [k_s, q_s, q_t, k_t] if by_key else [q_s, k_s, q_t, k_t]
    check(loss, reference, arrays, tolerance=1e-4, gradient_tolerance=1e-3)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("form", ["linear", "map"])
def test_a_teacher_that_learns_has_a_gradient_too(form, centred):
    (q_s, k_s, q_t, k_t), mask = batch(6, 2, 5, [4, 4, 6, 6])
    how = {"form": form, "centred": centred}
    check(
        lambda x, *others: losses.attention_loss(*others[:2], x, others[2], 2, tensor(mask), **how),
        lambda x, *others: ref.attention(*others[:2], x, others[2], 2, mask, centred=centred),
        [q_t, q_s, k_s, k_t],
        gradient_tolerance=1e-3,
    )
    check(
        lambda x, *others: losses.attention_loss(*others, x, 2, tensor(mask), **how),
        lambda x, *others: ref.attention(*others, x, 2, mask, centred=centred),
        [k_t, q_s, k_s, q_t],
        gradient_tolerance=1e-3,
    )


def test_a_teacher_that_learns_has_a_gradient_of_hidden_states_too():
    arrays, mask = batch(6, 2, 5, [4, 4])
    check(lambda t, s: losses.hidden_loss(s, t, tensor(mask)), lambda t, s: ref.hidden(s, t, mask), arrays)


def test_second_derivatives_are_refused_where_there_are_none():
    x, y = torch.randn(1, 4, 2, requires_grad=True), torch.randn(1, 4, 2)
    for value in (
        losses.hidden_loss(x, y),
        losses.attention_loss(x, x, y, y, 1, form="linear"),
        losses.attention_loss(x, x, y, y, 1, form="map"),
    ):
        (gradient,) = torch.autograd.grad(value.square(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            gradient.sum().backward()


def test_padding_is_none_where_that_is_known_without_a_wait():
    assert reductions.padding_of(None, (2, 3)) is None
    assert reductions.padding_of(torch.ones(2, 3), (2, 3)) is None
    some = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert reductions.padding_of(some, (2, 3)).tolist() == [[False, False, True], [False, True, True]]
    elsewhere = reductions.padding_of(torch.ones(2, 3, device="meta"), (2, 3))
    assert (elsewhere.device.type, elsewhere.dtype) == ("meta", torch.bool)


def test_the_form_of_fewer_operations_is_taken():
    """S (w + 2 n) against 2 w (w + n) multiplications, n of the student's width and w of both together."""

    def linear(positions, student, teacher):
        return kernels.linear_is_cheaper(torch.zeros(1, 1, positions, student), torch.zeros(1, 1, positions, teacher))

    assert [linear(positions, 2, 3) for positions in (7, 8)] == [False, True]
    assert [linear(positions, 1, 1) for positions in (2, 3, 4)] == [False, True, True]
    assert [linear(positions, 26, 64) for positions in (147, 148)] == [False, True]


@settings(max_examples=25, deadline=None)
@given(FEW, st.integers(0, 10_000), st.sampled_from([None, 0, 1, 2, 10]), *[st.booleans()] * 3)
def test_attention_loss_with_biases_and_windows(shape, seed, window, student_biased, teacher_biased, centred):
    heads = shape[2]
    (q_s, k_s, q_t, k_t), mask = batch(seed, shape[0], shape[1], [heads * 2, heads * 2, heads * 3, heads * 3])
    random = np.random.default_rng(seed)
    bias_s, bias_t = random.normal(size=(2, shape[0], heads, shape[1], shape[1]))

    def loss(q_s, bias):
        return losses.attention_loss(
            q_s,
            tensor(k_s),
            tensor(q_t),
            tensor(k_t),
            heads,
            tensor(mask),
            student_bias=bias if student_biased else None,
            teacher_bias=tensor(bias_t) if teacher_biased else None,
            window=window,
            centred=centred,
        )

    def reference(q_s, bias):
        biases = (bias if student_biased else None, bias_t if teacher_biased else None)
        return ref.attention(q_s, k_s, q_t, k_t, heads, mask, *biases, window, centred)

    check(loss, reference, [q_s, bias_s])
    if student_biased:
        check(lambda bias, q: loss(q, bias), lambda bias, q: reference(q, bias), [bias_s, q_s])


def test_the_linear_form_is_refused_where_it_does_not_hold():
    tensors = [torch.randn(2, 9, 4) for _ in range(4)]
    bias = torch.zeros(2, 2, 9, 9)
    for refused in ({"window": 3}, {"window": 7}, {"student_bias": bias}, {"teacher_bias": bias}):
        with pytest.raises(ValueError, match="attention_loss: the linear form does not hold with a bias or a window"):
            losses.attention_loss(*tensors, 2, form="linear", **refused)
    wide = losses.attention_loss(*tensors, 2, form="linear", window=8)
    torch.testing.assert_close(wide, losses.attention_loss(*tensors, 2))


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_relation_loss_and_gradient(shape, seed):
    heads = shape[2]
    arrays, mask = batch(seed, shape[0], shape[1], [heads * 2, heads * 5])
    check(
        lambda s, t: losses.relation_loss(s, t, heads, tensor(mask)),
        lambda s, t: ref.relation(s, t, heads, mask),
        arrays,
    )


def test_relations_of_all_rows_and_summed():
    arrays, mask = batch(2, 3, 6, [4, 6])
    ours, theirs = map(tensor, arrays)
    mean = ref.relation(*arrays, 2, mask)
    total = losses.relation_loss(ours, theirs, 2, tensor(mask), "sum").item()
    assert total == pytest.approx(mean * mask.sum(), rel=1e-5)
    # Padding attends to real positions too, so its rows count where all rows do.
    rows = [losses.relation_loss(ours[[b]], theirs[[b]], 2, tensor(mask[[b]]), "paper").item() for b in range(3)]
    assert losses.relation_loss(ours, theirs, 2, tensor(mask), "paper").item() == pytest.approx(
        np.mean(rows), rel=1e-5
    )
    unmasked = ref.relation(*arrays, 2, np.ones_like(mask))
    assert losses.relation_loss(ours, theirs, 2).item() == pytest.approx(unmasked, rel=1e-5)
    assert losses.relation_loss(ours, theirs, 2, None, "paper").item() == pytest.approx(unmasked, rel=1e-5)
    short = int(mask.sum(1).min())
    assert 0 < short < 6
    row = int(mask.sum(1).argmin())
    alone = losses.relation_loss(ours[[row]], theirs[[row]], 2, tensor(mask[[row]]), "paper").item()
    expected = 0.0
    for head in range(2):
        p, q = (ref._softmax(ref._scores(x[row], x[row, :short], head, 2)) for x in arrays[::-1])
        expected += np.sum(p * (np.log(p) - np.log(q))) / 2 / 6
    assert alone == pytest.approx(expected, rel=1e-5)


def test_padding_may_hold_nan_in_relations_and_biases_too():
    (q_s, k_s, q_t, k_t), mask = batch(0, 2, 5, [4, 4, 6, 6])
    bias = np.random.default_rng(0).normal(size=(2, 2, 5, 5))
    expected = losses.attention_loss(*map(tensor, (q_s, k_s, q_t, k_t)), 2, tensor(mask), student_bias=tensor(bias))
    outside = (mask[:, None, :, None] * mask[:, None, None, :]) == 0
    bias = np.where(outside, np.nan, bias)
    found = losses.attention_loss(*map(tensor, (q_s, k_s, q_t, k_t)), 2, tensor(mask), student_bias=tensor(bias))
    assert torch.equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from([None, 0, 1, 3, 20]), st.integers(0, 10_000))
def test_real_pairs_are_counted_one_by_one(rows, positions, window, seed):
    mask = np.random.default_rng(seed).integers(0, 2, (rows, positions))
    expected = sum(
        bool(row[i] and row[j]) and (window is None or abs(i - j) <= window)
        for row in mask
        for i in range(positions)
        for j in range(positions)
    )
    assert losses.real_pairs(torch.tensor(mask), window).item() == expected


def test_temperature_is_one_and_labels_are_not_smoothed_unless_asked_for():
    student, teacher = np.random.default_rng(1).normal(size=(2, 3, 4)) * 2
    ours, theirs = tensor(student), tensor(teacher)
    labels = torch.tensor([0, 3, 1])
    assert losses.soft_cross_entropy(ours, theirs).item() == pytest.approx(ref.soft_cross_entropy(student, teacher))
    assert losses.soft_binary_cross_entropy(ours, theirs).item() == pytest.approx(
        ref.soft_binary_cross_entropy(student, teacher)
    )
    assert losses.hard_label_loss(ours, labels).item() == pytest.approx(ref.cross_entropy(student, labels.tolist()))
    student, teacher = np.random.default_rng(2).normal(size=(2, 3, 5, 2)) * 2
    ours, theirs, every = tensor(student), tensor(teacher), np.ones((3, 5))
    assert losses.span_cross_entropy(ours, theirs).item() == pytest.approx(
        ref.span_cross_entropy(student, teacher, every)
    )
    assert losses.span_label_loss(ours, labels, labels + 1).item() == pytest.approx(
        ref.span_label(student, labels.tolist(), (labels + 1).tolist(), every)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_cross_entropy_and_gradient(temperature):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(5, 7)), random.normal(size=(5, 7)) * 3]
    check(
        lambda s, t: losses.soft_cross_entropy(s, t, temperature),
        lambda s, t: ref.soft_cross_entropy(s, t, temperature),
        arrays,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_binary_cross_entropy_and_gradient(temperature):
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 4)) * 2
    check(
        lambda s, t: losses.soft_binary_cross_entropy(s, t, temperature),
        lambda s, t: ref.soft_binary_cross_entropy(s, t, temperature),
        [student, teacher],
    )
    plain = losses.soft_binary_cross_entropy(tensor(student), tensor(teacher), temperature, "paper")
    assert plain.item() * temperature**2 == pytest.approx(
        ref.soft_binary_cross_entropy(student, teacher, temperature), rel=1e-5
    )


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0]))
def test_span_cross_entropy_and_gradient(shape, seed, temperature):
    arrays, mask = batch(seed, shape[0], shape[1], [2, 2])
    check(
        lambda s, t: losses.span_cross_entropy(s, t, temperature, tensor(mask)),
        lambda s, t: ref.span_cross_entropy(s, t, mask, temperature),
        arrays,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_span_label_loss_and_gradient(smoothing):
    (logits,), mask = batch(4, 3, 6, [2])
    lengths = mask.sum(1).astype(int)
    start, end = np.zeros(3, dtype=int), lengths - 1
    start[1] = 6  # transformers' mark of an answer outside this part of the text
    start[2] = -1
    check(
        lambda x: losses.span_label_loss(x, torch.tensor(start), torch.tensor(end), tensor(mask), smoothing),
        lambda x: ref.span_label(x, start, end, mask, smoothing),
        [logits],
    )
    every, last = np.ones_like(mask), np.full(3, 5)
    check(
        lambda x: losses.span_label_loss(x, torch.tensor(start), torch.tensor(last), None, smoothing, "sum"),
        lambda x: 3 * ref.span_label(x, start, last, every, smoothing),
        [logits],
    )


def test_regression_loss_and_gradient():
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(6, 1)), random.normal(size=(6, 1))]
    check(losses.regression_loss, ref.paper_hidden, arrays)
    flat = losses.regression_loss(tensor(arrays[0]), tensor(arrays[1][:, 0]))
    assert flat.item() == pytest.approx(ref.paper_hidden(*arrays), rel=1e-5)
    with pytest.raises(ValueError, match=r"hidden_loss: the shapes must be the same, got \(6, 2\) and \(6,\)\."):
        losses.regression_loss(torch.zeros(6, 2), torch.zeros(6))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_label_loss_and_gradient(smoothing):
    random = np.random.default_rng(0)
    labels = np.array([0, 2, -100, 1])
    check(
        lambda x: losses.hard_label_loss(x, torch.tensor(labels), label_smoothing=smoothing),
        lambda x: ref.cross_entropy(x, labels, smoothing),
        [random.normal(size=(4, 3))],
    )


def test_hard_label_loss_of_multi_label_and_regression():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(4, 3)), random.integers(0, 2, (4, 3)).astype(float)
    value = losses.hard_label_loss(tensor(logits), tensor(labels), "multi_label_classification")
    assert value.item() == pytest.approx(ref.binary_cross_entropy(logits, labels), rel=1e-5)
    total = losses.hard_label_loss(tensor(logits), tensor(labels), "multi_label_classification", reduction="sum")
    assert total.item() == pytest.approx(4 * ref.binary_cross_entropy(logits, labels), rel=1e-5)
    value = losses.hard_label_loss(tensor(logits), tensor(labels), "regression")
    assert value.item() == pytest.approx(ref.paper_hidden(logits, labels), rel=1e-5)
    total = losses.hard_label_loss(tensor(logits), tensor(labels), "regression", reduction="sum")
    assert total.item() == pytest.approx(4 * ref.paper_hidden(logits, labels), rel=1e-5)
    with pytest.raises(ValueError, match="unknown problem_type 'ranking'"):
        losses.hard_label_loss(tensor(logits), tensor(labels), "ranking")


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_paper_reduction_of_every_level(shape, seed):
    heads = shape[2]
    widths = [heads * 2, heads * 2, heads * 3, heads * 3, 4, 4]
    (q_s, k_s, q_t, k_t, h_s, h_t), mask = batch(seed, shape[0], shape[1], widths)
    check(lambda s, t: losses.hidden_loss(s, t, tensor(mask), "paper"), ref.paper_hidden, [h_s, h_t])
    check(
        lambda *x: losses.attention_loss(*x, heads, tensor(mask), "paper"),
        lambda *x: ref.paper_attention(*x, heads, mask),
        [q_s, k_s, q_t, k_t],
    )
    check(
        lambda s, t: losses.soft_cross_entropy(s, t, 2.0, reduction="paper"),
        lambda s, t: ref.paper_soft_cross_entropy(s, t, 2.0),
        [h_s[:, 0], h_t[:, 0]],
    )


@pytest.mark.parametrize("window", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("biased", [(), (0,), (1,), (0, 1)])
def test_paper_reduction_of_attention_with_biases_and_windows(window, biased):
    arrays, mask = batch(7, 2, 4, [4, 4, 6, 6])
    made = np.random.default_rng(7).normal(size=(2, 2, 2, 4, 4))
    biases = [made[side] if side in biased else None for side in (0, 1)]
    given = dict(zip(("student_bias", "teacher_bias"), (b if b is None else tensor(b) for b in biases), strict=True))
    check(
        lambda *x: losses.attention_loss(*x, 2, tensor(mask), "paper", window=window, **given),
        lambda *x: ref.paper_attention(*x, 2, mask, biases, window),
        arrays,
    )


@pytest.mark.parametrize(("score", "kept"), [(-99.5, -99.5), (-100.0, 0.0), (-100.5, 0.0), (-99.0, -99.0)])
def test_paper_reduction_takes_scores_of_minus_100_for_masked_ones(score, kept):
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    assert losses.attention_loss(one * score, one, zero, zero, 1, reduction="paper").item() == kept**2


def test_paper_reduction_lowers_padding_by_ten_thousand():
    query, key = torch.ones(1, 2, 1), torch.tensor([[[0.0], [9950.0]]])
    found = losses.attention_loss(query, key, query * 0, key * 0, 1, torch.tensor([[1, 0]]), "paper")
    assert found.item() == 2 * 50.0**2 / 4


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.integers(0, 10_000), st.integers(1, 5), st.sampled_from(["auto", "linear", "map"]), st.booleans())
def test_more_padding_changes_neither_loss_nor_gradient(shape, seed, more, form, centred):
    heads = shape[2]
    arrays, mask = batch(seed, shape[0], shape[1], [heads * 2, heads * 2, heads * 3, heads * 3])
    results = []
    for extra in (0, more):
        # Padding holds huge values: whatever leaks shows.
        padded = [np.pad(a, ((0, 0), (0, extra), (0, 0)), constant_values=1e4) for a in arrays]
        wide = tensor(np.pad(mask, ((0, 0), (0, extra))))
        inputs = [tensor(a) for a in padded]
        for x in inputs[:2]:
            x.requires_grad_(True)
        value = losses.attention_loss(*inputs, heads, wide, form=form, centred=centred)
        hidden = losses.hidden_loss(inputs[0], inputs[0].detach() * 0.5, wide)
        (value + hidden).backward()
        results.append((value.item(), hidden.item(), *(x.grad[:, : shape[1]].numpy() for x in inputs[:2])))
        assert all(torch.count_nonzero(x.grad[:, shape[1] :]) == 0 for x in inputs[:2])
    for before, after in zip(*results, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_padding_may_even_hold_nan():
    hidden = torch.tensor([[[1.0], [float("nan")]]], requires_grad=True)
    loss = losses.hidden_loss(hidden, torch.zeros(1, 2, 1), torch.tensor([[1, 0]]))
    loss.backward()
    assert loss.item() == 1.0
    assert hidden.grad.flatten().tolist() == [2.0, 0.0]


@pytest.mark.parametrize("window", [None, 1])
def test_what_the_softmax_ignores_may_differ_in_centred_scores(window):
    """A bias of the keys adds the same number to a row's scores."""
    (queries, keys), mask = batch(3, 2, 5, [4, 4])
    queries, keys, mask = tensor(queries), tensor(keys), tensor(mask)
    shifted = keys + torch.tensor([30.0, -20.0, 10.0, 5.0])
    found = losses.attention_loss(queries, keys, queries, shifted, 2, mask, window=window, centred=True)
    assert float(found) == pytest.approx(0.0, abs=1e-8)
    assert float(losses.attention_loss(queries, keys, queries, shifted, 2, mask, window=window)) > 10.0


@pytest.mark.parametrize("length", [16, 128, 512])
def test_the_two_forms_of_the_attention_loss_agree_at_real_sizes(length):
    generator = torch.Generator().manual_seed(0)
    q_s, k_s = (torch.randn(2, length, 312, generator=generator, requires_grad=True) for _ in range(2))
    q_t, k_t = (torch.randn(2, length, 768, generator=generator) for _ in range(2))
    mask = torch.ones(2, length)
    mask[1, length // 2 :] = 0
    values, gradients = [], []
    for form in ("linear", "map"):
        value = losses.attention_loss(q_s, k_s, q_t, k_t, 12, mask, form=form)
        gradients.append(torch.autograd.grad(value, (q_s, k_s)))
        values.append(value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    for linear, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(linear, plain, rtol=1e-3, atol=1e-6 * plain.abs().max().item() + 1e-9)


def test_sums_over_micro_batches_make_the_mean():
    (hidden, target), mask = batch(1, 6, 5, [4, 4])
    whole = losses.hidden_loss(tensor(hidden), tensor(target), tensor(mask))
    parts = [
        losses.hidden_loss(tensor(hidden[i : i + 2]), tensor(target[i : i + 2]), tensor(mask[i : i + 2]), "sum")
        for i in (0, 2, 4)
    ]
    assert sum(parts).item() / mask.sum() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_under_autocast_are_summed_in_float32(dtype):
    (q_s, k_s, q_t, k_t), mask = batch(3, 2, 8, [8, 8, 12, 12])
    inputs = [tensor(a).to(dtype) for a in (q_s, k_s, q_t, k_t)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.attention_loss(*inputs, 4, tensor(mask))
    exact = ref.attention(*(x.double().numpy() for x in inputs), 4, mask)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: losses.hidden_loss(x, y),
            "hidden_loss: the shapes must be the same, got (2, 3, 4) and (2, 3, 6).",
        ),
        (
            lambda x, y: losses.hidden_loss(x, x, torch.ones(2, 2)),
            "The mask's shape (2, 2) does not fit the positions (2, 3).",
        ),
        (lambda x, y: losses.attention_loss(x, y, x, x, 2), "attention_loss (student's query and key): the shapes"),
        (lambda x, y: losses.attention_loss(x, x, x, y, 2), "attention_loss (teacher's query and key): the shapes"),
        (lambda x, y: losses.attention_loss(x, x, x, x, 5), "with 5 heads, got (2, 3, 4)."),
        (lambda x, y: losses.attention_loss(x, x, y[..., :5], y[..., :5], 2), "with 2 heads, got (2, 3, 5)."),
        (lambda x, y: losses.attention_loss(*[x[0]] * 4, 2), "with 2 heads, got (3, 4)."),
        (lambda x, y: losses.attention_loss(*[x[None]] * 4, 2), "with 2 heads, got (1, 2, 3, 4)."),
        (
            lambda x, y: losses.attention_loss(x, x, y[:, :2], y[:, :2], 2),
            "attention_loss: student and teacher have different positions, (2, 3) and (2, 2).",
        ),
        (
            lambda x, y: losses.relation_loss(x, y[:, :2], 2),
            "relation_loss: student and teacher have different positions, (2, 3) and (2, 2).",
        ),
        (lambda x, y: losses.relation_loss(x, y, 4), "with 4 heads, got (2, 3, 6)."),
        (
            lambda x, y: losses.attention_loss(x, x, x, x, 2, form="fast"),
            "attention_loss: form is 'auto', 'linear' or 'map', got 'fast'.",
        ),
        (lambda x, y: losses.hidden_loss(x, x, reduction="max"), "reduction is 'mean', 'sum' or 'paper', got 'max'."),
        (lambda x, y: losses.soft_cross_entropy(x, y), "soft_cross_entropy: the shapes must be the same"),
        (
            lambda x, y: losses.soft_binary_cross_entropy(x, y),
            "soft_binary_cross_entropy: the shapes must be the same",
        ),
        (lambda x, y: losses.span_cross_entropy(x, y), "span_cross_entropy: the shapes must be the same"),
        *(
            (
                lambda x, y, loss=loss, temperature=temperature: getattr(losses, loss)(x, x, temperature),
                f"{loss}: the temperature must be positive, got {temperature}.",
            )
            for loss in ("soft_cross_entropy", "soft_binary_cross_entropy", "span_cross_entropy")
            for temperature in (0.0, -0.5, float("nan"))
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(torch.zeros(2, 3, 4), torch.zeros(2, 3, 6))


def test_an_empty_batch_of_labels_gives_zero_not_nan():
    value = losses.hard_label_loss(torch.zeros(2, 3), torch.tensor([-100, -100]))
    assert value.item() == 0.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=0, max_size=3), st.integers(1, 6), st.integers(0, 10_000))
def test_agreement_and_divergence_of_the_teacher_from_the_student(shape, classes, seed):
    student, teacher = np.random.default_rng(seed).normal(size=(2, *shape, classes)) * 3
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (teacher, student))
    agreement, divergence = losses.agreement_and_kl(tensor(student), tensor(teacher))
    assert agreement.shape == divergence.shape == tuple(shape)
    np.testing.assert_array_equal(agreement.numpy(), student.argmax(-1) == teacher.argmax(-1))
    np.testing.assert_allclose(divergence.numpy(), (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-5)


def test_agreement_and_divergence_in_half_precision_are_float32_and_of_impossible_classes_finite():
    lowest = torch.finfo(torch.float32).min
    student, teacher = torch.tensor([[1.0, 2.0, lowest]]), torch.tensor([[2.0, 1.0, lowest]])
    agreement, divergence = losses.agreement_and_kl(student, teacher)
    expected = losses.agreement_and_kl(student[:, :2], teacher[:, :2])[1]
    assert agreement.tolist() == [0.0]
    torch.testing.assert_close(divergence, expected)
    half = losses.agreement_and_kl(student[:, :2].bfloat16(), teacher[:, :2].bfloat16())
    assert [each.dtype for each in half] == [torch.float32] * 2
    torch.testing.assert_close(half[1], expected)
