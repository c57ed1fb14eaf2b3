"""What each kind of head says, and its soft and hard loss against the float64 references."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import references as ref
import tiny_models
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMultipleChoice,
)
from transformers.utils import ModelOutput

from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.models.output_types import (
    LABELS,
    MULTI_LABEL,
    OF_ROWS,
    REGRESSION,
    SINGLE_LABEL,
    SPANS,
    TOKENS,
    VECTORS,
    logits_of,
    output_type,
)

pytestmark = pytest.mark.also_transformers("4.57")

#: Numbers that no loss of a batch below is a mean over by accident.
COUNTS = BatchCounts(*map(torch.tensor, (11.0, 13.0, 17.0, 19.0)), shares=1)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def arrays(*shape, count=2):
    return np.random.default_rng(5).normal(size=(count, *shape)) * 2


def tensors(*values):
    return [torch.tensor(value, dtype=torch.float32) for value in values]


def close(found, expected):
    assert (found.dtype, found.shape) == (torch.float32, ())
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("auto", "changes", "kind"),
    [
        (AutoModelForQuestionAnswering, {}, SPANS),
        (AutoModelForTokenClassification, {}, TOKENS),
        (AutoModelForMaskedLM, {}, TOKENS),
        (AutoModel, {}, VECTORS),
        (AutoModel, {"problem_type": MULTI_LABEL}, VECTORS),
        (AutoModelForTokenClassification, {"num_labels": 1}, TOKENS),
        (AutoModelForSequenceClassification, {"num_labels": 1}, REGRESSION),
        (AutoModelForSequenceClassification, {"num_labels": 2}, SINGLE_LABEL),
        (AutoModelForSequenceClassification, {"num_labels": 1, "problem_type": MULTI_LABEL}, MULTI_LABEL),
        (AutoModelForSequenceClassification, {"num_labels": 3, "problem_type": MULTI_LABEL}, MULTI_LABEL),
        (AutoModelForSequenceClassification, {"num_labels": 3, "problem_type": REGRESSION}, REGRESSION),
    ],
)
def test_the_kind_is_that_of_the_head(auto, changes, kind):
    assert output_type(tiny_models.model(auto=auto, **changes)) == kind


def test_a_class_that_no_auto_class_knows_is_a_classifier():
    class OfTheirOwn(BertForMultipleChoice):
        pass

    assert output_type(OfTheirOwn(tiny_models.config())) == SINGLE_LABEL
    assert output_type(OfTheirOwn(tiny_models.config(num_labels=1))) == REGRESSION


def test_names_of_kinds_are_those_of_transformers_and_rows_have_one_answer():
    assert (SINGLE_LABEL, MULTI_LABEL) == ("single_label_classification", "multi_label_classification")
    assert (REGRESSION, TOKENS, SPANS, VECTORS) == ("regression", "tokens", "spans", "vectors")
    assert set(OF_ROWS) == {SINGLE_LABEL, MULTI_LABEL, REGRESSION, VECTORS}
    assert LABELS == ("labels", "start_positions", "end_positions")


def test_what_a_model_says_is_among_its_outputs():
    batch = tiny_models.batch()
    with torch.no_grad():
        answers = tiny_models.model(auto=AutoModelForQuestionAnswering, num_labels=2)(**batch)
        said = logits_of(answers)
        assert said.shape == (3, 7, 2)
        assert torch.equal(said[..., 0], answers.start_logits)
        assert torch.equal(said[..., 1], answers.end_logits)
        classes = tiny_models.model()(**batch)
        assert logits_of(classes) is classes.logits
        encoded = tiny_models.model(auto=AutoModel)(**batch)
    assert logits_of(encoded, batch["attention_mask"]) is None
    hidden, mask = encoded.last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    torch.testing.assert_close(
        logits_of(encoded, batch["attention_mask"], "mean"), (hidden * mask).sum(1) / mask.sum(1)
    )
    torch.testing.assert_close(logits_of(encoded, None, "mean"), hidden.mean(1))
    assert torch.equal(logits_of(encoded, batch["attention_mask"], "cls"), hidden[:, 0])


def test_defaults_are_plain_classification_and_nothing_is_changed_later():
    prediction = OutputLoss()
    assert prediction == OutputLoss(SINGLE_LABEL, 1.0, "mean", 0.0, None, None)
    with pytest.raises(FrozenInstanceError):
        prediction.temperature = 2.0


@pytest.mark.parametrize("kind", [SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKENS, SPANS, VECTORS])
def test_several_labels_and_spans_count_rows(kind):
    assert OutputLoss(kind).counts_rows is (kind in ("multi_label_classification", "spans"))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("kind", "reference", "classes"),
    [
        (SINGLE_LABEL, ref.soft_cross_entropy, 4),
        (MULTI_LABEL, ref.soft_binary_cross_entropy, 4),
        (REGRESSION, lambda student, teacher, _: ref.paper_hidden(student, teacher), 1),
        (VECTORS, lambda student, teacher, _: ref.vectors(student, teacher), 4),
    ],
)
def test_soft_loss_of_rows_is_a_sum_over_them(kind, reference, classes, temperature):
    student, teacher = arrays(3, classes)
    inputs = {"attention_mask": torch.tensor(MASK), "labels": torch.tensor([0, -100, 1])}
    value, count = OutputLoss(kind, temperature).soft(*tensors(student, teacher), inputs, COUNTS)
    close(value, 3 * reference(student, teacher, temperature))
    assert count is COUNTS.sequences


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_loss_of_spans_is_over_real_positions(temperature):
    student, teacher = arrays(3, 5, 2)
    inputs = {"attention_mask": torch.tensor(MASK)}
    value, count = OutputLoss(SPANS, temperature).soft(*tensors(student, teacher), inputs, COUNTS)
    close(value, 3 * ref.span_cross_entropy(student, teacher, MASK, temperature))
    assert count is COUNTS.sequences


def test_soft_loss_of_tokens_is_over_labelled_positions_and_without_labels_over_real_ones():
    student, teacher = arrays(3, 5, 4)
    mask = torch.tensor(MASK)
    labels = torch.tensor([[0, -100, 2, -100, 1], [3, 0, -100, -100, -100], [-100] * 5])
    found = OutputLoss(TOKENS, 2.0).soft(
        *tensors(student, teacher), {"attention_mask": mask, "labels": labels}, COUNTS
    )
    for (value, count), chosen, wanted in (
        (found, (labels != -100).numpy(), COUNTS.labels),
        (
            OutputLoss(TOKENS, 2.0).soft(*tensors(student, teacher), {"attention_mask": mask}, COUNTS),
            MASK > 0,
            COUNTS.tokens,
        ),
        (OutputLoss(TOKENS, 2.0).soft(*tensors(student, teacher), {}, COUNTS), MASK >= 0, COUNTS.tokens),
    ):
        close(value, chosen.sum() * ref.soft_cross_entropy(student[chosen], teacher[chosen], 2.0))
        assert count is wanted


def test_the_authors_reduction_is_a_mean_as_their_code_takes_it():
    student, teacher = arrays(3, 4)
    value, _ = OutputLoss(temperature=2.0, reduction="paper").soft(*tensors(student, teacher), {}, COUNTS)
    close(value, ref.paper_soft_cross_entropy(student, teacher, 2.0))
    value, _ = OutputLoss(MULTI_LABEL, 2.0, "paper").soft(*tensors(student, teacher), {}, COUNTS)
    close(value, ref.soft_binary_cross_entropy(student, teacher, 2.0) / 4)
    value, _ = OutputLoss(VECTORS, reduction="paper").soft(*tensors(student, teacher), {}, COUNTS)
    close(value, ref.vectors(student, teacher))
    student, teacher = arrays(3, 5, 2)
    inputs = {"attention_mask": torch.tensor(MASK)}
    value, _ = OutputLoss(SPANS, 2.0, "paper").soft(*tensors(student, teacher), inputs, COUNTS)
    close(value, ref.span_cross_entropy(student, teacher, MASK, 2.0) / 4)


def test_the_authors_regress_on_gold_values_where_there_are_any():
    student, teacher = arrays(3, 1)
    gold = torch.tensor([2, 0, 1])
    paper, mean = OutputLoss(REGRESSION, reduction="paper"), OutputLoss(REGRESSION)
    close(
        paper.soft(*tensors(student, teacher), {"labels": gold}, COUNTS)[0], np.mean((student[:, 0] - [2, 0, 1]) ** 2)
    )
    close(paper.soft(*tensors(student, teacher), {}, COUNTS)[0], ref.paper_hidden(student, teacher))
    close(mean.soft(*tensors(student, teacher), {"labels": gold}, COUNTS)[0], 3 * ref.paper_hidden(student, teacher))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hard_loss_is_this_shares_part_of_the_mean(smoothing):
    logits, other = arrays(3, 4)
    labels = np.array([2, -100, 0])
    rows = OutputLoss(label_smoothing=smoothing)
    close(
        rows.hard(*tensors(logits), {"labels": torch.tensor(labels)}, COUNTS),
        2 / 19 * ref.cross_entropy(logits, labels, smoothing),
    )
    of_tokens = OutputLoss(TOKENS, label_smoothing=smoothing)
    flat = np.array([[2, -100, 0], [1, 1, -100]])
    close(
        of_tokens.hard(*tensors(np.stack((logits, other))), {"labels": torch.tensor(flat)}, COUNTS),
        4 / 19 * ref.cross_entropy(np.concatenate((logits, other)), flat.ravel(), smoothing),
    )
    spans = arrays(3, 5, 2, count=1)[0]
    start, end = np.array([0, 1, 5]), np.array([4, 2, 0])
    gold = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
    inputs = gold | {"attention_mask": torch.tensor(MASK)}
    close(
        OutputLoss(SPANS, label_smoothing=smoothing).hard(*tensors(spans), inputs, COUNTS),
        3 / 19 * ref.span_label(spans, start, end, MASK, smoothing),
    )
    close(
        OutputLoss(SPANS, label_smoothing=smoothing).hard(*tensors(spans), gold, COUNTS),
        3 / 19 * ref.span_label(spans, start, end, np.ones_like(MASK), smoothing),
    )


def test_hard_loss_of_several_labels_and_of_values():
    logits, _ = arrays(3, 4)
    several = np.random.default_rng(0).integers(0, 2, (3, 4))
    close(
        OutputLoss(MULTI_LABEL).hard(*tensors(logits), {"labels": torch.tensor(several)}, COUNTS),
        3 / 19 * ref.binary_cross_entropy(logits, several),
    )
    close(
        OutputLoss(REGRESSION).hard(*tensors(logits[:, :1]), {"labels": torch.tensor([0.5, 2.0, -1.0])}, COUNTS),
        np.sum((logits[:, 0] - [0.5, 2.0, -1.0]) ** 2) / 19,
    )


def test_a_batch_without_a_labelled_row_has_no_hard_loss():
    empty = BatchCounts(*torch.zeros(4), shares=1)
    value = OutputLoss().hard(torch.randn(2, 3), {"labels": torch.tensor([-100, -100])}, empty)
    assert value.item() == 0.0


@pytest.mark.parametrize(
    ("kind", "inputs", "missing"),
    [
        (SINGLE_LABEL, {}, "labels"),
        (SINGLE_LABEL, {"labels": None}, "labels"),
        (TOKENS, {"start_positions": torch.zeros(2), "end_positions": torch.zeros(2)}, "labels"),
        (SPANS, {"labels": torch.zeros(2)}, "start_positions and end_positions"),
        (SPANS, {"start_positions": torch.zeros(2)}, "start_positions and end_positions"),
        (SPANS, {"end_positions": torch.zeros(2)}, "start_positions and end_positions"),
    ],
)
def test_a_hard_loss_without_labels_says_which_are_missing(kind, inputs, missing):
    with pytest.raises(ValueError) as caught:
        OutputLoss(kind).hard(torch.zeros(2, 3, 2), inputs, COUNTS)
    assert str(caught.value) == f"hard_label_weight is above 0, but the batch has no {missing}."


def test_a_function_of_the_users_own_is_called_as_the_trainer_would():
    asked = []

    def function(output, labels, num_items_in_batch):
        asked.append((output, labels, num_items_in_batch))
        return torch.tensor(42.0)

    logits, labels = torch.randn(2, 3), torch.tensor([0, 1])
    assert OutputLoss(hard_label_function=function).hard(logits, {"labels": labels}, COUNTS).item() == 42.0
    ((output, given, count),) = asked
    assert dict(output) == {"logits": logits}
    assert given is labels
    assert count is COUNTS.labels
    spans, inputs = (
        torch.randn(2, 5, 2),
        {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 3])},
    )
    OutputLoss(SPANS, hard_label_function=function).hard(spans, inputs | {"labels": labels}, COUNTS)
    output, given, _ = asked[1]
    assert set(output) == {"start_logits", "end_logits"}
    assert given == (inputs["start_positions"], inputs["end_positions"])


def test_logits_go_out_as_a_model_of_the_kind_returns_them():
    logits, loss = torch.randn(2, 5, 2), torch.tensor(3.0)
    spans = OutputLoss(SPANS).output_of(logits, loss)
    assert isinstance(spans, ModelOutput)
    assert list(spans) == ["loss", "start_logits", "end_logits"]
    assert spans.loss is loss
    assert torch.equal(spans.start_logits, logits[..., 0])
    assert torch.equal(spans.end_logits, logits[..., 1])
    assert list(OutputLoss(SPANS).output_of(logits)) == ["start_logits", "end_logits"]
    for kind in (SINGLE_LABEL, MULTI_LABEL, REGRESSION, TOKENS, VECTORS):
        said = OutputLoss(kind).output_of(logits, loss)
        assert list(said) == ["loss", "logits"]
        assert said.loss is loss
        assert said.logits is logits
    assert list(OutputLoss().output_of(logits)) == ["logits"]
