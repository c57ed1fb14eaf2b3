"""Training with a teacher cache: the same steps as with a live teacher, and a teacher that does not run."""

from __future__ import annotations

import getpass
import json
import math
import os
from functools import partial
from pathlib import Path

import cache_worker
import factories
import pytest
import tiny_models
import torch
from ddp_worker import Gradients
from safetensors.torch import load_file
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
)
from transformers.utils import logging

from hf_tinybert import DistillationTrainer, create_student
from hf_tinybert.teacher.cache.sources import CachedFeatures, CachedLogits
from hf_tinybert.teacher.source import OnlineTeacher

TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4


class Watch(TrainerCallback):
    """Notes, for every step, how often the teacher has run in it, and the signal that the run trains with."""

    def __init__(self, passes):
        self.passes = passes
        self.opening = None
        self.steps = []
        self.trainer = None
        self.signal = None

    def on_train_begin(self, *args, **kwargs):
        self.opening = self.passes.count
        self.signal = self.trainer._run.source

    def on_step_end(self, *args, **kwargs):
        self.steps.append(self.passes.count - self.opening - sum(self.steps))


class Run:
    """A training, and what was seen of it."""

    def __init__(self, trainer, teacher, **kwargs):
        passes = cache_worker.Passes(teacher)
        self.watch, self.gradients = Watch(passes), Gradients(steps=(0, 1, 6))
        self.watch.trainer = self.trainer = trainer
        trainer.add_callback(self.watch)
        trainer.add_callback(self.gradients)
        trainer.train(**kwargs)
        passes.remove()
        self.opening, self.passes, self.signal = self.watch.opening, self.watch.steps, type(self.watch.signal)
        self.weights = factories.weights(trainer)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        self.losses = [{n: v for n, v in entry.items() if n.startswith("loss_")} for entry in history]
        assert self.losses
        assert all(self.losses)
        assert all(math.isfinite(value) for entry in self.losses for value in entry.values())


def assert_same(one, other, tolerance=TOLERANCE, weights=WEIGHT_TOLERANCE):
    """Every loss of every step, the gradients of chosen steps, and what came of them."""
    for number, (mine, theirs) in enumerate(zip(one.losses, other.losses, strict=True)):
        assert mine == pytest.approx(theirs, rel=tolerance, abs=tolerance), number
    assert one.gradients.kept.keys() == other.gradients.kept.keys()
    for name, value in one.gradients.kept.items():
        bound = tolerance * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(other.gradients.kept[name], value, rtol=0, atol=bound, msg=lambda m, n=name: n + m)
    for name, value in one.weights.items():
        torch.testing.assert_close(other.weights[name], value, rtol=0, atol=weights, msg=lambda m, n=name: n + m)


# A real teacher: two epochs of six steps, one for each phase


def real(teacher_folder, folder, choice, cache=None, teacher=None, dropout=0.0, **changes):
    settings = {
        "max_steps": 12,
        "intermediate_share": 0.5,
        "logging_steps": 1,
        "teacher_cache": choice,
        "teacher_cache_dir": str(cache or folder / "cache"),
        "teacher_cache_dtype": "float32",
        "per_device_eval_batch_size": 20,
    }
    args = factories.arguments(folder / "out", **(settings | changes))
    teacher = teacher or factories.load(teacher_folder)
    student = factories.small_student(teacher, dropout=dropout)
    data = factories.household()["train"].select(range(48))
    return Run(factories.trainer(student, teacher, args, train_dataset=data), teacher)


@pytest.fixture(scope="module")
def runs(teacher_folder, tmp_path_factory):
    """Live, and with either cache made on the way; each in a folder of its own."""
    folders = {choice: tmp_path_factory.mktemp(choice) for choice in ("none", "logits", "features")}
    return {choice: (real(teacher_folder, folder, choice), folder) for choice, folder in folders.items()}


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("choice", ["logits", "features"])
def test_every_step_is_the_live_teachers(choice, runs):
    live, cached = runs["none"][0], runs[choice][0]
    assert {name.split(".")[1] for name in live.gradients.kept} == {"0", "1", "6"}
    assert_same(live, cached)


@pytest.mark.also_transformers("4.57")
def test_when_the_teacher_runs(runs):
    live, logits, features = (runs[choice][0] for choice in ("none", "logits", "features"))
    assert (live.signal, logits.signal, features.signal) == (OnlineTeacher, CachedLogits, CachedFeatures)
    assert live.passes == [1] * 12
    assert logits.passes == [1] * 6 + [0] * 6
    assert features.passes == [0] * 12
    assert features.opening - logits.opening == math.ceil(48 / 20)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("choice", ["logits", "features"])
def test_the_next_run_reads_what_is_there(choice, runs, teacher_folder, tmp_path):
    first, folder = runs[choice]
    before = {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.safetensors")}
    assert len(before) == 1
    again = real(teacher_folder, tmp_path, choice, cache=folder / "cache")
    assert again.opening == runs["logits"][0].opening
    # Layers are matched in the first phase, and a cache of logits has none.
    assert again.passes == ([1] * 6 if choice == "logits" else [0] * 6) + [0] * 6
    assert {path: path.stat().st_mtime_ns for path in (folder / "cache").rglob("*.safetensors")} == before
    assert_same(first, again)


@pytest.mark.also_transformers("4.57")
def test_later_epochs_of_the_prediction_phase_run_no_teacher(teacher_folder, tmp_path):
    changes = {"phases": "prediction"}
    cached = real(teacher_folder, tmp_path, "logits", **changes)
    assert cached.passes == [1] * 6 + [0] * 6
    again = real(teacher_folder, tmp_path, "logits", **changes)
    assert again.passes == [0] * 12
    live = real(teacher_folder, tmp_path, "none", **changes)
    assert_same(live, cached)
    assert_same(live, again)


def test_half_precision_costs_little(runs, teacher_folder, tmp_path):
    half = real(teacher_folder, tmp_path, "features", teacher_cache_dtype="float16")
    assert_same(runs["none"][0], half, tolerance=2e-3, weights=2e-3)
    size = {
        choice: sum(path.stat().st_size for path in folder.rglob("features-*"))
        for choice, folder in (("float16", tmp_path), ("float32", runs["features"][1]))
    }
    assert size["float16"] == pytest.approx(size["float32"] / 2, rel=0.02)


def test_what_is_written_and_where(runs, teacher_folder, caplog):
    for choice in ("logits", "features"):
        folder = runs[choice][1]
        assert list((folder / "out").iterdir()) == []
        assert {path.name for path in folder.iterdir()} == {"out", "cache"}
        (place,) = (folder / "cache").iterdir()
        said = (place / "contents.json").read_text(encoding="utf-8")
        assert json.loads(said)["data"]["rows"] == 48
        for private in (teacher_folder, str(folder), str(Path.home()), os.getcwd(), f"/{getpass.getuser()}/"):
            assert private not in said
            for path in place.rglob("*.safetensors"):
                assert private.encode() not in path.read_bytes()


@pytest.mark.also_transformers("4.57")
def test_two_processes_train_as_one(processes, teacher_folder, tmp_path):
    single, _ = cache_worker.distil(teacher_folder, tmp_path / "one", {"teacher_cache": "none", "max_steps": 12})
    folder = tmp_path / "two"
    folder.mkdir()
    options = {"per_device_train_batch_size": 4, "ddp_backend": "gloo", "max_steps": 12}
    for rank in processes.run_ranks(2, cache_worker.__file__, teacher_folder, folder, json.dumps(options)):
        assert rank.returncode == 0, rank.output
    for choice in ("features", "logits"):
        result = load_file(folder / f"{choice}.safetensors")
        assert result.keys() == single.keys()
        for name, value in single.items():
            tolerance = TOLERANCE if name.startswith("gradient.") else WEIGHT_TOLERANCE
            torch.testing.assert_close(result[name], value, rtol=0, atol=tolerance, msg=lambda m, n=name: n + m)
    assert len(list((folder / "cache").rglob("logits-*-of-2.safetensors"))) == 2


# Tiny teachers: forms of data and arguments


def tiny(folder, choice, teacher=None, dataset=None, collator=cache_worker.collate, **changes):
    teacher = teacher or tiny_models.model()
    student = create_student(teacher, tiny_models.small_config(teacher), init="random")
    settings = {
        "max_steps": 10,
        "logging_steps": 1,
        "teacher_cache": choice,
        "teacher_cache_dir": str(folder / "cache"),
        "teacher_cache_dtype": "float32",
    }
    args = factories.arguments(folder / "out", **(settings | changes))
    dataset = cache_worker.data() if dataset is None else dataset
    trainer = DistillationTrainer(student, args, collator, dataset, teacher=teacher)
    return Run(trainer, teacher)


def token_teacher():
    return tiny_models.model(auto=AutoModelForTokenClassification)


def regressor():
    return tiny_models.model(num_labels=1, problem_type="regression")


FORMS = {
    "workers": lambda: {"dataloader_num_workers": 2},
    "accumulation": lambda: {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "joint": lambda: {"phases": "joint"},
    "intermediate": lambda: {"phases": "intermediate"},
    "prediction": lambda: {"phases": "prediction"},
    "padded in the data": lambda: {"dataset": cache_worker.data(padded="right")},
    "padded in the data, left": lambda: {"dataset": cache_worker.data(padded="left")},
    "padded on the left": lambda: {
        "teacher": tiny_models.model("roberta", auto=AutoModelForTokenClassification),
        "dataset": cache_worker.data(per_token=True),
        "collator": partial(cache_worker.collate, side="left"),
    },
    "tokens": lambda: {"teacher": token_teacher(), "dataset": cache_worker.data(per_token=True)},
    "tokens, joint": lambda: {
        "teacher": token_teacher(),
        "dataset": cache_worker.data(per_token=True),
        "phases": "joint",
    },
    "regression": lambda: {"teacher": regressor(), "dataset": cache_worker.data(labels=[n / 9 for n in range(40)])},
    "no attention": lambda: {"attention_weight": 0.0},
    "gold labels": lambda: {"hard_label_weight": 0.5},
    "torch format": lambda: {"dataset": cache_worker.data().with_format("torch"), "collator": collate_tensors},
    "shuffled data": lambda: {"dataset": cache_worker.data().shuffle(seed=3)},
}


def collate_tensors(examples):
    return cache_worker.collate([{n: v.tolist() for n, v in example.items()} for example in examples])


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_data_and_arguments(form, tmp_path):
    live, logits, features = (tiny(tmp_path, each, **FORMS[form]()) for each in ("none", "logits", "features"))
    assert_same(live, logits)
    assert_same(live, features)
    assert features.signal is (CachedLogits if form == "prediction" else CachedFeatures)
    if form != "prediction":
        assert sum(features.passes) == 0
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mixed_precision(dtype, tmp_path):
    live, cached = (
        tiny(tmp_path, choice, bf16=True, teacher_cache_dtype=dtype, max_grad_norm=1.0)
        for choice in ("none", "features")
    )
    assert sum(cached.passes) == 0
    assert_same(live, cached, tolerance=0.05, weights=1e-2)


def test_with_and_without_mixed_precision_are_two_caches(tmp_path):
    tiny(tmp_path, "features", max_steps=2)
    tiny(tmp_path, "features", max_steps=2, bf16=True)
    tiny(tmp_path, "features", max_steps=2, bf16=True, teacher_mixed_precision="no")
    tiny(tmp_path, "features", max_steps=2, teacher_mixed_precision="bf16")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    tiny(tmp_path, "features", max_steps=2, teacher_cache_dtype="float16")
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("choice", ["logits", "features"])
def test_a_data_loader_of_ones_own_gets_the_live_teacher_and_a_warning(choice, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(DistillationTrainer, "get_train_dataloader", Trainer.get_train_dataloader)
    logging.get_logger("hf_tinybert.distillation.run").warning_once.cache_clear()
    live = tiny(tmp_path, "none")
    with caplog.at_level("WARNING"):
        cached = tiny(tmp_path, choice)
    assert_same(live, cached)
    assert cached.passes == live.passes
    assert "have no row numbers" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["logits", "features"])
def test_compiled(choice, tmp_path):
    """Without a count of passes: it would be a hook in the compiled code."""
    losses = {}
    for each, compiled in (("none", False), (choice, True)):
        teacher = tiny_models.model()
        student = create_student(teacher, tiny_models.small_config(teacher), init="random")
        args = factories.arguments(
            tmp_path / "out",
            max_steps=10,
            logging_steps=1,
            teacher_cache=each,
            teacher_cache_dir=str(tmp_path / "cache"),
            teacher_cache_dtype="float32",
            torch_compile=compiled,
            torch_compile_backend="aot_eager" if compiled else None,
        )
        trainer = DistillationTrainer(student, args, cache_worker.collate, cache_worker.data(), teacher=teacher)
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses[each] = [{n: v for n, v in entry.items() if n.startswith("loss_")} for entry in history]
    assert len(losses["none"]) == 10
    for live, cached in zip(losses["none"], losses[choice], strict=True):
        assert cached == pytest.approx(live, rel=1e-4, abs=1e-5)


@pytest.mark.also_transformers("4.57")
def test_evaluation_while_training_asks_the_teacher(tmp_path):
    teacher = tiny_models.model()
    student = create_student(teacher, tiny_models.small_config(teacher), init="random")
    for choice in ("none", "features"):
        args = factories.arguments(
            tmp_path / "out",
            max_steps=4,
            teacher_cache=choice,
            teacher_cache_dir=str(tmp_path / "cache"),
            eval_strategy="steps",
            eval_steps=1,
        )
        data = cache_worker.data()
        trainer = DistillationTrainer(student, args, cache_worker.collate, data, data, teacher=teacher)
        trainer.train()
        agreements = [entry["eval_agreement"] for entry in trainer.state.log_history if "eval_agreement" in entry]
        assert len(agreements) == 4
        assert trainer.evaluate()["eval_agreement"] == agreements[-1]


def test_a_run_that_fails_keeps_what_was_learnt_and_leaves_no_hooks(tmp_path):
    class Fail(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    teacher = tiny_models.model()
    student = create_student(teacher, tiny_models.small_config(teacher), init="random")
    args = factories.arguments(
        tmp_path / "out", phases="prediction", teacher_cache="logits", teacher_cache_dir=str(tmp_path / "cache")
    )
    trainer = DistillationTrainer(
        student, args, cache_worker.collate, cache_worker.data(), teacher=teacher, callbacks=[Fail()]
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert tiny_models.hooks(teacher) == tiny_models.hooks(student) == 0
    (kept,) = (tmp_path / "cache").rglob("logits-*.safetensors")
    assert len(load_file(kept)["rows"]) == 24


# Data that cannot be known again


class Rows(TorchDataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return cache_worker.data()[index]


def masking(examples):
    """As masked language modelling does."""
    batch = cache_worker.collate(examples)
    collator = DataCollatorForLanguageModeling(factories.tokenizer(), mlm_probability=0.5)
    return batch | {"input_ids": collator.torch_mask_tokens(batch["input_ids"])[0] % tiny_models.VOCABULARY}


class LateMasking:
    """Changes no token until so many batches have been made."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self, examples):
        self.left -= 1
        return masking(examples) if self.left < 0 else cache_worker.collate(examples)


UNKNOWN = {
    "set_transform": (lambda: {"dataset": cache_worker.data().with_transform(lambda rows: rows)}, "on every access"),
    "torch data set": (lambda: {"dataset": Rows()}, "are a Rows, and only"),
    "padding that moves positions": (
        lambda: {"collator": partial(cache_worker.collate, side="left")},
        "changes with the padding of its batch",
    ),
    "padding that moves the first token": (
        lambda: {
            "collator": partial(cache_worker.collate, side="left"),
            "teacher": tiny_models.model("roberta", seed=1),
        },
        "changes with the padding of its batch",
    ),
    "masking": (lambda: {"collator": masking}, "the data collator changes the token ids"),
}


@pytest.mark.parametrize("data", UNKNOWN)
def test_rows_that_cannot_be_known_again(data, tmp_path, caplog):
    changes, why = UNKNOWN[data]
    for choice in ("logits", "features"):
        with pytest.raises(
            ValueError, match=rf"teacher_cache='{choice}' cannot be: .*{why}.*Use teacher_cache='none'"
        ):
            tiny(tmp_path, choice, remove_unused_columns=False, **changes())
    run = tiny(tmp_path, "auto", max_steps=2, remove_unused_columns=False, **changes())
    assert run.signal is OnlineTeacher
    assert "teacher_cache='auto' takes 'none': " in caplog.text
    assert why in caplog.text
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("choice", ["logits", "features"])
def test_what_a_collator_changes_later_is_neither_kept_nor_trained_on(choice, batches, tmp_path):
    """With features the change shows while they are built, or, after that, in the first batch."""
    with pytest.raises(ValueError, match=r"changes the token ids.*teacher_cache='none'"):
        tiny(tmp_path, choice, collator=LateMasking(batches), per_device_eval_batch_size=64)
    assert_same(tiny(tmp_path, "none"), tiny(tmp_path, choice, per_device_eval_batch_size=64))


@pytest.mark.parametrize(("data", "error"), [(Rows, ValueError), (cache_worker.data, OSError)])
def test_a_refused_cache_leaves_student_teacher_and_optimiser_as_they_were(data, error, tmp_path):
    """The data cannot have a cache, or the folder is a file."""
    (tmp_path / "taken").write_text("mine")
    teacher = tiny_models.model()
    student = create_student(teacher, tiny_models.small_config(teacher), init="random")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    args = factories.arguments(
        tmp_path / "out",
        teacher_cache="features",
        teacher_cache_dir=str(tmp_path / "taken"),
        remove_unused_columns=False,
    )
    trainer = DistillationTrainer(
        student, args, cache_worker.collate, data(), teacher=teacher, optimizers=(optimizer, None)
    )
    with pytest.raises(error, match="cannot be"):
        trainer.train()
    assert trainer.model is student
    assert tiny_models.hooks(student) == tiny_models.hooks(teacher) == 0
    assert len(optimizer.param_groups) == 1


# Without a folder


def test_the_cache_lies_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tinybert.utils.work_sharing.HF_HOME", str(tmp_path / "home"))
    tiny(tmp_path, "features", teacher_cache_dir=None, max_steps=2)
    (shard,) = (tmp_path / "home" / "hf_tinybert" / "teacher_cache").rglob("features-*.safetensors")
    assert shard.is_file()


@pytest.mark.parametrize("choice", ["logits", "features"])
def test_a_cache_folder_that_is_a_file_is_refused(choice, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(OSError, match=r"cannot be kept in .*taken: .* with teacher_cache_dir"):
        tiny(tmp_path, choice, teacher_cache_dir=str(taken))
    assert taken.read_text() == "mine"


# auto


def test_auto_says_what_it_takes_and_why(teacher_folder, tmp_path, caplog):
    run = real(teacher_folder, tmp_path, "auto", max_steps=48, intermediate_share=0.9, logging_steps=12)
    (said,) = (record.getMessage() for record in caplog.records if "'auto' takes" in record.getMessage())
    chosen = {CachedFeatures: "'features'", CachedLogits: "'logits'"}[run.signal]
    assert said.startswith(f"teacher_cache='auto' takes {chosen}: 20 rows take the teacher ")
    words = said.replace(",", "").replace(";", "").split()
    live, cached = (float(words[words.index(word) - 2]) for word in ("without", "with"))
    # The numbers that are shown are rounded.
    assert (cached < 0.9 * live + 1.5) if chosen == "'features'" else (cached > 0.9 * live - 1.5)
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.parametrize(
    ("changes", "signal", "why"),
    [
        ({"max_steps": 10}, CachedLogits, "'logits': no layer is needed twice"),
        ({"max_steps": 5, "phases": "prediction"}, OnlineTeacher, "'none': no layer is needed twice"),
        ({"max_steps": 10, "phases": "prediction"}, CachedLogits, "'logits': no layer is needed twice"),
        ({"max_steps": 5, "phases": "intermediate"}, OnlineTeacher, "'none': no layer is needed twice"),
    ],
)
def test_auto_where_nothing_is_asked_for_twice(changes, signal, why, tmp_path, caplog):
    run = tiny(tmp_path, "auto", **changes)
    assert run.signal is signal
    assert f"teacher_cache='auto' takes {why}." in caplog.text
    assert (tmp_path / "cache").exists() == (signal is CachedLogits)


def test_auto_takes_features_that_are_there(tmp_path, caplog):
    tiny(tmp_path, "features", phases="joint")
    run = tiny(tmp_path, "auto", phases="joint")
    assert run.signal is CachedFeatures
    assert "takes 'features': they are stored in " in caplog.text
