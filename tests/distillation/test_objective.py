from __future__ import annotations

import factories
import numpy as np
import pytest
import references as ref
import tiny_models
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForTokenClassification

from hf_tinybert import LayerMapping, TinyBertConfig, create_student
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig, Step, Weights
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.phases import LEVELS
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.teacher.source import OnlineTeacher

ONES = {"embedding": 1.0, "hidden": 1.0, "attention": 1.0, "prediction": 1.0, "hard_label": 1.0}


def tiny_pair(auto=None, **overrides):
    """A student of two layers, 16 wide, and its teacher, without dropout."""
    kwargs = {} if auto is None else {"auto": auto}
    teacher = tiny_models.model(**kwargs, **overrides)
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 20, "initializer_range": 0.3}
    config = TinyBertConfig.from_teacher(teacher.config, **sizes)
    return tiny_models.undropped(create_student(teacher, config, init="random")), teacher


class Pair:
    """An objective with the teacher's signal."""

    def __init__(self, student, teacher, levels=ONES, layers=None, mapping="uniform", **changes):
        ours, theirs = Encoder.from_model(student), Encoder.from_model(teacher)
        mapping = LayerMapping.from_spec(mapping, ours.num_layers, theirs.num_layers)
        heads = HeadMatching.from_encoders("auto", ours, theirs, mapping)
        self.settings = ObjectiveConfig(mapping, Weights(levels, layers or {}), heads, OutputLoss(**changes))
        wanted = range(ours.num_layers + 1)
        projections = Projections(ours.hidden_size, theirs.hidden_size, wanted, shared=False)
        with torch.no_grad():
            for parameter in projections.parameters():
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        self.objective = DistillationObjective(student, ours, projections, self.settings)
        self.teacher = OnlineTeacher(teacher, set(mapping.values()), set(mapping.layers.values()))

    def __call__(self, batch, phase="joint", counts=None):
        levels = LEVELS[phase]
        features = self.teacher.features(batch, "hidden" in levels, "prediction" in levels)
        if counts is None:
            by_row = self.settings.prediction.counts_rows
            counts = BatchCounts.from_batches([batch], torch.device("cpu"), count_rows=by_row)
        return self.objective(**batch, step=Step(features, levels, counts))


def gradients(objective):
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


def labelled(batch, classes=3):
    rows = len(batch["input_ids"])
    return batch | {"labels": torch.arange(rows) % classes}


def test_a_step_is_for_one_forward_pass():
    pair, batch = Pair(*tiny_pair()), labelled(tiny_models.batch())
    features = pair.teacher.features(batch, intermediate=True, prediction=True)
    counts = BatchCounts.from_batches([batch], torch.device("cpu"))
    step = Step(features, LEVELS["joint"], counts)
    pair.objective(**batch, step=step)
    with pytest.raises(RuntimeError, match="make a Step for each forward pass"):
        pair.objective(**batch, step=step)


def test_hooks_come_back_with_a_phase_that_matches_layers():
    pair, batch = Pair(*tiny_pair()), labelled(tiny_models.batch())
    first = pair(batch)[1]
    pair.objective.start_phase(layers=False)
    assert tiny_models.hooks(pair.objective.student) == 0
    pair.objective.start_phase(layers=True)
    again = pair(batch)[1]
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)


def numbers(x):
    return x.detach().double().numpy()


def expected_parts(student, teacher, projections, mapping, batch):
    """All parts by the float64 references, from `output_hidden_states` and the query and key weights."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        ours, theirs = (m(**inputs, output_hidden_states=True) for m in (student, teacher))
    mask, heads, parts = numbers(batch["attention_mask"]), student.config.num_attention_heads, {}
    for layer, above in mapping.items():
        projected = projections(ours.hidden_states[layer], layer)
        name = f"hidden_{layer}" if layer else "embedding"
        parts[name] = ref.hidden(numbers(projected), numbers(theirs.hidden_states[above]), mask)
        if layer:
            tensors = []
            for model, states, at in ((student, ours, layer), (teacher, theirs, above)):
                module = model.base_model.encoder.layer[at - 1].attention.self
                tensors += [numbers(p(states.hidden_states[at - 1])) for p in (module.query, module.key)]
            parts[f"attention_{layer}"] = ref.attention(*tensors, heads, mask)
    parts["prediction"] = ref.soft_cross_entropy(numbers(ours.logits), numbers(theirs.logits))
    parts["hard_label"] = ref.cross_entropy(numbers(ours.logits), batch["labels"].tolist())
    return parts


def test_on_real_models_and_sentences_loss_and_parts_equal_the_references(teacher):
    student, batch = factories.small_student(teacher).train(), tiny_models.sentences(12, labels=True)
    levels = {"embedding": 0.5, "hidden": 2.0, "attention": 0.25, "prediction": 3.0, "hard_label": 0.125}
    pair = Pair(student, teacher, levels, layers={1: 4.0, 2: 0.5})
    loss, parts = pair(batch)
    expected = expected_parts(student, teacher, pair.objective.projections, pair.settings.mapping, batch)
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, rel=1e-3)
    assert not any(value.requires_grad for value in parts.values())
    factors = {1: 4.0, 2: 0.5}
    total = sum(
        levels[name.split("_")[0] if name != "hard_label" else name]
        * (factors[int(name[-1])] if name[-1].isdigit() else 1.0)
        * value
        for name, value in expected.items()
    )
    assert loss.item() == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_without_a_step_it_is_the_student_and_nothing_else(training, teacher):
    student = factories.small_student(teacher).train(training)
    batch = tiny_models.sentences(4, labels=True)
    alone = student(**batch)
    objective = Pair(student, teacher).objective.train(training)
    for step in ({}, {"step": None}):
        output = objective(**batch, **step)
        assert type(output) is type(alone)
        assert torch.equal(output.loss, alone.loss)
        assert torch.equal(output.logits, alone.logits)
    assert objective.config is student.config
    assert objective.num_parameters() == student.num_parameters()
    if hasattr(student, "floating_point_ops"):  # transformers 5 counts from the parameters instead
        assert objective.floating_point_ops(batch) == student.floating_point_ops(batch)


def test_its_parameters_are_the_students_and_the_projections():
    student, teacher = tiny_pair()
    objective = Pair(student, teacher).objective
    expected = [f"student.{name}" for name, _ in student.named_parameters()]
    expected += [f"projections.linear.{m}.{part}" for m in range(3) for part in ("weight", "bias")]
    assert sorted(name for name, _ in objective.named_parameters()) == sorted(expected)


def test_detaching_takes_the_hooks_off_and_hands_the_student_back():
    student, teacher = tiny_pair()
    before = tiny_models.hooks(student)
    pair = Pair(student, teacher)
    assert tiny_models.hooks(student) > before
    pair(labelled(tiny_models.batch()))
    assert pair.objective.detach() is student
    assert tiny_models.hooks(student) == before


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"levels": ONES | {"embedding": 0.0}}, {"embedding"}),
        ({"levels": ONES | {"hidden": 0.0}}, {"hidden_1", "hidden_2"}),
        ({"levels": ONES | {"attention": 0.0}}, {"attention_1", "attention_2"}),
        ({"levels": ONES | {"prediction": 0.0}}, {"prediction"}),
        ({"levels": ONES | {"hard_label": 0.0}}, {"hard_label"}),
        ({"layers": {1: 0.0}}, {"hidden_1", "attention_1"}),
        ({"mapping": "1:2"}, {"embedding", "hidden_2", "attention_2"}),
    ],
)
def test_a_weight_of_zero_or_no_entry_leaves_a_loss_out(changes, gone):
    student, teacher = tiny_pair()
    batch = labelled(tiny_models.batch())
    every = {"embedding", "hidden_1", "hidden_2", "attention_1", "attention_2", "prediction", "hard_label"}
    pair = Pair(student, teacher, **changes)
    loss, parts = pair(batch)
    assert set(parts) == every - gone
    assert loss.item() == pytest.approx(sum(v.item() for v in parts.values()), rel=1e-5)
    loss.backward()
    unused = {name for name, p in pair.objective.projections.named_parameters() if p.grad is None}
    levels = {"embedding": "0", "hidden_1": "1", "hidden_2": "2"}
    assert unused == {f"linear.{levels[n]}.{part}" for n in gone & set(levels) for part in ("weight", "bias")}


def test_the_phases_see_their_own_levels_and_the_intermediate_one_no_head():
    student, teacher = tiny_pair()
    pair, batch = Pair(student, teacher), labelled(tiny_models.batch())
    loss, parts = pair(batch, "intermediate")
    assert set(parts) == {"embedding", "hidden_1", "hidden_2", "attention_1", "attention_2"}
    loss.backward()
    found = gradients(pair.objective)
    assert not any("classifier" in name or "pooler" in name for name in found)
    for layer in student.bert.encoder.layer:
        assert all(p.grad is not None and p.grad.any() for p in layer.attention.self.query.parameters())
        assert layer.attention.self.key.weight.grad.any()
        assert layer.output.dense.weight.grad.any()
    pair.objective.zero_grad(set_to_none=True)
    loss, parts = pair(batch, "prediction")
    assert set(parts) == {"prediction", "hard_label"}
    loss.backward()
    found = gradients(pair.objective)
    assert found["student.classifier.weight"].any()
    assert not any(name.startswith("projections") for name in found)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("phase", ["intermediate", "prediction", "joint"])
def test_a_phase_without_a_weight_above_zero_is_an_error(phase):
    student, teacher = tiny_pair()
    with pytest.raises(ValueError, match=r"None of the levels .* has a weight above 0"):
        Pair(student, teacher, {})(labelled(tiny_models.batch()), phase)


def test_a_body_without_a_head_can_be_distilled():
    teacher = tiny_models.model(auto=AutoModel)
    student = tiny_models.model(auto=AutoModel, hidden_size=16, num_hidden_layers=2)
    loss, parts = Pair(student, teacher)(tiny_models.batch(), "intermediate")
    assert len(parts) == 5
    loss.backward()


def test_columns_that_are_not_the_students_are_dropped():
    student, teacher = tiny_pair()
    batch = tiny_models.batch()
    pair = Pair(student, teacher)
    loss, _ = pair(batch, "intermediate")
    more, _ = pair(batch | {"example_id": torch.arange(3), "labels": torch.tensor([0, 1, 99])}, "intermediate")
    assert torch.equal(loss, more)


# Shares of a global batch


def trimmed(batch, rows):
    """Some rows of a batch with no more padding than they need."""
    longest = int(batch["attention_mask"][rows].sum(-1).max())
    return {k: v[rows] if v.dim() == 1 else v[rows, :longest] for k, v in batch.items()}


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=7),
    st.integers(1, 6),
    st.integers(0, 99),
    st.booleans(),
)
def test_micro_batches_of_any_lengths_add_up_to_the_whole_batch(lengths, cut, seed, token_level):
    student, teacher = tiny_pair(AutoModelForTokenClassification) if token_level else tiny_pair()
    pair = Pair(student, teacher, {level: 1.0 + i for i, level in enumerate(ONES)}, {2: 0.5})
    batch = tiny_models.batch(lengths, seed)
    if token_level:
        labels = batch["input_ids"] % 3
        batch["labels"] = labels.masked_fill((batch["attention_mask"] == 0) | (batch["input_ids"] % 4 == 1), -100)
    else:
        batch = labelled(batch)
    whole, parts = pair(batch)
    whole.backward()
    expected = gradients(pair.objective)
    pair.objective.zero_grad(set_to_none=True)
    cut = min(cut, len(lengths) - 1)
    shares = [trimmed(batch, slice(0, cut)), trimmed(batch, slice(cut, None))]
    counts = BatchCounts.from_batches(shares, torch.device("cpu"))
    assert counts.shares == 2
    total, sums = 0.0, dict.fromkeys(parts, 0.0)
    for share in shares:
        loss, found = pair(share, counts=counts)
        (loss / 2).backward()
        total += loss.item() / 2
        for name, value in found.items():
            sums[name] += value.item()
    assert total == pytest.approx(whole.item(), rel=1e-4, abs=1e-5)
    assert sums == pytest.approx({name: value.item() for name, value in parts.items()}, rel=1e-4, abs=1e-5)
    found = gradients(pair.objective)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_padding_further_changes_neither_loss_nor_gradient():
    student, teacher = tiny_pair()
    pair, seen = Pair(student, teacher), []
    for width in (7, 11):
        pair.objective.zero_grad(set_to_none=True)
        loss, _ = pair(labelled(tiny_models.batch((7, 3, 5), width=width)))
        loss.backward()
        seen.append({"loss": loss.detach()} | gradients(pair.objective))
    for name, value in seen[0].items():
        torch.testing.assert_close(seen[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_counts_of_a_step():
    first, second = tiny_models.batch((4, 2)), tiny_models.batch((3,))
    del second["attention_mask"]
    first["labels"] = torch.tensor([1, -100])
    counts = BatchCounts.from_batches([first, second], torch.device("cpu"), longest=4, processes=3)
    assert (counts.sequences, counts.tokens, counts.pairs, counts.labels) == (3, 9, 29, 2)
    assert counts.shares == 6
    doubled = BatchCounts.from_batches([first], torch.device("cpu"), reduce=lambda total, reduction: 2 * total)
    assert (doubled.sequences, doubled.tokens, doubled.pairs, doubled.labels) == (4, 12, 40, 2)
    with pytest.raises(ValueError, match="4 tokens is longer than the 3 positions"):
        BatchCounts.from_batches([second, first], torch.device("cpu"), longest=3)


@pytest.mark.parametrize("form", ["bool", "int"])
def test_masks_of_any_type_count_alike(form):
    student, teacher = tiny_pair()
    batch = labelled(tiny_models.batch())
    plain, _ = Pair(student, teacher)(batch)
    batch["attention_mask"] = getattr(batch["attention_mask"], form)()
    loss, _ = Pair(student, teacher)(batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)


def test_the_authors_reduction_averages_over_micro_batches():
    student, teacher = tiny_pair()
    pair = Pair(student, teacher, ONES | {"hard_label": 0.0}, reduction="paper")
    batches = [labelled(tiny_models.batch((5, 2))), labelled(tiny_models.batch((3, 3), seed=1))]
    alone = [pair(batch)[0].item() for batch in batches]
    counts = BatchCounts.from_batches(batches, torch.device("cpu"))
    together = sum(pair(batch, counts=counts)[0].item() / 2 for batch in batches)
    assert together == pytest.approx(sum(alone) / 2, rel=1e-5)
    loss, _ = pair(batches[0], "prediction")
    ours, theirs = (numbers(m(**tiny_models.batch((5, 2))).logits) for m in (student, teacher))
    assert loss.item() == pytest.approx(ref.paper_soft_cross_entropy(ours, theirs), rel=1e-5)


# The prediction level


def test_temperature():
    student, teacher = tiny_pair()
    batch = tiny_models.batch()
    loss, _ = Pair(student, teacher, {"prediction": 1.0}, temperature=2.5)(batch, "prediction")
    ours, theirs = (numbers(m(**batch).logits) for m in (student, teacher))
    assert loss.item() == pytest.approx(ref.soft_cross_entropy(ours, theirs, 2.5), rel=1e-5)


@pytest.mark.parametrize(("reduction", "gold"), [("mean", False), ("paper", True)])
def test_regression_fits_the_teacher_or_as_in_the_authors_code_the_gold_value(reduction, gold):
    student, teacher = tiny_pair(num_labels=1)
    batch = tiny_models.batch() | {"labels": torch.tensor([0.5, -1.0, 2.0])}
    inputs = tiny_models.batch()
    pair = Pair(student, teacher, {"prediction": 1.0}, kind="regression", reduction=reduction)
    loss, _ = pair(batch, "prediction")
    target = batch["labels"] if gold else teacher(**inputs).logits[:, 0]
    assert loss.item() == pytest.approx(F.mse_loss(student(**inputs).logits[:, 0], target).item(), rel=1e-5)


def test_regressions_hard_label_is_the_squared_error():
    student, teacher = tiny_pair(num_labels=1)
    batch = tiny_models.batch() | {"labels": torch.tensor([0.5, -1.0, 2.0])}
    pair = Pair(student, teacher, {"hard_label": 1.0}, kind="regression")
    loss, _ = pair(batch, "prediction")
    expected = F.mse_loss(student(**tiny_models.batch()).logits[:, 0], batch["labels"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("with_labels", [True, False])
def test_token_level_logits_are_compared_where_there_is_a_label_or_a_token(with_labels):
    student, teacher = tiny_pair(AutoModelForTokenClassification)
    batch = tiny_models.batch()
    counted = batch["attention_mask"].bool()
    ours, theirs = (numbers(m(**batch).logits) for m in (student, teacher))
    levels = {"prediction": 1.0}
    if with_labels:
        counted = counted & (batch["input_ids"] % 3 != 0)
        batch["labels"] = torch.ones_like(batch["input_ids"]).masked_fill(~counted, -100)
        levels["hard_label"] = 1.0
    loss, parts = Pair(student, teacher, levels)(batch, "prediction")
    kept = counted.numpy()
    assert parts["prediction"].item() == pytest.approx(ref.soft_cross_entropy(ours[kept], theirs[kept]), rel=1e-5)
    if with_labels:
        expected = ref.cross_entropy(ours[kept], np.ones(kept.sum(), dtype=int).tolist())
        assert parts["hard_label"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(sum(value.item() for value in parts.values()), rel=1e-5)


def test_label_smoothing():
    student, teacher = tiny_pair()
    batch = labelled(tiny_models.batch())
    loss, _ = Pair(student, teacher, {"hard_label": 2.0}, label_smoothing=0.2)(batch, "prediction")
    logits = student(**tiny_models.batch()).logits
    expected = 2 * F.cross_entropy(logits, batch["labels"], label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["float", "long"])
def test_multi_label_hard_labels(kind):
    student, teacher = tiny_pair()
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    batch = tiny_models.batch() | {"labels": getattr(labels, kind)()}
    pair = Pair(student, teacher, {"hard_label": 1.0}, kind="multi_label_classification")
    loss, _ = pair(batch, "prediction")
    expected = F.binary_cross_entropy_with_logits(student(**tiny_models.batch()).logits, labels.float())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_function_of_ones_own_replaces_the_hard_label_loss():
    student, teacher = tiny_pair()
    calls = []

    def weighted(outputs, labels, num_items_in_batch=None):
        calls.append(num_items_in_batch)
        weight = torch.tensor([1.0, 5.0, 0.0])
        return F.cross_entropy(outputs.logits, labels, weight, reduction="sum") / num_items_in_batch

    batches = [labelled(tiny_models.batch((5, 2))), labelled(tiny_models.batch((3, 3, 4), seed=1))]
    counts = BatchCounts.from_batches(batches, torch.device("cpu"))
    pair = Pair(student, teacher, {"hard_label": 1.0}, hard_label_function=weighted)
    total = sum(pair(batch, "prediction", counts)[0].item() / 2 for batch in batches)
    expected = 0.0
    for batch in batches:
        labels = batch.pop("labels")
        losses = F.cross_entropy(student(**batch).logits, labels, reduction="none")
        expected += (losses * torch.tensor([1.0, 5.0, 0.0])[labels]).sum().item()
    assert total == pytest.approx(expected / 5, rel=1e-5)
    assert [int(count) for count in calls] == [5, 5]


def test_hard_labels_need_labels():
    student, teacher = tiny_pair()
    with pytest.raises(ValueError, match="batch has no labels"):
        Pair(student, teacher, {"hard_label": 1.0})(tiny_models.batch(), "prediction")


def test_a_model_without_logits_has_no_prediction_level():
    student, teacher = (tiny_models.model(auto=AutoModel) for _ in range(2))
    with pytest.raises(ValueError, match="The student has no logits for the prediction level to compare"):
        Pair(student, teacher)(tiny_models.batch(), "prediction")


def test_gradient_checkpointing_changes_no_gradient():
    seen = []
    for checkpointing in (False, True):
        student, teacher = tiny_pair()
        pair = Pair(student, teacher)
        if checkpointing:
            pair.objective.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert student.is_gradient_checkpointing
        loss, _ = pair(labelled(tiny_models.batch()))
        loss.backward()
        seen.append({"loss": loss.detach()} | gradients(pair.objective))
    assert seen[0].keys() == seen[1].keys()
    for name, value in seen[0].items():
        torch.testing.assert_close(seen[1][name], value, rtol=1e-5, atol=1e-6, msg=name)
