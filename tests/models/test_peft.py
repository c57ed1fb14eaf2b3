"""LoRA teachers and students with peft's own files and classes, on the real teacher and real requests."""

from __future__ import annotations

import copy

import factories
import pytest
import tiny_models
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, pipeline

from hf_tinybert import DistillationTrainer, merge_adapter
from hf_tinybert.models import peft as adapters
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer
from hf_tinybert.utils.hashing import weights_digest

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.also_transformers("4.57")


def lora(**changes):
    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 64, "target_modules": ["query", "value"]}
    return peft.LoraConfig(**(settings | changes))


def with_adapter(model, seed=0, **changes):
    """An adapter that does something: peft's own starts at nothing."""
    adapted = peft.get_peft_model(model, lora(**changes))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=source)
    return adapted.eval()


def logits(model):
    with torch.no_grad():
        return model.eval()(**tiny_models.sentences(8)).logits


def test_a_merged_copy_says_the_same_and_the_adapter_is_left_untouched(teacher):
    adapted = with_adapter(teacher)
    before, digest = logits(adapted), weights_digest(adapted)
    merged = merge_adapter(adapted)
    assert type(merged) is type(teacher)
    assert weights_digest(adapted) == digest
    torch.testing.assert_close(logits(merged), before, atol=1e-5, rtol=1e-5)
    plain = factories.load(teacher.config._name_or_path)
    assert not torch.allclose(before, logits(plain), atol=1e-2), "the adapter does nothing"
    assert merge_adapter(plain) is plain


def test_parts_are_found_under_an_adapter(teacher):
    names = [type(layer) for layer in Encoder.from_model(teacher).layers]
    assert [type(layer) for layer in Encoder.from_model(with_adapter(teacher)).layers] == names


@pytest.mark.parametrize("form", ["model", "folder"])
def test_a_teacher_with_an_adapter(form, teacher, teacher_folder, tmp_path):
    adapted = with_adapter(teacher)
    expected, digest = logits(adapted), weights_digest(adapted)
    given = adapted
    if form == "folder":
        adapted.save_pretrained(tmp_path / "adapter")
        factories.tokenizer().save_pretrained(tmp_path / "adapter")
        given = tmp_path / "adapter"
    student = factories.small_student(teacher if form == "model" else factories.load(teacher_folder))
    args = factories.arguments(tmp_path / "out", max_steps=4, logging_steps=2)
    trainer = factories.trainer(student, given, args)
    torch.testing.assert_close(logits(trainer.teacher), expected, atol=1e-5, rtol=1e-5)
    trainer.train()
    assert trainer.student.config.tinybert["teacher"].startswith("sha256:")
    assert weights_digest(adapted) == digest
    assert trainer.teacher.config.id2label == factories.load(teacher_folder).config.id2label


def test_an_adapter_knows_the_number_of_its_labels(encoder, tmp_path):
    names = {index: f"LABEL_{index}" for index in range(5)}
    model = AutoModelForSequenceClassification.from_pretrained(encoder, id2label=names)
    adapted = with_adapter(model)
    adapted.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, AutoModelForSequenceClassification)
    assert loaded.config.num_labels == 5
    torch.testing.assert_close(logits(loaded), logits(adapted), atol=1e-5, rtol=1e-5)


def test_an_adapter_without_a_tokenizer_has_its_base_models(teacher, teacher_folder, tmp_path):
    with_adapter(teacher).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, "teacher").get_vocab() == factories.tokenizer().get_vocab()
    assert load_config(tmp_path).id2label == factories.load(teacher_folder).config.id2label


def test_an_adapter_without_a_task_head_is_refused(encoder, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(encoder)
    with_adapter(model, task_type=None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter without a task head, and its base model"):
        load_model(tmp_path, AutoModelForSequenceClassification)


@pytest.fixture(scope="module")
def trained(teacher_folder, tmp_path_factory):
    """A run with a checkpoint in the middle."""
    folder, teacher = tmp_path_factory.mktemp("lora"), factories.load(teacher_folder)
    trainer = run(folder, teacher, save_strategy="steps", save_steps=6)
    trainer.train()
    trainer.save_model(str(folder / "student"))
    return folder, teacher, trainer, trainer.evaluate()


def run(folder, teacher, **changes) -> DistillationTrainer:
    args = factories.arguments(folder, max_steps=12, learning_rate=3e-3, **changes)
    torch.manual_seed(0)
    student = factories.small_student(teacher)
    torch.manual_seed(0)
    return factories.trainer(student, teacher, args, peft_config=lora(target_modules=["query", "key", "dense"]))


def test_only_adapter_head_and_projections_are_trained(trained):
    _, teacher, trainer, _ = trained
    start = factories.small_student(teacher)
    after = dict(adapters.unwrapped(trainer.student).named_parameters())
    for name, value in start.named_parameters():
        inside = name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        if name in after:
            assert torch.equal(after[name], value), name
        elif inside in after:
            assert torch.equal(after[inside], value), name
    moved = [parameter for name, parameter in after.items() if "lora_B" in name]
    assert moved
    assert all(parameter.abs().max() > 0 for parameter in moved)
    losses = [entry for entry in trainer.state.log_history if "loss_attention_1" in entry]
    assert [entry["step"] for entry in losses] == [5, 10]


def test_the_saved_adapter_loads_with_pipeline(trained):
    folder, teacher, trainer, _ = trained
    assert not (folder / "student" / "model.safetensors").exists()
    answer = pipeline("text-classification", model=str(folder / "student"), top_k=None)
    text = factories.requests(1)[0]
    said = answer(text)
    found = {item["label"]: item["score"] for item in (said[0] if isinstance(said[0], list) else said)}
    assert set(found) == set(teacher.config.id2label.values())
    batch = factories.tokenizer()(text, return_tensors="pt")
    with torch.no_grad():
        expected = trainer.student.eval()(**batch).logits.softmax(-1)[0]
    for index, name in teacher.config.id2label.items():
        assert found[name] == pytest.approx(expected[index].item(), abs=1e-5)


def test_the_merged_student_is_a_plain_bert_with_the_same_outputs(trained, tmp_path):
    trainer = trained[2]
    merge_adapter(trainer.student).save_pretrained(tmp_path)
    factories.tokenizer().save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(logits(loaded), logits(trainer.student), atol=1e-5, rtol=1e-5)
    assert pipeline("text-classification", model=str(tmp_path))("hello")[0]["label"] in factories.intents()


def test_resuming_ends_in_the_same_adapter(trained, tmp_path):
    folder, teacher, whole, _ = trained
    trainer = run(tmp_path, teacher)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-6"))
    expected = whole.student.state_dict()
    for name, value in trainer.student.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_evaluation_knows_the_student_under_its_adapter(trained):
    assert {"eval_loss", "eval_agreement", "eval_kl"} <= trained[3].keys()


def test_a_second_adapter_is_refused(teacher, tmp_path):
    student = peft.get_peft_model(factories.small_student(teacher), lora())
    with pytest.raises(ValueError, match="already has one"):
        factories.trainer(student, teacher, factories.arguments(tmp_path), peft_config=lora())


def test_a_student_may_come_with_its_adapter(teacher, tmp_path):
    student = peft.get_peft_model(factories.small_student(teacher), lora())
    before = copy.deepcopy(adapters.unwrapped(student).state_dict())
    trainer = factories.trainer(student, teacher, factories.arguments(tmp_path, max_steps=4))
    trainer.train()
    after = adapters.unwrapped(trainer.student).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora" in name or "classifier" in name for name in changed)


def test_an_adapter_of_question_answering_has_its_head(encoder, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_pretrained(encoder)
    adapted = with_adapter(model, task_type="QUESTION_ANS")
    adapted.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, AutoModelForQuestionAnswering)
    batch = tiny_models.sentences(4)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.eval()(**batch).start_logits, adapted(**batch).start_logits, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("order", ["adapter, another adapter", "adapter, plain", "plain, adapter"])
def test_the_last_model_of_a_folder_is_what_is_loaded(order, teacher, tmp_path):
    for number, kind in enumerate(order.split(", ")):
        torch.manual_seed(0)
        settings = {} if kind == "plain" else {"peft_config": lora(target_modules=["query"])}
        student = factories.small_student(teacher, init=("random", "teacher")[number])
        args = factories.arguments(tmp_path, max_steps=2, learning_rate=1e-3)
        trainer = factories.trainer(student, teacher, args, **settings)
        trainer.train()
        trainer.save_model()
    loaded = load_model(tmp_path, AutoModelForSequenceClassification)
    torch.testing.assert_close(logits(loaded), logits(trainer.student), atol=1e-5, rtol=1e-5)
    answer = pipeline("text-classification", model=str(tmp_path))("wake me at seven")[0]
    expected = logits_of_text(trainer, "wake me at seven").softmax(-1).max().item()
    assert answer["score"] == pytest.approx(expected, abs=1e-5)


def logits_of_text(trainer, text):
    with torch.no_grad():
        return trainer.student.eval()(**factories.tokenizer()(text, return_tensors="pt")).logits
