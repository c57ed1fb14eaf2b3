"""Students without a head: their vectors become the teacher's, and sentence-transformers opens them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import factories
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, DataCollatorWithPadding, set_seed

from hf_tinybert import DistillationTrainer, create_student
from hf_tinybert.models import sentence_transformers_files

TEXTS = ["turn on the lights in the kitchen", "is it going to rain", "play some jazz", "wake me up at seven tomorrow"]


pytestmark = pytest.mark.also_transformers("4.57")


@pytest.fixture
def teacher(encoder):
    return AutoModel.from_pretrained(encoder)


def unlabelled(split, count=None):
    rows = factories.household()[split].remove_columns(["labels"])
    return rows if count is None else rows.select(range(count))


def student_of(teacher, **sizes):
    """Half as wide as its teacher, or of other sizes."""
    set_seed(0)
    config = factories.student_config(teacher, hidden_dropout_prob=0.0, **sizes)
    calibration = DataCollatorWithPadding(factories.tokenizer())(list(unlabelled("train", 64)))
    return create_student(teacher, config, calibration=calibration)


def trainer_of(teacher, student, folder, changes=None, **arguments):
    settings = {
        "model": student,
        "teacher": teacher,
        "args": factories.arguments(folder, **arguments),
        "train_dataset": unlabelled("train"),
        "eval_dataset": unlabelled("eval", 48),
        "processing_class": factories.tokenizer(),
    }
    return DistillationTrainer(**(settings | (changes or {})))


def vectors_of(model, texts, pooling="mean"):
    """A model's pooled vectors in float64, one text at a time."""
    found = []
    for text in texts:
        with torch.no_grad():
            hidden = model(**factories.tokenizer()(text, return_tensors="pt")).last_hidden_state[0].double()
        found.append(hidden.mean(0) if pooling == "mean" else hidden[0])
    return torch.stack(found)


@pytest.mark.parametrize("width", [48, 96])
def test_from_two_phases_to_sentence_transformers(width, teacher, encoder, tmp_path):
    """Both phases by default; narrower, the folder has a linear layer to the teacher's width."""
    student = student_of(teacher, hidden_size=width)
    trainer = trainer_of(teacher, student, tmp_path, max_steps=24, learning_rate=1e-3)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_cosine_vectors"] > before["eval_cosine_vectors"]
    assert after["eval_loss_vectors"] == pytest.approx(2 - 2 * after["eval_cosine_vectors"], abs=1e-4)
    assert [entry["step"] for entry in trainer.state.log_history if "loss_prediction" in entry] == [15, 20]
    trainer.save_model(str(tmp_path / "student"))
    theirs = torch.from_numpy(SentenceTransformer(encoder).encode(TEXTS)).double()
    opened = SentenceTransformer(str(tmp_path / "student"))
    assert [type(m).__name__ for m in opened if type(m).__name__ != "Dense"] == ["Transformer", "Pooling", "Normalize"]
    ours = torch.from_numpy(opened.encode(TEXTS)).double()
    expected = vectors_of(trainer.model.eval(), TEXTS)
    dense = trainer._objective.projections.of_vectors
    assert (dense is None) == (width == 96)
    if dense is not None:
        expected = expected @ dense.weight.double().T + dense.bias.double()
    torch.testing.assert_close(ours, F.normalize(expected), atol=1e-5, rtol=1e-4)
    assert F.cosine_similarity(ours, theirs).mean() > 0.6
    plain = AutoModel.from_pretrained(tmp_path / "student")
    assert torch.equal(plain.embeddings.word_embeddings.weight, trainer.model.embeddings.word_embeddings.weight)


def test_metrics_see_the_vectors_of_both(teacher, tmp_path):
    """`compute_metrics` gets the student's vectors and, as labels, the teacher's; the teacher is measured as well."""
    seen = []

    def keep(prediction):
        seen.append((prediction.predictions, prediction.label_ids))
        return {"rows": float(len(prediction.predictions))}

    data = Dataset.from_dict(dict(factories.tokenizer()(TEXTS)))
    trainer = trainer_of(
        teacher, student_of(teacher), tmp_path, {"compute_metrics": keep, "eval_dataset": data}, phases="prediction"
    )
    assert trainer.evaluate()["eval_rows"] == 4
    assert trainer.evaluate_teacher()["teacher_rows"] == 4
    expected = vectors_of(teacher, TEXTS).numpy()
    for _, labels in seen:
        np.testing.assert_allclose(labels, expected, atol=1e-5)
    np.testing.assert_allclose(seen[1][0], expected, atol=1e-5)
    assert seen[0][0].shape == (4, 96)
    assert not np.allclose(seen[0][0], expected, atol=0.1)


def test_logits_cache_and_checkpoints_hold_vectors(teacher, tmp_path):
    """With a cache, and resumed after half of the run, the weights are those of a run without either."""
    runs = {}
    for name, arguments in {
        "plain": {},
        "cached": {"teacher_cache": "logits", "teacher_cache_dir": str(tmp_path / "cache")},
    }.items():
        trainer = trainer_of(
            teacher,
            student_of(teacher),
            tmp_path / name,
            max_steps=6,
            save_strategy="steps",
            save_steps=4,
            **arguments,
        )
        trainer.train()
        runs[name] = factories.weights(trainer)
    resumed = trainer_of(teacher, student_of(teacher), tmp_path / "plain", max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-4"))
    runs["resumed"] = factories.weights(resumed)
    assert "projections.linear.vectors.weight" in runs["plain"]
    for name in ("cached", "resumed"):
        for key, value in runs["plain"].items():
            torch.testing.assert_close(runs[name][key], value, atol=1e-5, rtol=1e-4, msg=f"{name} {key}")


def test_a_saved_student_goes_on_from_its_linear_layer(teacher, tmp_path):
    trainer = trainer_of(teacher, student_of(teacher), tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    first = trainer.evaluate()
    again = trainer_of(teacher, create_student(teacher, str(tmp_path / "student")), tmp_path, phases="prediction")
    assert again.evaluate()["eval_loss_vectors"] == pytest.approx(first["eval_loss_vectors"], abs=1e-5)


def test_the_pooling_is_the_teachers(teacher, minilm, tmp_path):
    config = AutoConfig.from_pretrained(minilm)
    assert sentence_transformers_files.pooling_of(SimpleNamespace(config=config)) == "mean"
    assert sentence_transformers_files.pooling_of(teacher) is None
    teacher.save_pretrained(tmp_path / "cls")
    sentence_transformers_files.write(tmp_path / "cls", 96, "cls", 512)
    teacher = AutoModel.from_pretrained(tmp_path / "cls")
    assert sentence_transformers_files.pooling_of(teacher) == "cls"
    data = Dataset.from_dict(dict(factories.tokenizer()(TEXTS)))
    for asked, pooling in ((None, "cls"), ("mean", "mean")):
        seen = []
        changes = {"eval_dataset": data, "compute_metrics": lambda p, seen=seen: seen.append(p.label_ids) or {}}
        trainer_of(teacher, student_of(teacher), tmp_path, changes, phases="prediction", pooling=asked).evaluate()
        np.testing.assert_allclose(seen[0], vectors_of(teacher, TEXTS, pooling).numpy(), atol=1e-5)
    config = tmp_path / "cls" / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"word_embedding_dimension": 96, "pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match=r"pools its vectors by .*max_tokens.*; supported are mean, cls"):
        trainer_of(teacher, student_of(teacher), tmp_path, phases="prediction")


def test_what_a_headless_student_cannot_do(teacher, tmp_path):
    with pytest.raises(ValueError, match="a model without a head has no labels"):
        trainer_of(teacher, student_of(teacher), tmp_path, hard_label_weight=0.5)
    with pytest.raises(ValueError, match="pooling must be one of mean, cls, got 'max'"):
        factories.arguments(tmp_path, pooling="max")
    with pytest.raises(ValueError, match="vector spaces of several sentence encoders differ"):
        trainer_of([teacher, teacher], student_of(teacher), tmp_path)
    layers = trainer_of(teacher, student_of(teacher), tmp_path, phases="intermediate")
    with pytest.raises(ValueError, match="no metrics of its own where only layers are matched"):
        layers.evaluate_teacher()


def test_layers_alone_leave_a_plain_folder(teacher, tmp_path):
    trainer = trainer_of(teacher, student_of(teacher), tmp_path, phases="intermediate", max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    assert not (tmp_path / "student" / "modules.json").exists()
    assert "eval_cosine_vectors" not in trainer.evaluate()


def test_the_best_checkpoint_is_the_best_whole(teacher, tmp_path):
    """Student and linear layer are of the same step."""
    scores = iter([3.0, 2.0, 1.0])
    changes = {"compute_metrics": lambda prediction: {"score": next(scores, 0.0)}}
    changes["eval_dataset"] = unlabelled("eval", 8)
    evaluating = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "phases": "prediction"}
    trainer = trainer_of(
        teacher, student_of(teacher), tmp_path, changes, max_steps=6, learning_rate=1e-3, **evaluating, **best
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    saved, last = (sentence_transformers_files.dense_of(str(tmp_path / name)) for name in ("student", "checkpoint-6"))
    first = sentence_transformers_files.dense_of(str(tmp_path / "checkpoint-2"))
    assert torch.equal(saved["weight"], first["weight"])
    assert not torch.equal(first["weight"], last["weight"])
