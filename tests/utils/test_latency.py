"""Models take turns on the same tokens."""

from __future__ import annotations

import threading

import tiny_models
import torch

from hf_tinybert.utils.latency import in_turns, random_inputs


def test_inputs_are_ordinary_tokens_without_padding_and_the_same_at_every_call():
    config = tiny_models.config("roberta")  # pad 1, bos 0, eos 2
    inputs = random_inputs(config, 50, 70, special_ids=frozenset(range(10, 80)))
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].unique().tolist() == [*range(3, 10), *range(80, 90)]
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (50, 70)
    assert inputs["attention_mask"].all()
    again = random_inputs(config, 50, 70, special_ids=frozenset(range(10, 80)))
    assert torch.equal(inputs["input_ids"], again["input_ids"])


def test_calls_take_turns_and_the_warm_up_does_not_count():
    log = []
    times = in_turns({name: lambda name=name: log.append(name) for name in "abc"}, rounds=4, warm_up=2)
    assert log == list("aabbcc") * 6  # the first of two finds its weights again, the second is timed
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(value > 0 for values in times.values() for value in values)


def test_times_are_milliseconds_and_no_gradients_are_kept():
    event, modes = threading.Event(), []

    def wait():
        modes.append(torch.is_inference_mode_enabled())
        event.wait(0.02)

    (times,) = in_turns({0: wait}, rounds=3, warm_up=0).values()
    assert 19 <= min(times) < 1000
    assert modes == [True] * 6
