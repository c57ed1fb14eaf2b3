from __future__ import annotations

import copy

import factories
import numpy as np
import pytest
import tiny_models
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer, BertModel

from hf_tinybert import LayerMapping, create_student
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.models.loading import fingerprint
from hf_tinybert.student import teacher_init
from hf_tinybert.student.projection_init import offered


@pytest.mark.parametrize("name", tiny_models.AUTO_CLASSES)
def test_a_copy_of_the_same_size_answers_like_the_teacher(name):
    teacher = tiny_models.model(auto=getattr(transformers, name), num_labels=2)
    student = create_student(teacher, tiny_models.same_size_config(teacher))
    batch = tiny_models.batch()
    if "MultipleChoice" in name:
        batch = {key: value[None] for key, value in batch.items()}
    for ours, theirs in zip(student(**batch).to_tuple(), teacher(**batch).to_tuple(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["roberta", "electra"])
def test_a_copy_of_another_familys_layers_sees_what_the_teacher_sees(family):
    teacher = tiny_models.model(family)
    student = create_student(teacher, tiny_models.same_size_config(teacher))
    batch = tiny_models.batch((6, 6))
    torch.testing.assert_close(
        student.base_model(**batch).last_hidden_state, teacher.base_model(**batch)[0], rtol=1e-5, atol=1e-5
    )


def test_at_the_teachers_width_the_mapped_layers_are_copied(teacher):
    sizes = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 192}
    student = create_student(teacher, factories.student_config(teacher, **sizes), layer_mapping="0:0,1:1,2:2,3:4")
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name, value in ours.items():
        pieces = name.split(".")
        if "layer" in pieces:
            at = pieces.index("layer") + 1
            pieces[at] = {"0": "0", "1": "1", "2": "3"}[pieces[at]]
        assert torch.equal(value, theirs[".".join(pieces)]), name
    assert offered(student) == {}


def intermediate_loss(student, teacher, batch, projections):
    """Hidden and attention loss, from `output_hidden_states` and the weights, without the package's capture."""
    hidden, attention = [], []
    kept = batch["attention_mask"].bool()
    for ours, theirs, states, targets in matched_states(student, teacher, batch):
        projected = states[ours] @ projections[f"{ours}.weight"].T + projections[f"{ours}.bias"]
        hidden.append((projected - targets[theirs])[kept].square().mean())
        if ours:
            pairs = kept[:, None, :, None] & kept[:, None, None, :]
            difference = scores(student, ours, states) - scores(teacher, theirs, targets)
            attention.append((difference.square() * pairs).sum() / pairs.sum() / difference.shape[1])
    return sum(hidden).item(), sum(attention).item()


def matched_states(student, teacher, batch):
    mapping = LayerMapping.uniform(student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    with torch.no_grad():
        both = [m.base_model(**batch, output_hidden_states=True).hidden_states for m in (student, teacher)]
    return [(ours, theirs, *both) for ours, theirs in mapping.items()]


def best_projections(student, teacher, batch):
    kept, found = batch["attention_mask"].bool(), {}
    for ours, theirs, states, targets in matched_states(student, teacher, batch):
        x = torch.cat([states[ours][kept], torch.ones(int(kept.sum()), 1)], dim=1).double()
        solution = torch.linalg.lstsq(x, targets[theirs][kept].double()).solution.float()
        found |= {f"{ours}.weight": solution[:-1].T, f"{ours}.bias": solution[-1]}
    return found


def scores(model, layer, states):
    module = model.base_model.encoder.layer[layer - 1].attention.self
    heads = model.config.num_attention_heads
    q, k = (p(states[layer - 1]).unflatten(-1, (heads, -1)).transpose(1, 2) for p in (module.query, module.key))
    return q @ k.mT / q.shape[-1] ** 0.5


def padded(tokenizer, texts):
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def assert_starts_close(teacher, shape, train, test):
    """Closer than random weights; having seen texts, closer still, also than random weights' best projections."""
    random = create_student(teacher, shape, init="random")
    layers = range(random.config.num_hidden_layers + 1)
    drawn = Projections(random.config.hidden_size, teacher.config.hidden_size, layers, shared=False)
    drawn = {name.removeprefix("linear."): value.detach() for name, value in drawn.state_dict().items()}
    random_hidden, random_attention = intermediate_loss(random, teacher, test, drawn)
    fitted_hidden, _ = intermediate_loss(random, teacher, test, best_projections(random, teacher, train))

    untold = create_student(teacher, shape)
    hidden, attention = intermediate_loss(untold, teacher, test, offered(untold))
    assert hidden < 0.7 * random_hidden
    assert attention < 0.75 * random_attention

    told = create_student(teacher, shape, calibration=train | {"labels": torch.zeros(len(train["input_ids"]))})
    told_hidden, told_attention = intermediate_loss(told, teacher, test, offered(told))
    assert told_hidden < 0.8 * fitted_hidden
    assert told_hidden < 0.8 * hidden
    assert told_attention < 0.6 * random_attention
    assert told_attention < attention


def test_a_narrower_student_starts_close_to_the_teacher(teacher):
    train, test = tiny_models.sentences(128, "train"), tiny_models.sentences(64)
    assert_starts_close(teacher, factories.student_config(teacher), train, test)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tinybert-4l-312d", "tinybert-3l-192d"])
def test_a_preset_of_a_large_teacher_starts_close_to_it(preset, minilm):
    teacher, tokenizer = AutoModel.from_pretrained(minilm).eval(), AutoTokenizer.from_pretrained(minilm)
    texts = factories.requests(384)
    assert_starts_close(teacher, preset, padded(tokenizer, texts[:256]), padded(tokenizer, texts[256:]))


def test_starting_from_the_teacher_leaves_the_teacher_alone(teacher):
    before, hooks = fingerprint(teacher), tiny_models.hooks(teacher)
    config = copy.deepcopy(teacher.config.to_dict())
    teacher.train()
    create_student(teacher, factories.student_config(teacher), calibration=tiny_models.sentences(4))
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert (fingerprint(teacher), tiny_models.hooks(teacher)) == (before, hooks)
    assert teacher.config.to_dict() == config


@pytest.mark.parametrize("make", [tiny_models.small_config, tiny_models.same_size_config])
def test_a_teacher_in_bfloat16_makes_a_student_in_float32(make):
    teacher = tiny_models.model().to(torch.bfloat16)
    student = create_student(teacher, make(teacher))
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in student.parameters())


def test_other_heads_at_the_teachers_width_are_reduced():
    teacher = tiny_models.model()
    student = create_student(teacher, tiny_models.same_size_config(teacher, num_attention_heads=2))
    assert student.config.num_attention_heads == 2
    assert all(p.isfinite().all() for p in student.parameters())
    assert set(offered(student)) == {f"{m}.{part}" for m in range(4) for part in ("weight", "bias")}


def test_more_layers_or_positions_than_the_teacher():
    teacher = tiny_models.model()
    with pytest.raises(ValueError, match="1 to 3 layers"):
        create_student(teacher, tiny_models.small_config(teacher, num_hidden_layers=4))
    with pytest.raises(ValueError, match="81 positions, more than the teacher's 80"):
        create_student(teacher, tiny_models.small_config(teacher, max_position_embeddings=81))


def test_a_teacher_without_numbers_is_refused():
    teacher = tiny_models.model()
    with torch.no_grad():
        teacher.bert.encoder.layer[1].output.dense.bias[3] = torch.nan
    with pytest.raises(ValueError, match="weights are not all finite"):
        create_student(teacher, tiny_models.small_config(teacher))


@pytest.mark.parametrize(
    ("family", "overrides"), [("distilbert", {}), ("electra", {"embedding_size": 12})], ids=["names", "embeddings"]
)
@pytest.mark.parametrize("make", [tiny_models.small_config, tiny_models.same_size_config])
def test_an_architecture_it_cannot_start_from_is_named(family, overrides, make):
    teacher = tiny_models.model(family, **overrides)
    with pytest.raises(ValueError, match="init='random'"):
        create_student(teacher, make(teacher))
    assert type(create_student(teacher, make(teacher), init="random").base_model) is BertModel


# The parts


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999), st.sampled_from([16, 20]))
def test_scores_and_values_are_the_best_that_a_smaller_head_can_give(seed, width):
    teacher = tiny_models.model(auto=AutoModel, seed=seed)
    student = AutoModel.from_config(tiny_models.small_config(teacher, hidden_size=width).to_bert_config())
    old, new = (m.encoder.layer[0].attention for m in (teacher, student))
    with torch.no_grad():
        for part in (old.self.query, old.self.key, old.self.value):
            part.bias.normal_()
        basis = torch.linalg.qr(torch.randn(24, width)).Q
        seen = torch.randn(80, width)
        entering = seen @ basis.T
        teacher_init._reduce_attention(new, old, basis, torch.zeros(24), entering, teacher.config, student.config)
        wide, narrow = (
            {part: getattr(m.self, part)(x) for part in ("query", "key", "value")}
            for m, x in ((old, entering), (new, seen))
        )
        size = width // 4
        for head in range(4):
            at, into = slice(head * 6, (head + 1) * 6), slice(head * size, (head + 1) * size)
            scores = wide["query"][:, at] @ wide["key"][:, at].T / 6**0.5
            assert_best(narrow["query"][:, into] @ narrow["key"][:, into].T / size**0.5, scores, size)
            values = wide["value"][:, at] @ old.output.dense.weight[:, at].T @ basis
            assert_best(narrow["value"][:, into] @ new.output.dense.weight[:, into].T, values, size)


def assert_best(found, wanted, rank):
    """As close to the wanted matrix as any of this rank (Eckart and Young)."""
    least = torch.linalg.svdvals(wanted)[rank:].square().sum().sqrt()
    assert (wanted - found).norm() <= 1.02 * least + 1e-3 * wanted.norm()


def test_the_neurons_that_contribute_most_are_kept_in_order():
    neurons = torch.ones(10, 5) * torch.tensor([1.0, 3.0, 2.0, 0.0, 5.0])
    out = torch.ones(2, 5) * torch.tensor([4.0, 1.0, 0.1, 9.0, 1.0])
    assert teacher_init._strongest(neurons, out, 3).tolist() == [0, 1, 4]
    assert teacher_init._strongest(neurons, out, 9).tolist() == [0, 1, 2, 3, 4]


def test_the_neurons_that_stay_take_over_what_the_others_did():
    """Against least squares with the penalty written out as further rows."""
    rng = np.random.default_rng(0)
    neurons = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1
    weight, bias, kept = rng.normal(size=(5, 12)), rng.normal(size=5), np.array([0, 3, 4, 9])
    centred = neurons - neurons.mean(axis=0)
    ridge = teacher_init._RIDGE * centred[:, kept].var(axis=0).mean()
    rows = np.concatenate([centred[:, kept], np.sqrt(ridge * 200) * np.eye(4)])
    goal = np.concatenate([centred @ weight.T, np.sqrt(ridge * 200) * weight[:, kept].T])
    expected = np.linalg.lstsq(rows, goal, rcond=None)[0].T
    fitted, shift = teacher_init._without(*(torch.from_numpy(value) for value in (neurons, kept, weight, bias)))
    np.testing.assert_allclose(fitted.numpy(), expected, rtol=1e-8)
    # On average the layer says what it said, and closer to it than with the others cut off.
    outputs, whole = neurons[:, kept] @ expected.T + shift.numpy(), neurons @ weight.T + bias
    np.testing.assert_allclose(outputs.mean(axis=0), whole.mean(axis=0), rtol=1e-8)
    cut_off = neurons[:, kept] @ weight[:, kept].T + bias
    assert np.square(outputs - whole).mean() < np.square(cut_off - whole).mean()


def test_at_the_teachers_width_idle_neurons_are_not_missed():
    teacher = tiny_models.model()
    size = teacher.config.intermediate_size
    for layer in teacher.base_model.encoder.layer:
        layer.output.dense.weight.data[:, ::2] = 0
    config = tiny_models.same_size_config(teacher)
    config.intermediate_size = size // 2
    student = create_student(teacher, config)
    batch = tiny_models.batch((6, 6))
    ours, theirs = student.base_model(**batch).last_hidden_state, teacher.base_model(**batch).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_least_squares_finds_an_affine_map():
    inputs, weight, bias = torch.randn(200, 6) * 3 + 5, torch.randn(4, 6), torch.randn(4)
    found, offset = teacher_init._least_squares(inputs, inputs @ weight.T + bias)
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-2)
    torch.testing.assert_close(inputs @ found.T + offset, inputs @ weight.T + bias, rtol=0, atol=1e-2)


def test_of_more_heads_than_the_student_keeps_and_of_a_calibration_batch_with_padding_alone_in_a_row():
    teacher = tiny_models.model()
    batch = tiny_models.batch((7, 1, 5))
    student = create_student(teacher, tiny_models.small_config(teacher, num_attention_heads=2), calibration=batch)
    assert all(p.isfinite().all() for p in student.parameters())


def test_padding_the_calibration_batch_further_changes_nothing():
    teacher = tiny_models.model()
    weights = []
    for width in (7, 12):
        torch.manual_seed(0)
        batch = tiny_models.batch((7, 3, 5) * 8, width=width)
        student = create_student(teacher, tiny_models.small_config(teacher), calibration=batch)
        with torch.no_grad():
            weights.append(student(**tiny_models.batch()).logits)
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-3)


def test_the_same_teacher_makes_the_same_student_whatever_the_random_state():
    teacher, answers = tiny_models.model(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        student = create_student(teacher, tiny_models.small_config(teacher))
        with torch.no_grad():
            answers.append(student(**tiny_models.batch()).logits)
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-4)


def test_a_narrower_masked_language_model_starts_with_a_head_that_answers(masked_lm_folder):
    teacher = transformers.AutoModelForMaskedLM.from_pretrained(masked_lm_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(masked_lm_folder)
    texts = factories.requests(64)
    seen, unseen = padded(tokenizer, texts[:48]), padded(tokenizer, texts[48:])
    student = create_student(teacher, "tinybert-4l-312d", calibration=seen)
    with torch.no_grad():
        ours, theirs = (model(**unseen).logits.argmax(-1) for model in (student, teacher))
    inner = (unseen["attention_mask"].cumsum(1) > 1) & (unseen["input_ids"] != tokenizer.sep_token_id)
    inner &= unseen["attention_mask"].bool()
    assert (ours == theirs)[inner].float().mean() > 0.7


def test_a_heads_layer_norm_is_not_carried_into_a_narrower_space():
    """It scales directions of its own, which a basis mixes; at the teacher's width it is copied."""
    teacher = tiny_models.model(auto=transformers.AutoModelForMaskedLM)
    norm = teacher.cls.predictions.transform.LayerNorm
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    narrow, wide = (
        create_student(teacher, config, calibration=tiny_models.batch()).cls.predictions.transform.LayerNorm
        for config in (tiny_models.small_config(teacher), tiny_models.same_size_config(teacher))
    )
    assert narrow.weight.tolist() == [1.0] * 16
    assert narrow.bias.tolist() == [0.0] * 16
    assert torch.equal(wide.weight, norm.weight)
    assert torch.equal(wide.bias, norm.bias)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 999), st.integers(1, 6))
def test_the_students_view_is_the_leading_principal_components(seed, size):
    """Of the states of the embeddings and of the mapped layers together; what is left out is as little as can be."""
    source = np.random.default_rng(seed)
    spread = source.normal(size=(7, 7)) * np.logspace(0, -1, 7)
    hidden = {layer: torch.tensor(source.normal(size=(40, 7)) @ spread + layer) for layer in range(4)}
    trace = teacher_init._Trace(hidden=hidden, attended={}, neurons={})
    view = teacher_init._View.from_trace(trace, LayerMapping({0: 0, 1: 1, 2: 3}), size)
    states = np.concatenate([hidden[layer].numpy() for layer in (0, 1, 3)])
    np.testing.assert_allclose(view.mean, states.mean(0), atol=1e-12)
    centred = states - states.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    seen = centred @ view.basis.numpy()
    np.testing.assert_allclose((seen**2).sum(0), values[:size], rtol=1e-9)
    np.testing.assert_allclose(view.basis.T @ view.basis, np.eye(size), atol=1e-12)
    outside = view.offset(view.mean)
    np.testing.assert_allclose(view.basis.T @ outside, np.zeros(size), atol=1e-12)
    np.testing.assert_allclose(outside + view.basis @ (view.basis.T @ view.mean), view.mean, atol=1e-12)
