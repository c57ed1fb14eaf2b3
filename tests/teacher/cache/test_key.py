"""The key of a cache changes with everything that changes what the teacher says, and with nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cache_worker
import pytest
import tiny_models
import torch

from hf_tinybert.models.architectures import Encoder
from hf_tinybert.teacher.cache import key as keys
from hf_tinybert.teacher.cache.layout import Layout

COLUMNS = (("hidden", 0, 24), ("queries", 2, 24))
LAYOUT = Layout(COLUMNS, "float16", 3)


def key(teacher=None, dataset=None, layout=LAYOUT, autocast="no"):
    live = cache_worker.live(teacher)
    dataset = cache_worker.data() if dataset is None else dataset
    return keys.key_of(keys.contents(live.sources, dataset, live.inputs, layout, autocast))


@pytest.fixture(scope="module")
def usual():
    return key()


def one_weight():
    model = tiny_models.model()
    weight = Encoder.from_model(model).layers[1].output.dense.bias
    weight.data[3] = torch.nextafter(weight.data[3], torch.tensor(1.0))
    return {"teacher": model}


def one_value(column, row, place):
    values = list(cache_worker.data()[column])
    values[row][place] = 1 - values[row][place]
    return {"dataset": cache_worker.data(**{column: values})}


def configured(**values):
    model = tiny_models.model()
    for name, value in values.items():
        setattr(model.config, name, value)
    return {"teacher": model}


CHANGES = {
    "weight, by its last bit": one_weight,
    "token": lambda: one_value("input_ids", 39, 1),
    "mask": lambda: one_value("attention_mask", 0, 2),
    "row less": lambda: {"dataset": cache_worker.data().select(range(39))},
    "row more": lambda: {"dataset": cache_worker.data(41)},
    "order of rows": lambda: {"dataset": cache_worker.data().select([1, 0, *range(2, 40)])},
    "column more": lambda: {
        "dataset": cache_worker.data().add_column("token_type_ids", cache_worker.data()["attention_mask"][:])
    },
    "mapping": lambda: {"layout": Layout((("hidden", 0, 24), ("queries", 1, 24)), "float16", 3)},
    "kind": lambda: {"layout": Layout((("hidden", 0, 24), ("keys", 2, 24)), "float16", 3)},
    "dtype": lambda: {"layout": Layout(COLUMNS, "bfloat16", 3)},
    "without logits": lambda: {"layout": Layout(COLUMNS, "float16")},
    "mixed precision": lambda: {"autocast": "bf16"},
    "configuration": lambda: configured(layer_norm_eps=1e-5),
    "type of weights": lambda: {"teacher": tiny_models.model().to(torch.bfloat16)},
}


SETTINGS = {
    "legacy": lambda: torch.set_float32_matmul_precision("medium"),
    "all backends": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "this backend": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_precision_of_matrix_products_changes_the_key(setting, processes):
    """In a process of its own: the settings of newer versions of torch cannot all be taken back."""
    with processes.context.Pool(1) as pool:
        before, after = pool.apply(keys_around, (setting,))
    assert before != after


def keys_around(setting):
    before = key()
    SETTINGS[setting]()
    return before, key()


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_key(change, usual):
    assert key(**CHANGES[change]()) != usual


NO_CHANGES = {
    "again": dict,
    "saved and loaded": lambda: {"teacher": copy.deepcopy(tiny_models.model())},
    "name of the teacher": lambda: configured(_name_or_path="/home/someone/model"),
    "names of labels": lambda: configured(id2label={0: "x", 1: "y", 2: "z"}, label2id={"x": 0, "y": 1, "z": 2}),
    "labels": lambda: {"dataset": cache_worker.data(labels=[0] * 40)},
    "format": lambda: {"dataset": cache_worker.data().with_format("torch")},
    "columns that the teacher does not read": lambda: {"dataset": cache_worker.data(text=["a"] * 40)},
}


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_leaves_the_key_alone(change, usual):
    assert key(**NO_CHANGES[change]()) == usual


def test_the_key_of_the_same_teacher_from_a_folder_is_the_same(usual, tmp_path):
    model = tiny_models.model()
    model.save_pretrained(tmp_path)
    assert key(type(model).from_pretrained(tmp_path)) == usual


def test_contents_tell_what_not_where(tmp_path):
    model = tiny_models.model()
    model.save_pretrained(tmp_path)
    live = cache_worker.live(type(model).from_pretrained(tmp_path))
    contents = keys.contents(live.sources, cache_worker.data(), live.inputs, LAYOUT, "no")
    text = json.dumps(contents)
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert contents["data"]["columns"] == ["attention_mask", "input_ids"]
    assert contents["data"]["rows"] == 40
    assert len(keys.key_of(contents)) == 64


def test_contents_of_one_teacher_and_of_several():
    first, second = tiny_models.model(), tiny_models.model(seed=1)
    second.config.id2label = {0: "x", 1: "y", 2: "z"}

    def contents(*teachers):
        return keys.contents(teachers, cache_worker.data(), ["input_ids"], LAYOUT, "no")

    alone, other, both = contents((first, 1.0)), contents((second, 1.0)), contents((first, 0.75), (second, 0.25))
    assert alone["format"] == 1
    assert "several" not in alone
    assert both["teacher"] == alone["teacher"] != other["teacher"]
    assert [one["share"] for one in both["several"]] == [0.75, 0.25]
    assert [one["labels"] for one in both["several"]] == [first.config.id2label, second.config.id2label]
    assert [one["weights"] for one in both["several"]] == [alone["teacher"]["weights"], other["teacher"]["weights"]]


def test_the_key_does_not_hang_on_the_order_of_what_it_is_made_of():
    assert keys.key_of({"a": 1, "b": {"c": 2, "d": 3}}) == keys.key_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_the_precision_of_matrix_products_is_named_for_both_kinds_of_devices(processes):
    """Where nothing is set, "ieee"; a backend's own setting wins over that of all."""
    with processes.context.Pool(1) as pool:
        assert pool.apply(precisions) == ["ieee, ieee", "tf32, tf32", "tf32, bf16"]


def precisions():
    for level in (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn, torch.backends.mkldnn.matmul):
        level.fp32_precision = "none"
    found = [keys._matmul_precision()]
    torch.backends.fp32_precision = "tf32"
    found.append(keys._matmul_precision())
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    return [*found, keys._matmul_precision()]
