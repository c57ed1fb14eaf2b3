from __future__ import annotations

import copy

import factories
import numpy as np
import pytest
import tiny_models
import torch
import transformers
from transformers import AutoModel, ElectraConfig

from hf_tinybert.models.loading import fingerprint
from hf_tinybert.student import start as start_module
from hf_tinybert.student.projection_init import offered
from hf_tinybert.student.start import Start, student_class


def start_of(teacher, tokenizer=None, mapping="uniform", **overrides):
    shape = factories.student_config(teacher, **overrides).to_bert_config()
    return Start(teacher, shape, mapping, tokenizer)


@pytest.fixture
def another_encoder(encoder, tmp_path):
    """Of which the teacher was fine-tuned: it knows the texts, and has other weights now."""
    model = AutoModel.from_pretrained(encoder)
    model.save_pretrained(tmp_path / "encoder")
    factories.tokenizer().save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def test_each_way_to_start_is_recorded(teacher, another_encoder):
    start, texts = start_of(teacher), tiny_models.sentences(16)
    origins = {init: start.make(init, texts) for init in ("teacher", "random", another_encoder)}
    recorded = {init: student.config.tinybert["init"] for init, student in origins.items()}
    loaded = fingerprint(AutoModel.from_pretrained(another_encoder))
    assert recorded == {"teacher": "teacher", "random": "random", another_encoder: f"sha256:{loaded}"}
    assert [bool(offered(student)) for student in origins.values()] == [True, False, True]
    for student in origins.values():
        assert not student.training
        assert student.config.tinybert["teacher"] == f"sha256:{fingerprint(teacher)}"


def test_another_encoder_gives_embeddings_and_layers_and_the_teacher_the_head(teacher, another_encoder):
    """A student of the encoder's own size: its body is the encoder's, and its answers are the teacher's."""
    sizes = {"num_hidden_layers": 4, "hidden_size": 96, "intermediate_size": 192}
    student = start_of(teacher, **sizes).make(another_encoder, tiny_models.sentences(256, "train"))
    body = AutoModel.from_pretrained(another_encoder).state_dict()
    for name, value in student.bert.state_dict().items():
        if "pooler" not in name:
            torch.testing.assert_close(value, body[name], msg=name)
    batch = tiny_models.sentences(64)
    with torch.no_grad():
        ours, theirs = student(**batch).logits, teacher(**batch).logits
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.5
    assert (ours - theirs).square().mean() < 0.5 * (theirs - theirs.mean(0)).square().mean()


def test_the_mapping_is_the_given_one(teacher):
    sizes = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 192}
    texts = tiny_models.sentences(16)
    first, last = (start_of(teacher, mapping=mapping, **sizes).make("teacher", texts) for mapping in ("first", "last"))
    names = ("query", "key", "value")
    layers = teacher.bert.encoder.layer

    def distance(student, number):
        ours, theirs = student.bert.encoder.layer[1].attention.self, layers[number].attention.self
        return sum(float((getattr(ours, n).weight - getattr(theirs, n).weight).detach().norm()) for n in names)

    assert distance(first, 1) < 0.5 * distance(first, 2)
    assert distance(last, 2) < 0.5 * distance(last, 1)


def test_a_name_that_leads_nowhere_is_refused(teacher):
    with pytest.raises(ValueError, match="or the folder or Hub id of an encoder; 'zeros' could not be loaded"):
        start_of(teacher).make("zeros", None)


def divergence(student, teacher, batch):
    """The mean KL divergence, in numpy."""
    with torch.no_grad():
        q, p = (model(**batch).logits.double().softmax(-1).numpy() for model in (student, teacher))
    return float((p * np.log(p / q)).sum(-1).mean())


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("inits", [("random", "teacher"), ("teacher", "random")])
def test_of_several_starts_the_closer_one_is_taken_and_said(inits, teacher, caplog):
    start_module.logger.warning_once.cache_clear()
    texts = tiny_models.sentences(80, "train")
    student = start_of(teacher).best(inits, texts)
    assert student.config.tinybert["init"] == "teacher"
    assert f"Of the starts {', '.join(inits)}, teacher is taken: agreement" in caplog.text
    unseen = tiny_models.sentences(48)
    random = start_of(teacher).make("random", None)
    assert divergence(student, teacher, unseen) < 0.8 * divergence(random, teacher, unseen)


def test_a_spoiled_teacher_body_loses_to_an_encoder_that_knows_the_texts(teacher, another_encoder, monkeypatch):
    """What is closer decides, not what it is called."""
    made = Start.make

    def spoiled(self, init, calibration):
        student = made(self, init, calibration)
        if init == "teacher":
            with torch.no_grad():
                student.classifier.weight.neg_()
        return student

    monkeypatch.setattr(Start, "make", spoiled)
    student = start_of(teacher).best(["teacher", another_encoder], tiny_models.sentences(80, "train"))
    assert student.config.tinybert["init"].startswith("sha256:")


def test_starts_are_compared_on_a_fifth_of_the_texts_that_none_is_fitted_to(teacher, monkeypatch):
    fitted, compared, made = [], [], Start.make
    monkeypatch.setattr(Start, "make", lambda self, init, texts: fitted.append(texts) or made(self, init, texts))
    measure = start_module.measure_fidelity

    def noted(kind, student, theirs, batches):
        compared.append(batches)
        return measure(kind, student, theirs, batches)

    monkeypatch.setattr(start_module, "measure_fidelity", noted)
    texts = tiny_models.sentences(180, "train")
    start_of(teacher).best(["teacher", "random"], texts)
    assert [len(each["input_ids"]) for each in fitted] == [144, 144]
    assert [[len(batch["input_ids"]) for batch in each] for each in compared] == [[32, 4], [32, 4]]
    for name, value in texts.items():
        together = torch.cat([fitted[0][name], *(batch[name] for batch in compared[0])])
        assert torch.equal(together, value)


def test_classes_are_compared_in_the_students_order(teacher):
    """A start from the teacher is closest also where the student's classes come in another order."""
    names = dict(enumerate(reversed(teacher.config.id2label.values())))
    turned = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    texts = tiny_models.sentences(80, "train")
    student = start_of(teacher, **turned).best(["random", "teacher"], texts)
    assert student.config.tinybert["init"] == "teacher"
    order = list(reversed(range(len(names))))
    with torch.no_grad():
        ours, theirs = student(**texts).logits, teacher(**texts).logits[:, order]
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.5


@pytest.mark.parametrize("auto", ["AutoModelForTokenClassification", "AutoModelForQuestionAnswering"])
def test_starts_of_other_outputs_are_compared_too(auto):
    teacher = tiny_models.model(auto=getattr(transformers, auto), num_labels=2)
    shape = tiny_models.same_size_config(teacher).to_bert_config()
    texts = tiny_models.batch((9, 12, 7, 5) * 10)
    student = Start(teacher, shape, "uniform", None).best(["random", "teacher"], texts)
    assert student.config.tinybert["init"] == "teacher"


def test_models_without_a_head_cannot_be_compared():
    teacher = tiny_models.model(auto=AutoModel)
    start = Start(teacher, tiny_models.small_config(teacher).to_bert_config(), "uniform", None)
    with pytest.raises(ValueError, match="a model without a head has none"):
        start.best(["teacher", "random"], tiny_models.batch())


def test_the_class_is_the_teachers_auto_class_for_the_configuration(teacher):
    electra = ElectraConfig()
    assert student_class(teacher, electra).__name__ == "ElectraForSequenceClassification"

    class Unknown(ElectraConfig):
        pass

    with pytest.raises(ValueError, match="There is no AutoModelForSequenceClassification for a Unknown"):
        student_class(teacher, Unknown())


def test_each_of_several_students_has_a_configuration_of_its_own(teacher):
    start = start_of(teacher)
    before = copy.deepcopy(start._config.to_dict())
    first, second = start.make("random", None), start.make("random", None)
    assert first.config is not second.config
    assert start._config.to_dict() == before
