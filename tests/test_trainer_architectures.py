"""Every family as teacher and student, randomly initialised (no weights of theirs are to be had), on real requests."""

from __future__ import annotations

import factories
import pytest
import tiny_models
import torch
from transformers import AutoModelForSequenceClassification, set_seed

from hf_tinybert import create_student
from hf_tinybert.models.architectures import Encoder

pytestmark = pytest.mark.also_transformers("4.57")

STEPS = {"max_steps": 24, "logging_steps": 4, "learning_rate": 1e-2, "seed": 1}


def labels():
    names = dict(enumerate(factories.intents()))
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}, "num_labels": len(names)}


def teacher_of(family):
    return tiny_models.model(family, vocab_size=len(factories.tokenizer()), pad_token_id=0, **labels())


def student_of(teacher, family):
    """Two layers, half as wide; `bert`, or the teacher's own family."""
    set_seed(0)
    if family == "bert":
        return create_student(teacher, tiny_models.small_config(teacher, hidden_dropout_prob=0.0), init="random")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 20,
        "vocab_size": teacher.config.vocab_size,
    }
    config = tiny_models.config(family, pad_token_id=0, **sizes, **labels())
    return create_student(teacher, config, init="random")


def run(teacher, student, folder, **changes):
    """Some of the requests, over and over: how far a loss falls is then no matter of the last batches."""
    args = factories.arguments(folder, **(STEPS | changes))
    rows = factories.household()["train"].select(range(32))
    trainer = factories.trainer(student, teacher, args, train_dataset=rows)
    trainer.train()
    return trainer, {
        name: [entry[name] for entry in trainer.state.log_history if name in entry]
        for entry in trainer.state.log_history
        for name in entry
        if name.startswith("loss_")
    }


@pytest.mark.parametrize("own", [False, True], ids=["bert student", "own student"])
@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_every_level_of_every_family_is_learnt(family, own, tmp_path):
    if own and family == "bert":
        pytest.skip("BERT's own student is a BERT")
    teacher = teacher_of(family)
    student = student_of(teacher, family if own else "bert")
    trainer, series = run(teacher, student, tmp_path, phases="joint", prediction_weight=1.0)
    layers = Encoder.from_model(student).num_layers
    levels = {"embedding", "prediction", *(f"{kind}_{m}" for kind in ("hidden", "attention") for m in (1, layers))}
    assert {name.removeprefix("loss_") for name in series} == levels
    for name, values in series.items():
        assert len(values) == 6
        # A BERT can say little of the scores of a random model that turns queries and keys by their positions.
        turned = family == "modernbert" and not own and name.startswith("loss_attention")
        assert values[-1] < (0.99 if turned else 0.97) * values[0], name
    assert not tiny_models.hooks(teacher) + tiny_models.hooks(trainer.model)
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    batch = tiny_models.sentences(4)
    inputs = {name: value for name, value in batch.items() if name != "token_type_ids"}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, trainer.model.eval()(**inputs).logits)


def test_scores_with_a_bias_of_tokens_cannot_be_cached(tmp_path):
    teacher = teacher_of("deberta-v2")
    cache = {"teacher_cache_dir": str(tmp_path / "cache"), "max_steps": 4, "logging_steps": 2}
    with pytest.raises(ValueError, match=r"teacher_cache='features' cannot be.*head_matching='relations'"):
        run(teacher, student_of(teacher, "bert"), tmp_path, teacher_cache="features", **cache)
    assert not tiny_models.hooks(teacher)
    relations = {"teacher_cache": "features", "head_matching": "relations"} | cache
    series = run(teacher, student_of(teacher, "bert"), tmp_path, **relations)[1]
    assert len(series["loss_attention_1"]) == 1


@pytest.mark.parametrize("family", ["albert", "modernbert", "mpnet"])
def test_a_cache_gives_what_the_live_teacher_gives(family, tmp_path):
    teacher, logs = teacher_of(family), []
    for cache in ("none", "features"):
        options = {"teacher_cache": cache, "teacher_cache_dir": str(tmp_path / "cache"), "learning_rate": 1e-3}
        options |= {"teacher_cache_dtype": "float32", "max_steps": 8, "logging_steps": 2}
        logs.append(run(teacher, student_of(teacher, "bert"), tmp_path, **options)[1])
    assert logs[0].keys() == logs[1].keys()
    for name, values in logs[0].items():
        assert logs[1][name] == pytest.approx(values, rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_compiled_training_is_the_same(family, tmp_path):
    """Teacher and student compiled (`torch_compile`), both phases: the same series as without."""
    logs = []
    for compiled in (False, True):
        teacher = teacher_of(family)
        options = {"max_steps": 12, "logging_steps": 3, "learning_rate": 1e-3, "torch_compile": compiled}
        options["torch_compile_backend"] = "aot_eager" if compiled else None
        logs.append(run(teacher, tiny_models.undropped(student_of(teacher, family)), tmp_path, **options)[1])
        assert not tiny_models.hooks(teacher)
    assert logs[0].keys() == logs[1].keys()
    assert {"loss_embedding", "loss_hidden_1", "loss_attention_1", "loss_prediction"} <= logs[0].keys()
    for name, values in logs[0].items():
        assert logs[1][name] == pytest.approx(values, rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("kind", ["mean", "mixing", "relations"])
def test_sixteen_heads_teach_twelve(kind, tmp_path):
    teacher = tiny_models.model(
        vocab_size=len(factories.tokenizer()), pad_token_id=0, hidden_size=32, num_attention_heads=16, **labels()
    )
    config = tiny_models.small_config(teacher, hidden_size=24, num_attention_heads=12)
    student = create_student(teacher, config, init="random")
    trainer, series = run(teacher, student, tmp_path, head_matching=kind)
    assert series["loss_attention_1"][-1] < 0.97 * series["loss_attention_1"][0]
    mixing = dict(trainer._objective.projections.mixing)
    expected = {"1": (16, 12), "2": (16, 12)} if kind == "mixing" else {}
    assert {name: weight.shape for name, weight in mixing.items()} == expected
    if kind == "mixing":
        assert not torch.equal(mixing["1"], trainer._objective.settings.heads.start_of_mixing()), "never learnt"


def test_a_mixture_of_heads_comes_back_from_a_checkpoint(tmp_path):
    """From the middle of the phase that trains the mixture."""
    teacher = teacher_of("bert")
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 4}
    trained = []
    for resume in (False, True):
        set_seed(0)
        config = tiny_models.small_config(teacher, hidden_size=15, num_attention_heads=3, hidden_dropout_prob=0.0)
        student = create_student(teacher, config, init="random")
        trainer = factories.trainer(student, teacher, factories.arguments(tmp_path, **(STEPS | options)))
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4") if resume else None)
        trained.append(factories.weights(trainer))
    assert {name for name in trained[0] if "mixing" in name} == {"projections.mixing.1", "projections.mixing.2"}
    assert trained[1].keys() == trained[0].keys()
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, msg=name)
