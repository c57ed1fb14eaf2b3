"""The trainer's behaviour, by running it on real sentences."""

from __future__ import annotations

import copy

import factories
import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_tinybert import DistillationTrainer
from hf_tinybert.distillation.objective import DistillationObjective
from hf_tinybert.evaluation import metrics
from hf_tinybert.hub import checkpoints
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.utils import compat

pytestmark = pytest.mark.also_transformers("4.57")

SHORT = {"max_steps": 6, "logging_steps": 1, "per_device_train_batch_size": 4}
INTERMEDIATE = {"loss_embedding"} | {f"loss_{kind}_{m}" for kind in ("hidden", "attention") for m in (1, 2)}


def distilled(teacher, folder, student=None, callbacks=None, **changes):
    student = student if student is not None else factories.small_student(teacher)
    trainer = factories.trainer(
        student, teacher, factories.arguments(folder, **(SHORT | changes)), callbacks=callbacks
    )
    trainer.train()
    return trainer


def series(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def assert_finite_losses(trainer, steps):
    losses = series(trainer, "loss")
    assert len(losses) == steps
    assert np.isfinite(losses).all()


class Watch(TrainerCallback):
    """Calls a function at the end of every step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, **kwargs):
        self.function(state, kwargs)


def test_student_and_teacher_are_themselves_after_training(teacher, tmp_path):
    student = factories.small_student(teacher)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    seen = []
    trainer = distilled(teacher, tmp_path, student, [Watch(lambda state, kwargs: seen.append(type(kwargs["model"])))])
    assert set(seen) == {DistillationObjective}
    assert trainer.model is student
    assert trainer.model_wrapped is student
    assert tiny_models.hooks(student) == tiny_models.hooks(teacher) == 0
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_run_that_fails_leaves_no_hooks(teacher, tmp_path):
    def fail(state, kwargs):
        raise KeyboardInterrupt

    student = factories.small_student(teacher)
    with pytest.raises(KeyboardInterrupt):
        distilled(teacher, tmp_path, student, [Watch(fail)])
    assert tiny_models.hooks(student) == tiny_models.hooks(teacher) == 0


def test_phases_their_series_and_their_learning_rates(teacher, tmp_path):
    trainer = distilled(
        teacher,
        tmp_path,
        max_steps=8,
        intermediate_share=0.5,
        intermediate_learning_rate=3e-4,
        learning_rate=1e-4,
        warmup_steps=2,
    )
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == list(range(1, 9))
    for entry in logs:
        parts = {name: value for name, value in entry.items() if name.startswith("loss_")}
        assert parts.keys() == (INTERMEDIATE if entry["step"] <= 4 else {"loss_prediction"})
        assert sum(parts.values()) == pytest.approx(entry["loss"], rel=1e-3)
    rates = [entry["learning_rate"] for entry in logs]
    # 4.57 and 5.x both log the rate before the scheduler's next step.
    assert rates == pytest.approx([3e-4] * 4 + [0.0, 5e-5, 1e-4, 5e-5])


def test_series_are_means_over_the_steps_of_their_own_phase(teacher, tmp_path):
    every = distilled(teacher, tmp_path / "every", logging_steps=1)
    rarely = distilled(teacher, tmp_path / "rarely", logging_steps=6)
    for name in ("loss_hidden_2", "loss_prediction"):
        assert series(rarely, name) == [pytest.approx(np.mean(series(every, name)), rel=1e-5)]


def test_the_prediction_phase_starts_with_a_fresh_optimiser(teacher, tmp_path):
    counts = {}

    def note(state, kwargs):
        moments = kwargs["optimizer"].state_dict()["state"]
        counts[state.global_step] = {float(moment["step"]) for moment in moments.values()}

    distilled(teacher, tmp_path, callbacks=[Watch(note)], intermediate_share=0.5)
    assert counts[3] == {3.0}
    assert counts[4] == {1.0}
    assert counts[6] == {3.0}


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ("intermediate", INTERMEDIATE),
        ("prediction", {"loss_prediction"}),
        ("joint", INTERMEDIATE | {"loss_prediction"}),
    ],
)
def test_either_phase_alone_and_all_levels_jointly(phases, expected, teacher, tmp_path):
    trainer = distilled(teacher, tmp_path, phases=phases, max_steps=2)
    logged = [{name for name in entry if name.startswith("loss_")} for entry in trainer.state.log_history[:2]]
    assert logged == [expected] * 2


def test_distillation_teaches(teacher, household, tmp_path):
    """A hundred steps from the teacher's layers, reduced: every series falls, and the student comes to agree."""
    student = factories.small_student(teacher, init="teacher")
    args = factories.arguments(
        tmp_path,
        max_steps=100,
        intermediate_share=0.5,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        logging_steps=5,
    )
    trainer = factories.trainer(student, teacher, args, eval_dataset=household["eval"].select(range(96)))
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    for name in ("hidden_1", "hidden_2", "attention_2"):
        values = series(trainer, f"loss_{name}")
        assert values[-1] < 0.9 * values[0], name
    assert after["eval_agreement"] > before["eval_agreement"] + 0.1
    assert after["eval_kl"] < 0.8 * before["eval_kl"]


# Saving, checkpoints, secrets


def test_what_is_saved(teacher, tmp_path):
    trainer = distilled(teacher, tmp_path, save_strategy="steps", save_steps=2, hub_token="hf_SECRETSECRET")
    trainer.save_model(str(tmp_path / "final"))
    final = {path.name for path in (tmp_path / "final").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training_args.bin"} <= final
    assert checkpoints.PROJECTIONS_NAME not in final
    assert checkpoints.missing_parts(tmp_path / "checkpoint-2") == []
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.config.tinybert["layer_mapping"] == "0:0,1:2,2:4"
    for path in tmp_path.rglob("*"):
        assert not path.name.startswith(".partial")
        if path.is_file():
            assert b"hf_SECRET" not in path.read_bytes(), path
        if path.name == "config.json":
            assert str(tmp_path) not in path.read_text()
    assert trainer.args.hub_token == "hf_SECRETSECRET"


def test_a_state_dict_given_after_training_is_saved_as_it_is(teacher, tmp_path):
    trainer = distilled(teacher, tmp_path, max_steps=2)
    state = {name: value.clone() + 1 for name, value in trainer.model.state_dict().items()}
    trainer._save(str(tmp_path / "given"), state_dict=dict(state))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "given").state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_resuming_with_more_epochs_does_not_move_the_boundary(teacher, tmp_path):
    distilled(teacher, tmp_path, save_strategy="steps", save_steps=2, intermediate_share=0.5)
    longer = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path, **(SHORT | {"max_steps": 10}))
    )
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    by_step = {entry["step"]: entry for entry in longer.state.log_history if "loss" in entry}
    assert "loss_hidden_1" in by_step[3]
    assert "loss_prediction" in by_step[4]
    assert max(by_step) == 10


def test_what_cannot_be_resumed_is_refused(teacher, tmp_path):
    distilled(teacher, tmp_path, save_strategy="steps", save_steps=3)
    other = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path, layer_mapping="last", **SHORT)
    )
    with pytest.raises(ValueError, match=r"made with layer_mapping '0:0,1:2,2:4'"):
        other.train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-6" / "trainer_state.json").write_text('{"global_step": 6')
    assert get_last_checkpoint(str(tmp_path)).endswith("checkpoint-6")
    assert checkpoints.newest_complete(tmp_path).endswith("checkpoint-3")
    with pytest.raises(ValueError, match=r"cannot be resumed: it lacks trainer_state\.json"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    empty = factories.trainer(factories.small_student(teacher), teacher, factories.arguments(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"no complete checkpoint in .*empty to resume from"):
        empty.train(resume_from_checkpoint=True)


def test_a_rewritten_checkpoint_is_incomplete_until_the_end(teacher, tmp_path):
    distilled(teacher, tmp_path, save_strategy="steps", save_steps=3)
    folder = tmp_path / "checkpoint-3"
    checkpoints.mark_incomplete(folder)
    assert checkpoints.missing_parts(folder) == ["trainer_state.json"]


# Evaluation


def test_evaluation_is_the_trainers_own(teacher, household, tmp_path):
    student = factories.small_student(teacher)

    def accuracy(prediction):
        return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}

    ours = factories.trainer(student, teacher, factories.arguments(tmp_path), compute_metrics=accuracy)
    plain = Trainer(
        model=student,
        args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True),
        eval_dataset=household["eval"].select(range(48)),
        data_collator=DataCollatorWithPadding(factories.tokenizer()),
        compute_metrics=accuracy,
    )
    measured, expected = ours.evaluate(), plain.evaluate()
    for name in ("eval_loss", "eval_accuracy"):
        assert measured[name] == pytest.approx(expected[name], rel=1e-5)
    predicted = ours.predict(household["eval"].select(range(48)))
    theirs = plain.predict(household["eval"].select(range(48)))
    np.testing.assert_allclose(predicted.predictions, theirs.predictions, atol=1e-5)
    assert "test_agreement" in predicted.metrics

    plain.model = teacher
    expected = plain.predict(household["eval"].select(range(48)))
    scores = ours.evaluate_teacher()
    assert scores["teacher_accuracy"] == pytest.approx(expected.metrics["test_accuracy"])
    agreement = np.mean(expected.predictions.argmax(-1) == predicted.predictions.argmax(-1))
    assert predicted.metrics["test_agreement"] == pytest.approx(agreement)


def test_agreement_can_be_left_out(teacher, tmp_path):
    trainer = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path, report_fidelity=False)
    )
    assert "eval_agreement" not in trainer.evaluate()


def test_metrics_of_the_intermediate_phase_neither_win_nor_stop(teacher, tmp_path):
    scores = iter([0.9, 0.8, 0.7, 0.1, 0.3, 0.2])

    def falling(prediction):
        return {"score": next(scores)}

    args = factories.arguments(
        tmp_path,
        **SHORT,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    trainer = factories.trainer(
        factories.small_student(teacher),
        teacher,
        args,
        compute_metrics=falling,
        eval_dataset=factories.household()["eval"].select(range(8)),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
    )
    trainer.train()
    assert trainer.state.best_metric == 0.3
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-5")
    assert trainer.state.global_step == 6
    best = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-5")
    for name, value in best.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value), name


# What a user may also pass


def stock_and_ours(teacher, tmp_path, ours_kwargs=None, stock_kwargs=None, **changes):
    """First-step gradients of the stock Trainer and of ours with the hard-label loss alone."""
    kept = {}

    class Keep(TrainerCallback):
        def __init__(self, name):
            self.name = name

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            kept.setdefault(
                self.name,
                {
                    n.removeprefix("student."): p.grad.clone()
                    for n, p in model.named_parameters()
                    if p.grad is not None
                },
            )

    changes |= compat.random_order_argument()
    args = factories.arguments(
        tmp_path, max_steps=1, phases="prediction", prediction_weight=0.0, hard_label_weight=1.0, **changes
    )
    factories.trainer(
        factories.small_student(teacher), teacher, args, callbacks=[Keep("ours")], **(ours_kwargs or {})
    ).train()
    plain = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=8,
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        **changes,
    )
    Trainer(
        model=factories.small_student(teacher),
        args=plain,
        train_dataset=factories.household()["train"],
        data_collator=DataCollatorWithPadding(factories.tokenizer()),
        callbacks=[Keep("stock")],
        **(stock_kwargs or {}),
    ).train()
    return kept["ours"], kept["stock"]


def class_weighted(outputs, labels, num_items_in_batch=None):
    weight = torch.linspace(0.5, 2.0, outputs["logits"].shape[-1])
    total = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=weight, reduction="sum")
    count = (
        getattr(num_items_in_batch, "item", lambda: num_items_in_batch)() if num_items_in_batch is not None else None
    )
    return total / (count or len(labels))


@pytest.mark.parametrize("kind", ["plain", "label smoothing", "class weights"])
def test_the_hard_label_loss_is_the_stock_trainers(kind, teacher, tmp_path):
    changes = {"label_smoothing_factor": 0.1} if kind == "label smoothing" else {}
    extra = {"compute_loss_func": class_weighted} if kind == "class weights" else {}
    ours, stock = stock_and_ours(teacher, tmp_path, extra, extra, **changes)
    used = {name: value for name, value in ours.items() if not name.startswith("projections.")}
    assert used.keys() == stock.keys()
    for name, value in used.items():
        torch.testing.assert_close(value, stock[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_users_optimiser_trains_the_projections_too(teacher, tmp_path):
    student = factories.small_student(teacher)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    trainer = factories.trainer(student, teacher, factories.arguments(tmp_path, **SHORT), optimizers=(optimiser, None))
    before = None

    class First(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            nonlocal before
            before = {n: p.detach().clone() for n, p in model.projections.named_parameters()}

    trainer.add_callback(First())
    trainer.train()
    after = dict(trainer._objective.projections.named_parameters())
    assert before.keys() == after.keys() == {f"linear.{m}.{part}" for m in range(3) for part in ("weight", "bias")}
    for name, value in before.items():
        assert not torch.equal(value, after[name]), name


def test_an_optimiser_of_the_teachers_parameters_is_refused(teacher, tmp_path):
    """That of a script whose two lines were changed: training would end without an error, and teach nothing."""
    optimiser = torch.optim.SGD(teacher.parameters(), lr=0.1)
    args = factories.arguments(tmp_path, **SHORT)
    with pytest.raises(
        ValueError, match=r"holds none of the student's trainable parameters, so nothing would be learnt"
    ):
        factories.trainer(factories.student_config(teacher), teacher, args, optimizers=(optimiser, None))


def test_what_is_gathered_from_shards_is_what_is_saved(teacher, tmp_path):
    """FSDP hands the whole weights to the saving: of student and projections, which themselves are shards then."""
    trainer = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path / "out", **SHORT | {"max_steps": 1})
    )
    gathered = {}

    class Gathers(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            gathered.update({name: value.detach().clone() + 1 for name, value in model.state_dict().items()})
            trainer._save(str(tmp_path / "checkpoint-1"), dict(gathered))

    trainer.add_callback(Gathers())
    trainer.train()
    for prefix, name in (("projections.", checkpoints.PROJECTIONS_NAME), ("student.", "model.safetensors")):
        saved = load_file(tmp_path / "checkpoint-1" / name)
        assert saved
        for key, value in saved.items():
            assert torch.equal(value, gathered[prefix + key]), key


def test_the_teacher_is_measured_on_data(teacher, tmp_path):
    trainer = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path), eval_dataset=None
    )
    with pytest.raises(ValueError, match="needs data: give eval_dataset"):
        trainer.evaluate_teacher()


def test_training_twice_goes_on(teacher, tmp_path):
    trainer = distilled(teacher, tmp_path)
    first = factories.weights(trainer)
    trainer.train()
    second = factories.weights(trainer)
    assert first.keys() == second.keys()
    for name in ("projections.linear.1.weight", "student.bert.encoder.layer.0.output.dense.weight"):
        assert not torch.equal(first[name], second[name]), name
    assert tiny_models.hooks(trainer.student) == 0


def test_hyperparameter_search(teacher, tmp_path):
    """Every trial has the student, the projections and the mapping of its own parameters."""
    optuna = pytest.importorskip("optuna")
    args = factories.arguments(tmp_path, **SHORT | {"max_steps": 2}, eval_strategy="steps", eval_steps=2)
    trainer = factories.trainer(
        None,
        teacher,
        args,
        model_init=lambda trial: factories.small_student(teacher),
        optimizers=(None, None),
        eval_dataset=factories.household()["eval"].select(range(8)),
    )
    trials = {}

    def objective(measured):
        trials[trainer.student.config.tinybert["layer_mapping"]] = measured["eval_kl"]
        return measured["eval_kl"]

    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "intermediate_learning_rate": trial.suggest_float("intermediate_learning_rate", 1e-3, 1e-3),
            "layer_mapping": trial.suggest_categorical("layer_mapping", ["uniform", "last"]),
        },
        n_trials=2,
        direction="minimize",
        compute_objective=objective,
        backend="optuna",
        sampler=optuna.samplers.GridSampler(
            {"intermediate_learning_rate": [1e-3], "layer_mapping": ["uniform", "last"]}, seed=0
        ),
    )
    assert trials.keys() == {"0:0,1:2,2:4", "0:0,1:3,2:4"}
    assert best.objective == min(trials.values())
    assert set(best.hyperparameters) == {"intermediate_learning_rate", "layer_mapping"}
    assert tiny_models.hooks(teacher) == 0


@pytest.mark.parametrize("cache", ["none", "logits"])
def test_a_batch_that_does_not_fit_is_made_smaller(cache, teacher, tmp_path):
    """As `auto_find_batch_size` says: what was begun with too large a batch is begun again, phases and all."""
    sizes = []

    def collate(rows):
        sizes.append(len(rows))
        if len(rows) > 5:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")
        return DataCollatorWithPadding(factories.tokenizer())(rows)

    student = factories.small_student(teacher)
    args = factories.arguments(
        tmp_path,
        **(SHORT | {"per_device_train_batch_size": 6, "per_device_eval_batch_size": 4}),
        auto_find_batch_size=True,
        teacher_cache=cache,
        teacher_cache_dir=str(tmp_path / "cache"),
    )
    rows = factories.household()["train"].select(range(40))
    trainer = factories.trainer(student, teacher, args, data_collator=collate, train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == 6
    assert 5 >= trainer.state.train_batch_size == sizes[-1] > 1
    assert len(series(trainer, "loss_hidden_1")) == len(series(trainer, "loss_prediction")) == 3
    assert tiny_models.hooks(student) == tiny_models.hooks(teacher) == 0
    assert trainer.model is student


def test_gradient_checkpointing_changes_nothing(teacher, tmp_path):
    calls, trained = [], []
    for checkpointing in (False, True):
        student = factories.small_student(teacher)
        passes = []
        module = student.bert.encoder.layer[0].intermediate
        module.register_forward_hook(lambda module, *_, passes=passes: passes.extend([1] * module.training))
        trainer = distilled(teacher, tmp_path, student, max_steps=4, gradient_checkpointing=checkpointing)
        calls.append(len(passes))
        trained.append(factories.weights(trainer))
    assert calls == [4, 8]
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=0, atol=1e-5, msg=name)


def test_bfloat16_autocast(teacher, tmp_path):
    exact = series(distilled(teacher, tmp_path / "a", max_steps=2), "loss")
    half = series(distilled(teacher, tmp_path / "b", max_steps=2, bf16=True), "loss")
    assert half == pytest.approx(exact, rel=0.05)
    assert half != exact


@pytest.mark.parametrize(
    ("arguments", "of_teacher", "of_student"),
    [
        ({"teacher_mixed_precision": "bf16"}, torch.bfloat16, torch.float32),
        ({"teacher_mixed_precision": "fp16", "bf16": True}, torch.float16, torch.bfloat16),
        ({"teacher_mixed_precision": "no", "bf16": True}, torch.float32, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_teacher_may_have_a_precision_of_its_own(teacher, arguments, of_teacher, of_student, tmp_path):
    seen = {"teacher": set(), "student": set()}
    student = factories.small_student(teacher)
    handles = [
        Encoder.from_model(model)
        .attention[0]
        .queries.register_forward_hook(lambda *passed, role=role: seen[role].add(passed[2].dtype))
        for role, model in (("teacher", teacher), ("student", student))
    ]
    changes = SHORT | {"max_steps": 2} | arguments
    trainer = factories.trainer(student, teacher, factories.arguments(tmp_path, **changes))
    trainer.train()
    for handle in handles:
        handle.remove()
    assert seen == {"teacher": {of_teacher}, "student": {of_student}}
    assert {p.dtype for model in (teacher, student) for p in model.parameters()} == {torch.float32}
    assert_finite_losses(trainer, 2)


def test_paper_reduction_trains(teacher, tmp_path):
    trainer = distilled(teacher, tmp_path, loss_reduction="paper", projection="shared")
    assert_finite_losses(trainer, 6)
    assert {n for n in factories.weights(trainer) if n.startswith("projections.")} == {
        "projections.linear.shared.weight",
        "projections.linear.shared.bias",
    }


def test_regression(encoder, household, tmp_path):
    teacher = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1, problem_type="regression")
    rows = household["train"].select(range(64))
    data = rows.remove_columns("labels").add_column("labels", [len(row) / 10 for row in rows["input_ids"]])
    student = factories.small_student(teacher)
    trainer = factories.trainer(
        student, teacher, factories.arguments(tmp_path, **SHORT), train_dataset=data, eval_dataset=data
    )
    trainer.train()
    assert len(series(trainer, "loss_prediction")) == 3
    expected = trainer.predict(data).predictions.reshape(-1)
    trainer.model = teacher
    teachers = trainer.predict(data).predictions.reshape(-1)
    trainer.model = student
    assert trainer.evaluate()["eval_teacher_mse"] == pytest.approx(np.mean((expected - teachers) ** 2), rel=1e-4)


def test_a_teacher_given_by_folder(teacher_folder, teacher, tmp_path):
    trainer = factories.trainer(
        factories.small_student(teacher),
        teacher_folder,
        factories.arguments(tmp_path, **SHORT),
        teacher_init_kwargs={"dtype": torch.bfloat16},
    )
    assert trainer.teacher.dtype == torch.bfloat16
    trainer.train()
    assert_finite_losses(trainer, 6)


# Refusals, before any training


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ({}, {"teacher": None}, "needs a teacher: a model, a folder or a Hub id"),
        (
            {"layer_mapping": "0:0,3:4"},
            {},
            r"3:4 is out of range: the student has layers 0\.\.2 and the teacher 0\.\.4 ",
        ),
        ({"layer_weights": "3:2"}, {}, r"names layer 3; the student has layers 1\.\.2"),
        ({}, {"compute_loss_func": class_weighted}, "hard_label_weight is 0"),
        ({}, {"teacher_init_kwargs": {"dtype": "auto"}}, "given by name; this one is already loaded"),
    ],
)
def test_refusals(arguments, changes, message, teacher, tmp_path):
    args = factories.arguments(tmp_path, **arguments)
    settings = {"model": factories.small_student(teacher), "teacher": teacher, "args": args} | changes
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(train_dataset=factories.household()["train"], **settings)


def test_plain_arguments_are_refused_by_name(teacher, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match="needs DistillationTrainingArguments, got TrainingArguments"):
        DistillationTrainer(model=factories.small_student(teacher), teacher=teacher, args=args)


def test_data_parallel_is_refused_with_the_launcher_to_use(teacher, tmp_path):
    args = factories.arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match=r"2 GPUs are visible to one process.*`torchrun --nproc-per-node N`"):
        factories.trainer(factories.small_student(teacher), teacher, args)


def test_heads_labels_vocabularies_and_lengths_must_fit(teacher, household, tmp_path):
    def refused(message, student=None, **changes):
        args = changes.pop("args", factories.arguments(tmp_path))
        with pytest.raises(ValueError, match=message):
            factories.trainer(student or factories.small_student(teacher), teacher, args, **changes)

    three = factories.small_student(teacher, num_attention_heads=3)
    refused("teacher has 4 heads and the student 3", three, args=factories.arguments(tmp_path, head_matching="heads"))
    other = factories.small_student(teacher)
    other.config.id2label = {**other.config.id2label, 0: "poetry"}
    refused("different labels[^$]*teacher: [^$]*student: [^$]*poetry", other)
    other = factories.small_student(teacher)
    other.config.vocab_size = 100
    refused("vocabulary of 1500 tokens and the student of 100", other)
    long = household["train"].select(range(2)).remove_columns(["input_ids", "attention_mask", "token_type_ids"])
    long = long.add_column("input_ids", [[101] * 600, [101] * 5])
    refused("600 tokens is longer than the 512 positions", train_dataset=long)
    refused("Teacher and student are the same object", teacher)


def test_another_order_of_labels_is_matched_by_name(teacher, household, tmp_path):
    """Data, student and metrics in one order, the teacher in another: the same run as with one order for all."""
    backwards = list(reversed(range(12)))
    logs, measured = [], []
    for order in (list(range(12)), backwards):
        student = factories.small_student(teacher)
        names = {index: teacher.config.id2label[place] for index, place in enumerate(order)}
        student.config.id2label, student.config.label2id = names, {name: index for index, name in names.items()}
        with torch.no_grad():
            student.classifier.weight.copy_(student.classifier.weight[order])
        position = {place: index for index, place in enumerate(order)}
        data = {
            split: rows.map(lambda row, position=position: {"labels": position[row["labels"]]})
            for split, rows in (
                ("train", household["train"].select(range(48))),
                ("eval", household["eval"].select(range(48))),
            )
        }
        args = factories.arguments(tmp_path, **SHORT | {"hard_label_weight": 0.5, "phases": "joint"})
        trainer = factories.trainer(
            student,
            teacher,
            args,
            train_dataset=data["train"],
            eval_dataset=data["eval"],
            compute_metrics=metrics.accuracy,
        )
        trainer.train()
        logs.append(series(trainer, "loss_prediction") + series(trainer, "loss_hard_label"))
        measured.append([trainer.evaluate(), trainer.evaluate_teacher()])
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert measured[0][1]["teacher_accuracy"] > 0.5
    for ours, theirs in zip(*measured, strict=True):
        for name in ours:
            if "loss" in name or "accuracy" in name or name in ("eval_agreement", "eval_kl"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def second_teacher(teacher):
    """Another real teacher: the first one's weights, a little disturbed, its labels backwards."""
    torch.manual_seed(7)
    other = copy.deepcopy(teacher)
    names = dict(enumerate(reversed(list(teacher.config.id2label.values()))))
    other.config.id2label, other.config.label2id = names, {name: index for index, name in names.items()}
    with torch.no_grad():
        other.classifier.weight.copy_(
            other.classifier.weight.flip(0) + 0.05 * torch.randn_like(other.classifier.weight)
        )
        other.classifier.bias.copy_(other.classifier.bias.flip(0))
    return other


def test_several_teachers_are_averaged_in_the_order_of_the_first(teacher, household, tmp_path):
    other, batch = second_teacher(teacher), tiny_models.sentences(8, labels=True)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    trainer = factories.trainer(
        factories.small_student(teacher),
        [teacher, other],
        factories.arguments(tmp_path, **SHORT),
        teacher_weights=[3, 1],
        compute_metrics=metrics.accuracy,
    )
    assert trainer.teacher_weights == [0.75, 0.25]
    with torch.no_grad():
        expected = 0.75 * teacher(**inputs).logits + 0.25 * other(**inputs).logits.flip(-1)
    found = trainer._teachers.source().features(batch, intermediate=False, prediction=True).logits
    torch.testing.assert_close(found, expected)
    trainer.train()
    assert len(series(trainer, "loss_attention_1")) == len(series(trainer, "loss_prediction")) == 3
    assert len(trainer.student.config.tinybert["teacher"]) == 2
    rows = household["eval"].select(range(48))
    with torch.no_grad():
        every = dict(DataCollatorWithPadding(factories.tokenizer())(list(rows)))
        gold = every.pop("labels")
        logits = 0.75 * teacher(**every).logits + 0.25 * other(**every).logits.flip(-1)
    measured = trainer.evaluate_teacher(rows)
    assert measured["teacher_accuracy"] == pytest.approx((logits.argmax(-1) == gold).float().mean().item())
    assert measured["teacher_loss"] == pytest.approx(F.cross_entropy(logits, gold).item(), rel=1e-4)


def test_logits_of_several_teachers_are_cached_for_these_and_no_others(teacher, tmp_path):
    logs = []
    for cache, weights in (("none", [3, 1]), ("logits", [3, 1]), ("logits", [3, 1]), ("logits", [1, 3])):
        torch.manual_seed(0)
        options = {"teacher_cache": cache, "teacher_cache_dir": str(tmp_path / "cache"), "phases": "prediction"}
        options["max_steps"] = 3
        trainer = factories.trainer(
            factories.small_student(teacher),
            [teacher, second_teacher(teacher)],
            factories.arguments(tmp_path / "out", **SHORT | options),
            teacher_weights=weights,
            train_dataset=factories.household()["train"].select(range(40)),
        )
        trainer.train()
        logs.append(series(trainer, "loss_prediction"))
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert logs[1] == pytest.approx(logs[2], rel=1e-6)
    assert logs[3] != pytest.approx(logs[2], rel=1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_teachers_that_cannot_be_averaged(teacher, tmp_path):
    def refused(message, teachers, weights=None, **changes):
        args = factories.arguments(tmp_path, **changes)
        with pytest.raises(ValueError, match=message):
            factories.trainer(factories.small_student(teacher), teachers, args, teacher_weights=weights)

    refused("needs a teacher: a model, a folder or a Hub id", [])
    refused("at least 0 for each of 2 teachers", [teacher, teacher], [1.0])
    refused("at least 0 for each of 2 teachers", [teacher, teacher], [-1.0, 2.0])
    refused("phases='intermediate' matches no logits", [teacher, teacher], phases="intermediate")
    other = tiny_models.model(vocab_size=1500, num_labels=12)
    other.config.vocab_size = 100
    refused("Teacher 2 has a vocabulary of 100 tokens and the first of 1500", [teacher, other])
    names = {index: f"other {index}" for index in range(12)}
    labels = {"num_labels": 12, "id2label": names, "label2id": {name: index for index, name in names.items()}}
    unlike = tiny_models.model(vocab_size=1500, **labels)
    refused("Teacher 2 and the first teacher.*different labels", [teacher, unlike])
    tagger = tiny_models.model(vocab_size=1500, auto=AutoModelForTokenClassification)
    refused("their logits cannot be averaged", [teacher, tagger])


def test_no_attention_loss_no_need_for_equal_heads(teacher, tmp_path):
    student = factories.small_student(teacher, num_attention_heads=3)
    trainer = distilled(teacher, tmp_path, student, attention_weight=0.0, head_matching="heads", max_steps=2)
    assert series(trainer, "loss_attention_1") == []
    assert len(series(trainer, "loss_hidden_1")) == 1


def test_an_input_that_is_too_long_is_refused_in_the_step_too(teacher, household, tmp_path):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return {"input_ids": [101] * 600, "attention_mask": [1] * 600, "labels": 0}

    trainer = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path, **SHORT), train_dataset=Rows()
    )
    with pytest.raises(ValueError, match="600 tokens is longer than the 512 positions"):
        trainer.train()


def test_a_nan_loss_ends_the_run_with_advice(teacher, tmp_path):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        distilled(teacher, tmp_path, intermediate_learning_rate=1e30, learning_rate=1e30)


def test_a_nan_loss_is_seen_in_a_run_that_logs_nothing(teacher, tmp_path):
    """Fewer steps than logging_steps: the mean that is said at the end is all there is."""
    with pytest.raises(FloatingPointError, match="The loss is nan at step"):
        distilled(teacher, tmp_path, intermediate_learning_rate=1e30, learning_rate=1e30, logging_steps=500)


def test_nothing_is_written_where_nothing_was_trained(teacher, tmp_path):
    args = factories.arguments(tmp_path / "out", layer_mapping="0:0,9:9")
    with pytest.raises(ValueError, match="9:9 is out of range"):
        factories.trainer(factories.small_student(teacher), teacher, args)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_predictions_come_back_in_the_order_of_the_data(teacher, tmp_path):
    """Grouping by length, on by default, is for training: the stock Trainer permutes predictions with it."""
    trained = factories.trainer(factories.small_student(teacher), teacher, factories.arguments(tmp_path))
    data = factories.household()["eval"]
    assert compat.groups_by_length(trained.args)
    predicted = trained.predict(data)
    assert predicted.label_ids.tolist() == data["labels"]


def test_training_batches_hold_similar_lengths_padded_to_a_multiple_of_8(teacher, tmp_path):
    args = factories.arguments(tmp_path, per_device_train_batch_size=16)
    kwargs = {"train_dataset": factories.household()["train"], "processing_class": factories.tokenizer()}
    trained = DistillationTrainer(factories.small_student(teacher), args, teacher=teacher, **kwargs)
    masks = [batch["attention_mask"] for batch in trained.get_train_dataloader()]
    assert all(mask.shape[1] % 8 == 0 for mask in masks)
    waste = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    by_chance = DistillationTrainer(
        factories.small_student(teacher),
        factories.arguments(tmp_path, per_device_train_batch_size=16, **compat.random_order_argument()),
        teacher=teacher,
        **kwargs,
    )
    masks = [batch["attention_mask"] for batch in by_chance.get_train_dataloader()]
    assert waste < 0.6 * (1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))


def test_a_collator_of_the_user_is_left_alone(teacher, tmp_path):
    collator = DataCollatorWithPadding(factories.tokenizer())
    for given in ({"data_collator": collator}, {}):
        positional = () if given else (collator,)
        args = factories.arguments(tmp_path)
        kwargs = {"teacher": teacher, "processing_class": factories.tokenizer(), **given}
        DistillationTrainer(factories.small_student(teacher), args, *positional, **kwargs)
        assert collator.pad_to_multiple_of is None


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(factories.household()["train"].select_columns(["input_ids", "attention_mask", "labels"]))


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        row = factories.household()["train"][index]
        return {name: row[name] for name in ("input_ids", "attention_mask", "labels")}


@pytest.mark.parametrize("data", [Stream(), Rows()], ids=["stream", "map-style"])
def test_data_of_unknown_lengths_are_taken_as_they_come(data, teacher, tmp_path):
    args = factories.arguments(tmp_path, max_steps=2)
    trained = factories.trainer(factories.small_student(teacher), teacher, args, train_dataset=data)
    trained.train()
    assert trained.state.global_step == 2
    assert compat.groups_by_length(args)


def test_the_teacher_is_evaluated_as_the_student_is(teacher, household, tmp_path):
    """Several data sets, one of them by name, and metrics that are no numbers."""

    def metrics(prediction):
        return {"rows": len(prediction.label_ids), "by_class": {"a": 1.0}}

    args = factories.arguments(tmp_path, max_steps=2)
    both = {"first": household["eval"].select(range(8)), "second": household["eval"].select(range(12))}
    student = factories.small_student(teacher)
    trainer = factories.trainer(student, teacher, args, eval_dataset=both, compute_metrics=metrics)
    measured = trainer.evaluate() | trainer.evaluate_teacher()
    assert [measured[f"{who}_{name}_rows"] for who in ("eval", "teacher") for name in both] == [8, 12, 8, 12]
    assert trainer.evaluate_teacher("second")["teacher_rows"] == 12
    scores = {one.split: (one.student["rows"], one.teacher["rows"]) for one in trainer.recorder.scores()}
    assert scores == {"eval_first": (8, 8), "eval_second": (12, 12)}
