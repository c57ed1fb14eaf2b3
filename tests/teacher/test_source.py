"""The live teacher: what it gives, what it leaves alone, and how early it stops."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import freeze
from hf_tinybert.teacher.source import OnlineTeacher


def test_a_live_teacher_answers_as_the_model_does_in_eval_mode(teacher):
    batch = tiny_models.sentences(labels=True)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        expected = teacher(**inputs, output_hidden_states=True)
    teacher.train()
    signal = OnlineTeacher(teacher, [0, 2, 4], [4])
    features = signal.features(batch | {"example_id": torch.arange(16)}, intermediate=True, prediction=True)
    assert torch.equal(features.logits, expected.logits)
    assert set(features.hidden) == {0, 2, 4}
    assert set(features.queries) == set(features.keys) == {4}
    for layer, value in features.hidden.items():
        assert torch.equal(value, expected.hidden_states[layer])
        assert not value.requires_grad
    assert not teacher.training


@pytest.mark.parametrize(("intermediate", "prediction"), [(True, False), (False, True)])
def test_only_what_is_wanted_is_computed(intermediate, prediction):
    model, heads = tiny_models.model(), []
    model.classifier.register_forward_hook(lambda *_: heads.append(1))
    features = OnlineTeacher(model, [0, 1], [1]).features(tiny_models.batch(), intermediate, prediction)
    assert bool(heads) == (features.logits is not None) == prediction
    assert bool(features.hidden) == bool(features.queries) == intermediate


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_inputs_that_a_family_does_not_know_are_left_out(family):
    batch = tiny_models.batch()
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    features = OnlineTeacher(tiny_models.model(family), [3], []).features(batch, True, True)
    assert features.hidden[3].shape == (3, 7, 24)


def test_closing_leaves_no_hooks_and_the_teacher_frozen():
    model = tiny_models.model().train()
    before = tiny_models.hooks(model)
    signal = OnlineTeacher(model, [0, 3], [3])
    assert tiny_models.hooks(model) > before
    signal.close()
    assert tiny_models.hooks(model) == before
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert freeze(model) is model


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
@pytest.mark.parametrize(("hidden", "attention"), [([0], []), ([0, 1], [2]), ([1], [1]), ([2], [1])])
def test_the_teacher_stops_at_the_last_layer_that_is_wanted(family, hidden, attention):
    model, ran = tiny_models.model(family), []
    for number, layer in enumerate(Encoder.from_model(model).layers, start=1):
        layer.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    batch = tiny_models.batch()
    whole = OnlineTeacher(model, hidden, attention).features(batch, intermediate=True, prediction=True)
    assert ran == [1, 2, 3]
    ran.clear()
    features = OnlineTeacher(model, hidden, attention).features(batch, intermediate=True, prediction=False)
    assert ran == list(range(1, max([1, *hidden, *attention]) + 1))
    for kind in ("hidden", "queries", "keys"):
        assert getattr(features, kind).keys() == getattr(whole, kind).keys()
        for layer, value in getattr(features, kind).items():
            assert torch.equal(value, getattr(whole, kind)[layer])


def test_the_prediction_phase_has_no_hooks():
    model = tiny_models.model()
    before = tiny_models.hooks(model)
    signal = OnlineTeacher(model, [0, 3], [3])
    signal.start_phase(layers=True)
    assert tiny_models.hooks(model) > before
    signal.start_phase(layers=False)
    assert tiny_models.hooks(model) == before
    with torch.no_grad():
        expected = model(**tiny_models.batch()).logits
    assert torch.equal(signal.features(tiny_models.batch(), intermediate=False, prediction=True).logits, expected)
    signal.start_phase(layers=True)  # and a later phase can match layers again
    features = signal.features(tiny_models.batch(), intermediate=True, prediction=False)
    assert (features.hidden.keys(), features.queries.keys()) == ({0, 3}, {3})


def test_mixed_precision_covers_the_teacher():
    model = tiny_models.model()
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    features = OnlineTeacher(model, [1], [1], autocast).features(tiny_models.batch(), True, True)
    assert features.queries[1].dtype == features.logits.dtype == torch.bfloat16


def test_cast_weights_are_made_once_and_change_nothing():
    model, batch = tiny_models.model(), tiny_models.batch()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    signal = OnlineTeacher(model, [0, 1, 3], [1, 3], autocast)
    with torch.no_grad(), autocast():
        expected = model(**batch)
        layers = model.base_model(**batch, output_hidden_states=True).hidden_states
    for _ in range(2):
        features = signal.features(batch, intermediate=True, prediction=True)
        assert torch.equal(features.logits, expected.logits)
        assert torch.equal(features.hidden[3], layers[3])
    with torch.profiler.profile(record_shapes=True) as profile:
        signal.features(batch, intermediate=True, prediction=False)
    events = profile.key_averages(group_by_input_shape=True)
    assert events
    assert not [event for event in events if event.key == "aten::_to_copy" and [40, 24] in event.input_shapes]
    for name, value in model.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])


def test_mixed_precision_covers_a_teacher_with_an_adapter():
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(target_modules=["query", "value"], task_type="SEQ_CLS", init_lora_weights=False)
    model, batch = peft.get_peft_model(tiny_models.model(), adapter).eval(), tiny_models.batch()
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    signal = OnlineTeacher(model, [0, 3], [3], autocast)
    with torch.no_grad(), autocast():
        expected = model(**batch, output_hidden_states=True)
    for prediction in (False, True):
        features = signal.features(batch, intermediate=True, prediction=prediction)
        assert torch.equal(features.hidden[3], expected.hidden_states[3])
    assert torch.equal(features.logits, expected.logits)


def test_a_compiled_teacher_gives_the_same():
    model, batch = tiny_models.model(), tiny_models.batch()
    live = OnlineTeacher(model, [0, 3], [3]).features(batch, intermediate=True, prediction=True)
    compiled = OnlineTeacher(model, [0, 3], [3], compile_kwargs={"backend": "eager"})
    try:
        features = compiled.features(batch, intermediate=True, prediction=True)
        assert torch.equal(features.logits, live.logits)
        assert all(torch.equal(features.hidden[layer], live.hidden[layer]) for layer in (0, 3))
        assert torch.equal(features.keys[3], live.keys[3])
    finally:
        compiled.close()
        torch._dynamo.reset()
