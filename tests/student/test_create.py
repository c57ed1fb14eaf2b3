from __future__ import annotations

import json

import factories
import pytest
import tiny_models
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForPreTraining, set_seed

from hf_tinybert import DistillationTrainer, TinyBertConfig, create_student
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.models.loading import fingerprint, saved_class
from hf_tinybert.presets import PRESETS
from hf_tinybert.student import create
from hf_tinybert.student.calibration import sample_calibration_batch
from hf_tinybert.student.projection_init import offered
from hf_tinybert.utils import compat


@pytest.fixture(autouse=True)
def nothing_said_before():
    create.logger.warning_once.cache_clear()


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_is_a_plain_bert_ready_for_use_and_says_where_it_came_from(init, teacher, teacher_folder, tmp_path):
    student = create_student(teacher, factories.student_config(teacher), init=init)
    assert type(student) is type(teacher)
    assert type(student.config) is BertConfig
    assert not student.training
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    student.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    provenance = json.loads(text)["tinybert"]
    assert (provenance["teacher"], provenance["init"]) == (f"sha256:{fingerprint(teacher)}", init)
    assert_no_path(text, teacher_folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    batch = tiny_models.sentences(4)
    torch.testing.assert_close(loaded(**batch).logits, student(**batch).logits, rtol=0, atol=0)
    assert loaded.config.id2label == teacher.config.id2label


def assert_no_path(text, *folders):
    for secret in ("/tmp", *map(str, folders)):
        assert secret not in text


@pytest.mark.parametrize("init", ["teacher", "random"])
@pytest.mark.parametrize("name", tiny_models.AUTO_CLASSES)
def test_has_the_teachers_auto_class(name, init):
    auto = getattr(transformers, name)
    teacher = tiny_models.model(auto=auto)
    student = create_student(teacher, tiny_models.small_config(teacher), init=init)
    assert type(student) is type(teacher)
    assert student.config.hidden_size == 16
    assert all(p.isfinite().all() for p in student.parameters())


def test_a_configuration_that_was_passed_in_is_left_alone():
    teacher = tiny_models.model()
    config = BertConfig(**tiny_models.same_size_config(teacher).to_dict())
    before = config.to_dict()
    create_student(teacher, config)
    assert config.to_dict() == before


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_offers_are_never_saved(init, teacher, tmp_path):
    student = create_student(teacher, factories.student_config(teacher), init=init)
    assert bool(offered(student)) == (init == "teacher")
    student.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(student.state_dict())
    assert offered(AutoModelForSequenceClassification.from_pretrained(tmp_path)) == {}


# Other starts


def test_starts_from_another_encoder(teacher, encoder, teacher_folder, tmp_path):
    """Of the folder of the encoder its fingerprint is recorded."""
    shape, texts = factories.student_config(teacher), tiny_models.sentences(64, "train")
    student = create_student(teacher, shape, init=encoder, calibration=texts, tokenizer=factories.tokenizer())
    source = AutoModel.from_pretrained(encoder)
    assert student.config.tinybert["init"] == f"sha256:{fingerprint(source)}"
    student.save_pretrained(tmp_path)
    assert_no_path((tmp_path / "config.json").read_text(), teacher_folder, encoder)
    from_teacher, drawn = (
        create_student(teacher, shape, init=init, calibration=texts) for init in ("teacher", "random")
    )
    batch = tiny_models.sentences(64)
    with torch.no_grad():
        wanted = teacher(**batch).logits.log_softmax(-1)
        errors = [
            float((wanted.exp() * (wanted - model(**batch).logits.log_softmax(-1))).sum(-1).mean())
            for model in (student, from_teacher, drawn)
        ]
    assert errors[0] < 0.6 * errors[2]
    assert errors[1] < errors[0]
    assert set(offered(student)) == {f"{m}.{part}" for m in range(3) for part in ("weight", "bias")}


def test_of_a_list_of_starts_the_closest_is_taken(teacher, encoder):
    shape, texts = factories.student_config(teacher), tiny_models.sentences(64, "train")
    for inits in (["random", encoder, "teacher"], ["teacher", encoder, "random"]):
        student = create_student(teacher, shape, init=inits, calibration=texts)
        assert student.config.tinybert["init"] == "teacher"
    alone = create_student(teacher, shape, init=["random"])
    assert alone.config.tinybert["init"] == "random"


def test_several_starts_need_texts(teacher):
    with pytest.raises(ValueError, match=r"init=\['teacher', 'random'\] compares starts on texts"):
        create_student(teacher, factories.student_config(teacher), init=["teacher", "random"])


@pytest.mark.parametrize(
    ("init", "told"), [("random", False), (["random"], False), ("teacher", True), (["teacher"], True)]
)
def test_that_there_are_no_texts_is_said_where_they_would_be_used(init, told, teacher, caplog):
    create_student(teacher, factories.student_config(teacher), init=init)
    assert ("No calibration data was given" in caplog.text) == told


@pytest.mark.parametrize("init", ["teacher", ["random", "teacher"], ["teacher"]])
def test_another_vocabulary_needs_a_random_start(init, teacher):
    shape = factories.student_config(teacher)
    shape.vocab_size = 77
    with pytest.raises(ValueError, match=r"needs the teacher's vocabulary: use create_student\(.*init='random'"):
        create_student(teacher, shape, init=init, separate_vocabulary=True)
    student = create_student(teacher, shape, init="random", separate_vocabulary=True)
    assert student.get_input_embeddings().num_embeddings == 77


# Existing checkpoints


def test_starts_from_a_checkpoint_folder(teacher, teacher_folder, tmp_path):
    first = create_student(teacher, factories.student_config(teacher))
    first.save_pretrained(tmp_path)
    student = create_student(teacher, tmp_path, init="random")
    before, now = first.state_dict(), student.state_dict()
    assert now.keys() == before.keys()
    assert [name for name, value in before.items() if not torch.equal(now[name], value)] == []
    batch = tiny_models.sentences(4)
    assert torch.equal(student(**batch).logits, first(**batch).logits)
    assert not student.training
    student.save_pretrained(tmp_path / "again")
    text = (tmp_path / "again" / "config.json").read_text()
    assert json.loads(text)["tinybert"]["init"] == "checkpoint"
    assert_no_path(text, teacher_folder, tmp_path)


def test_a_checkpoint_in_half_precision_becomes_float32(tmp_path):
    teacher = tiny_models.model()
    create_student(teacher, tiny_models.small_config(teacher)).half().save_pretrained(tmp_path)
    assert {p.dtype for p in create_student(teacher, str(tmp_path)).parameters()} == {torch.float32}


def authors_checkpoint(folder, teacher, extra, kind):
    """A general TinyBERT as its authors publish it: a model for pretraining with `fit_dense` layers beside it."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 20}
    config = BertConfig(
        vocab_size=teacher.config.vocab_size, num_attention_heads=4, max_position_embeddings=80, **sizes
    )
    model = BertForPreTraining(config)
    model.save_pretrained(folder)
    state = {name: v.clone() for name, v in model.state_dict().items() if "decoder." not in name} | extra
    (folder / "model.safetensors").unlink()
    if kind == "pytorch_model.bin":
        torch.save(state, folder / kind)
    else:
        save_file(state, folder / kind, metadata={"format": "pt"})
    return state


def fit(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{name}.weight": torch.randn(24, 16, generator=generator),
        f"{name}.bias": torch.randn(24, generator=generator),
    }


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("shared_there", [True, False])
@pytest.mark.parametrize("shared_here", [True, False])
def test_the_authors_fit_dense_layers_become_the_starting_projections(shared_there, shared_here, kind, tmp_path):
    teacher = tiny_models.model()
    extra = fit("fit_dense") if shared_there else fit("fit_denses.0") | fit("fit_denses.1", 1) | fit("fit_denses.2", 2)
    state = authors_checkpoint(tmp_path, teacher, extra, kind)
    student = create_student(teacher, str(tmp_path))
    weight = student.bert.encoder.layer[1].attention.self.query.weight
    assert torch.equal(weight, state["bert.encoder.layer.1.attention.self.query.weight"])
    assert student.config.id2label == teacher.config.id2label
    assert student.classifier.out_features == 3
    projections = Projections(16, 24, range(3), shared=shared_here)
    projections.start_from(offered(student))
    for name, linear in projections.linear.items():
        for part in ("weight", "bias"):
            if shared_there:
                expected = extra[f"fit_dense.{part}"]
            elif shared_here:
                expected = torch.stack([extra[f"fit_denses.{n}.{part}"] for n in range(3)]).mean(dim=0)
            else:
                expected = extra[f"fit_denses.{name}.{part}"]
            torch.testing.assert_close(getattr(linear, part), expected, rtol=0, atol=1e-6)
    student.save_pretrained(tmp_path / "saved")
    assert not any("fit" in key for key in load_file(tmp_path / "saved" / "model.safetensors"))


def test_a_fine_tuned_authors_checkpoint_keeps_its_head_and_needs_the_teachers_labels(tmp_path):
    teacher = tiny_models.model()
    first = create_student(teacher, tiny_models.small_config(teacher))
    first.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors") | fit("fit_dense"), tmp_path / "model.safetensors")
    student = create_student(teacher, str(tmp_path))
    assert torch.equal(student.classifier.weight, first.classifier.weight)
    assert torch.equal(offered(student)["shared.weight"], fit("fit_dense")["fit_dense.weight"])
    with pytest.raises(ValueError, match="4 labels and the student 3"):
        create_student(tiny_models.model(num_labels=4), str(tmp_path))


# What is refused


@pytest.mark.parametrize(
    ("config", "init", "message"),
    [
        ("student", "zeros", "or the folder or Hub id of an encoder; 'zeros' could not be loaded"),
        ("student", [], "a list of these; the list is empty"),
        ("tinybert-2l", "teacher", ", ".join(PRESETS)),
        ("tinybert-3l-192d", "teacher", "192 is more than 96"),
    ],
)
def test_what_cannot_be_made_from_this_teacher(config, init, message, teacher):
    if config == "student":
        config = factories.student_config(teacher)
    with pytest.raises(ValueError, match=message):
        create_student(teacher, config, init=init)


def test_a_folder_without_a_model(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        create_student(teacher, tmp_path)


def test_another_order_of_labels_starts_from_the_teachers_head_in_that_order():
    names = {0: "x", 1: "y", 2: "z"}
    teacher = tiny_models.model(id2label=names, label2id={v: k for k, v in names.items()})
    order = {0: "z", 1: "x", 2: "y"}
    config = tiny_models.same_size_config(teacher, id2label=order, label2id={v: k for k, v in order.items()})
    student = create_student(teacher, config)
    with torch.no_grad():
        theirs, ours = (model(**tiny_models.batch()).logits for model in (teacher, student))
    torch.testing.assert_close(ours, theirs[:, [2, 0, 1]])


@pytest.mark.parametrize("init", ["teacher", "random"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vocab_size": 91}, "vocabulary of 90 tokens and the student of 91"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}, "3 labels and the student 2"),
        ({"id2label": {0: "x", 1: "y", 2: "w"}, "label2id": {"x": 0, "y": 1, "w": 2}}, "different labels"),
    ],
)
def test_other_labels_or_another_vocabulary(overrides, message, init, tmp_path):
    names = {0: "x", 1: "y", 2: "z"}
    teacher = tiny_models.model(id2label=names, label2id={v: k for k, v in names.items()})
    with pytest.raises(ValueError, match=message):
        create_student(teacher, tiny_models.small_config(teacher, **overrides), init=init)
    AutoModelForSequenceClassification.from_config(
        tiny_models.small_config(teacher, **overrides).to_bert_config()
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        create_student(teacher, tmp_path)


def test_a_folder_with_a_configuration_alone_is_a_shape(teacher, tmp_path):
    sizes = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
    TinyBertConfig(vocab_size=teacher.config.vocab_size, **sizes).save_pretrained(tmp_path)  # of two labels
    first = create_student(teacher, tmp_path)
    second = create_student(teacher, TinyBertConfig.from_teacher(teacher.config, **sizes))
    assert first.config.id2label == teacher.config.id2label
    assert offered(first).keys() == offered(second).keys()
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


def test_a_folder_that_has_lost_its_weights_is_no_shape(teacher, tmp_path):
    create_student(teacher, factories.student_config(teacher)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"safetensors"):
        create_student(teacher, tmp_path)


def wide_teacher():
    """As wide as the preset of 192, and reads the requests."""
    labels = {name: index for index, name in enumerate(factories.intents())}
    return tiny_models.model(
        vocab_size=len(factories.tokenizer()),
        pad_token_id=0,
        hidden_size=192,
        num_attention_heads=12,
        intermediate_size=768,
        max_position_embeddings=512,
        id2label={index: name for name, index in labels.items()},
        label2id=labels,
        num_labels=len(labels),
    )


def test_a_trainer_makes_the_student_of_a_name(tmp_path):
    teacher = wide_teacher()
    student = factories.trainer("tinybert-3l-192d", teacher, factories.arguments(tmp_path)).student
    expected = create_student(teacher, "tinybert-3l-192d").state_dict()
    assert student.state_dict().keys() == expected.keys()
    assert [name for name, value in student.state_dict().items() if not torch.equal(value, expected[name])] == []


def test_a_trainer_makes_the_student_of_a_shape_from_its_own_texts(teacher, tmp_path):
    args = factories.arguments(tmp_path, phases="joint", max_steps=2, layer_mapping="last", seed=3)
    rows, pad = factories.household()["train"], factories.tokenizer()
    shape = factories.student_config(teacher)
    trainer = factories.trainer(shape, teacher, args)
    set_seed(3)
    batch = sample_calibration_batch(rows, pad)
    expected = create_student(teacher, shape, layer_mapping="last", calibration=batch)
    for (name, one), (_, other) in zip(trainer.student.named_parameters(), expected.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    untold = create_student(teacher, shape, layer_mapping="last")
    assert not torch.equal(
        trainer.student.base_model.embeddings.word_embeddings.weight,
        untold.base_model.embeddings.word_embeddings.weight,
    )
    trainer.train()


def test_a_trainer_that_has_no_texts_says_so(teacher, tmp_path, caplog):
    args = factories.arguments(tmp_path)
    factories.trainer(factories.student_config(teacher), teacher, args, train_dataset=None)
    assert "No calibration data was given: the student's initial accuracy will be much lower" in caplog.text


def test_the_collators_tokenizer_serves_too(teacher, tmp_path, caplog):
    args = factories.arguments(tmp_path)
    shape = factories.student_config(teacher)
    factories.trainer(shape, teacher, args, processing_class=None)
    if not compat.HAS_SAMPLING_STRATEGY:  # transformers 4.57 still takes the old name
        rows = factories.household()["train"]
        DistillationTrainer(shape, args, train_dataset=rows, tokenizer=factories.tokenizer(), teacher=teacher)
    assert "No calibration data was given" not in caplog.text


@pytest.mark.parametrize("form", ["folder", "adapter folder"])
def test_a_trainer_makes_the_student_of_a_teacher_that_is_named(form, teacher, teacher_folder, tmp_path):
    if form == "adapter folder":
        peft = pytest.importorskip("peft")
        adapted = peft.get_peft_model(
            teacher, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], init_lora_weights=False)
        )
        adapted.save_pretrained(tmp_path / "adapter")
        teacher_folder, teacher = tmp_path / "adapter", adapted.merge_and_unload()
    args, shape = factories.arguments(tmp_path), factories.student_config(teacher)
    data = {"train_dataset": factories.household()["train"].select(range(64))}
    named = factories.trainer(shape, teacher_folder, args, teacher_init_kwargs={"dtype": torch.float32}, **data)
    given = factories.trainer(shape, teacher, args, **data)
    assert type(named.teacher) is type(teacher)
    assert named.student.config.id2label == teacher.config.id2label
    for (name, one), (_, other) in zip(
        named.student.named_parameters(), given.student.named_parameters(), strict=True
    ):
        # Weights lie elsewhere in memory, which changes how sums are rounded.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4, msg=name)


def test_a_named_teacher_says_what_it_is(encoder, teacher, tmp_path):
    shape = factories.student_config(teacher)
    assert saved_class(encoder).__name__ == "AutoModel"
    teacher.save_pretrained(tmp_path)
    assert saved_class(tmp_path).__name__ == "AutoModelForSequenceClassification"
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for said in (["BertForPreTraining"], None):
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": said}), encoding="utf-8")
        with pytest.raises(ValueError, match=r"does not tell which task .*(BertForPreTraining|recorded: nothing)"):
            factories.trainer(shape, tmp_path, factories.arguments(tmp_path))
    teacher.save_pretrained(tmp_path / "best")
    trainer = factories.trainer(
        shape, tmp_path, factories.arguments(tmp_path), teacher_init_kwargs={"subfolder": "best"}
    )
    assert trainer.teacher.config.id2label == teacher.config.id2label
    with pytest.raises(ValueError, match="teacher_init_kwargs goes with a teacher given by name"):
        factories.trainer(shape, teacher, factories.arguments(tmp_path), teacher_init_kwargs={"revision": "main"})


def test_an_example_that_is_too_long_is_said_and_not_met(teacher, tmp_path):
    long = factories.household()["train"].select(range(4)).to_list()
    long.append({name: values * 200 for name, values in long[0].items() if name != "labels"} | {"labels": 0})
    longest = len(long[-1]["input_ids"])
    with pytest.raises(ValueError, match=f"{longest} tokens is longer than the 512 positions"):
        factories.trainer(
            factories.student_config(teacher),
            teacher,
            factories.arguments(tmp_path),
            train_dataset=Dataset.from_list(long),
        )


@pytest.mark.parametrize("texts", [True, False])
def test_a_student_of_fewer_positions_starts_from_what_it_can_read(texts):
    teacher = tiny_models.model()
    batch = tiny_models.batch((12, 20)) if texts else None
    shape = tiny_models.small_config(teacher, max_position_embeddings=8)
    student = create_student(teacher, shape, calibration=batch)
    assert student(**tiny_models.batch((8, 3))).logits.isfinite().all()


def test_several_labels_stay_several(tmp_path):
    """A configuration that does not say so takes it from the teacher; a model that says otherwise is refused."""
    teacher = tiny_models.model(num_labels=3, problem_type="multi_label_classification")
    shape = TinyBertConfig.from_teacher(teacher.config, num_hidden_layers=2, hidden_size=12, intermediate_size=16)
    shape.problem_type = None
    assert create_student(teacher, shape).config.problem_type == "multi_label_classification"
    student = AutoModelForSequenceClassification.from_config(shape.to_bert_config())
    with pytest.raises(ValueError, match="problem_type is 'multi_label_classification', and the"):
        factories.trainer(student, teacher, factories.arguments(tmp_path))
