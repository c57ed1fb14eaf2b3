"""Signals that read: what they give is what the live teacher gives, batch by batch."""

from __future__ import annotations

import cache_worker
import pytest
import tiny_models
import torch
from transformers import AutoModelForTokenClassification

from hf_tinybert.teacher.cache import rows
from hf_tinybert.teacher.cache.policy import open_source
from hf_tinybert.teacher.cache.sources import CachedFeatures, CachedLogits
from hf_tinybert.teacher.source import OnlineTeacher

BATCHES = [[0, 5, 3], [7, 1], [39, 2, 20, 11]]


def opened(folder, choice, per_token=False, **changes):
    """A signal, its numbered data and collator, and a count of the teacher's passes."""
    model = tiny_models.model(auto=AutoModelForTokenClassification) if per_token else tiny_models.model()
    live = cache_worker.live(model)
    request = cache_worker.request(folder, choice, cache_worker.data(per_token=per_token), **changes)
    signal = open_source(live, request)
    dataset, collator = signal.data(request.dataset, request.collator)
    return signal, lambda numbers: collator([dataset[number] for number in numbers]), cache_worker.Passes(model)


def plain(batch):
    return {name: value for name, value in batch.items() if name not in (rows.ROW, rows.KNOWLEDGE)}


def assert_same(features, live, mask, layers):
    """At real positions; what lies at padding is nobody's business."""
    mask = mask.unsqueeze(-1)
    for kind in ("hidden", "queries", "keys"):
        ours, theirs = getattr(features, kind), getattr(live, kind)
        assert ours.keys() == (theirs.keys() if layers else set())
        for layer, value in ours.items():
            torch.testing.assert_close(value * mask, theirs[layer] * mask, rtol=0, atol=1e-5)
    if features.logits is not None:
        mask = mask if live.logits.dim() == 3 else 1
        torch.testing.assert_close(features.logits * mask, live.logits * mask, rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_token", [False, True], ids=["rows", "tokens"])
@pytest.mark.parametrize(("intermediate", "prediction"), [(True, True), (True, False), (False, True)])
def test_features_from_disk_are_the_live_teachers(intermediate, prediction, per_token, tmp_path):
    signal, batch_of, passes = opened(tmp_path, "features", per_token)
    assert isinstance(signal, CachedFeatures)
    live = cache_worker.live(signal.live.model)
    signal.start_phase(intermediate)
    for numbers in BATCHES:
        batch = batch_of(numbers)
        assert ("tokens" in batch[rows.KNOWLEDGE]) == intermediate
        passes.count = 0
        features = signal.features(batch, intermediate, prediction)
        assert passes.count == 0
        assert (features.logits is not None) == prediction
        assert_same(features, live.features(plain(batch), True, True), batch["attention_mask"], intermediate)
    signal.close()
    live.close()


@pytest.mark.parametrize("own_tokenizer", [False, True])
@pytest.mark.parametrize("kinds", [("queries", "keys", "bias"), ("queries", "keys", "values")])
def test_a_bias_of_positions_is_added_to_what_is_cached(kinds, own_tokenizer, tmp_path):
    """MPNet's, at the student's positions where the teacher has more tokens around a text."""
    model = tiny_models.model("mpnet")
    dataset, collator = cache_worker.data(), cache_worker.collate
    if own_tokenizer:
        ids = [[7, *row, 7, 7] for row in dataset["input_ids"]]
        dataset = dataset.add_column("teacher_input_ids", ids)

        def collator(examples):
            batch = cache_worker.collate(examples)
            longest = max(len(example["teacher_input_ids"]) for example in examples)
            rows_of_teacher = [example["teacher_input_ids"] for example in examples]
            padded = [row + [cache_worker.PADDING] * (longest - len(row)) for row in rows_of_teacher]
            batch["teacher_input_ids"] = torch.tensor(padded)
            batch["teacher_attention_mask"] = batch["teacher_input_ids"].ne(cache_worker.PADDING).long()
            places = torch.arange(1, batch["input_ids"].shape[1] + 1).expand(len(examples), -1)
            batch["teacher_positions"] = places * batch["attention_mask"]
            return batch

    live = OnlineTeacher(model, [1, 3], [1, 3], kinds=kinds)
    signal = open_source(live, cache_worker.request(tmp_path, "features", dataset, collator=collator))
    numbered, numbering = signal.data(dataset, collator)
    passes = cache_worker.Passes(model)
    for numbers in BATCHES:
        batch = numbering([numbered[number] for number in numbers])
        passes.count = 0
        features = signal.features(batch, intermediate=True, prediction=True)
        assert passes.count == 0
        expected = live.features(plain(batch), intermediate=True, prediction=True)
        pairs = batch["attention_mask"][:, None, :, None] * batch["attention_mask"][:, None, None, :]
        assert features.bias.keys() == expected.bias.keys() == ({1, 3} if "bias" in kinds else set())
        for layer, bias in features.bias.items():
            assert torch.equal(bias * pairs, expected.bias[layer] * pairs)
            assert not torch.equal(bias, torch.zeros_like(bias))
        for layer, queries in features.queries.items():
            real = batch["attention_mask"].unsqueeze(-1)
            torch.testing.assert_close(queries * real, expected.queries[layer] * real, rtol=0, atol=1e-5)
    signal.close()


def test_rows_that_are_no_training_data_are_asked_of_the_teacher(tmp_path):
    for choice in ("features", "logits"):
        signal, batch_of, passes = opened(tmp_path, choice)
        signal.start_phase(layers=True)
        batch = plain(batch_of([3, 4]))
        passes.count = 0
        logits = signal.features(batch, intermediate=False, prediction=True).logits
        assert passes.count == 1
        with torch.no_grad():
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            assert torch.equal(logits, signal.live.model(**inputs).logits)
        signal.close()


@pytest.mark.parametrize("per_token", [False, True], ids=["rows", "tokens"])
def test_logits_are_asked_for_once(per_token, tmp_path):
    signal, batch_of, passes = opened(tmp_path, "logits", per_token)
    assert isinstance(signal, CachedLogits)
    live = cache_worker.live(signal.live.model)
    signal.start_phase(layers=True)
    for numbers in BATCHES:
        batch = batch_of(numbers)
        passes.count = 0
        # Only layers are wanted here, and the logits are kept all the same.
        signal.features(batch, intermediate=True, prediction=False)
        assert passes.count == 1
    for numbers in (BATCHES[2], [0, 7], [3, 1, 5]):
        batch = batch_of(numbers)
        expected = live.features(plain(batch), True, True)
        passes.count = 0
        features = signal.features(batch, intermediate=False, prediction=True)
        assert passes.count == 0
        assert_same(features, expected, batch["attention_mask"], layers=False)
        assert features.logits.dtype == torch.float32
        both = signal.features(batch, intermediate=True, prediction=True)
        assert passes.count == 1
        assert_same(both, expected, batch["attention_mask"], layers=True)
    passes.count = 0
    signal.features(batch_of([0, 30]), intermediate=False, prediction=True)
    assert passes.count == 1
    signal.close()


def test_flushing_writes_waits_and_takes_in(tmp_path):
    signals = [opened(tmp_path, "logits", rank=rank, processes=2) for rank in range(2)]
    for rank, (signal, batch_of, _) in enumerate(signals):
        mine = list(range(rank, 40, 2))
        signal.features(batch_of(mine), intermediate=False, prediction=True)
    (first, batch_of, passes), (second, _, _) = signals
    first.flush(second.flush)
    assert first.table.complete
    passes.count = 0
    first.features(batch_of([0, 1, 2, 3]), intermediate=False, prediction=True)
    assert passes.count == 0
    assert len(list(tmp_path.rglob("logits-*.safetensors"))) == 2


@pytest.mark.parametrize("choice", ["logits", "features"])
def test_closing_takes_the_hooks_off(choice, tmp_path):
    model = tiny_models.model()
    signal = open_source(cache_worker.live(model), cache_worker.request(tmp_path, choice))
    signal.close()
    assert tiny_models.hooks(model) == 0


def test_closing_takes_the_hooks_off_where_nothing_can_be_written(tmp_path):
    signal, batch_of, passes = opened(tmp_path / "cache", "logits")
    signal.features(batch_of([1]), intermediate=False, prediction=True)
    signal.table.folder = tmp_path / "file" / "folder"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory: .*file/folder"):
        signal.close()
    passes.remove()
    assert tiny_models.hooks(signal.live.model) == 0
