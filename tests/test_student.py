from __future__ import annotations

import copy
import json

import pytest
import tiny_models
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForPreTraining, BertModel

from hf_tinybert import LayerMapping, TinyBertConfig, create_student
from hf_tinybert.configuration import PRESETS
from hf_tinybert.projections import Projections, offered
from hf_tinybert.teacher import fingerprint

AUTO_CLASSES = [
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]


def small_config(teacher, **overrides):
    """A narrow student for a tiny teacher."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 20}
    return TinyBertConfig.from_teacher(teacher.config, **(sizes | overrides))


def same_size_config(teacher, **overrides):
    sizes = {"num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 40}
    assert teacher.config.hidden_size == 24
    return small_config(teacher, **(sizes | overrides))


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_is_a_plain_bert_ready_for_use_and_says_where_it_came_from(init, teacher, teacher_folder, tmp_path):
    student = create_student(teacher, "tinybert-3l-192d", init=init)
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
@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_has_the_teachers_auto_class(name, init):
    auto = getattr(transformers, name)
    teacher = tiny_models.model(auto=auto)
    student = create_student(teacher, small_config(teacher), init=init)
    assert type(student) is type(teacher)
    assert student.config.hidden_size == 16
    assert all(p.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_a_copy_of_the_same_size_answers_like_the_teacher(name):
    teacher = tiny_models.model(auto=getattr(transformers, name), num_labels=2)
    student = create_student(teacher, same_size_config(teacher))
    batch = tiny_models.batch()
    if "MultipleChoice" in name:
        batch = {key: value[None] for key, value in batch.items()}
    for ours, theirs in zip(student(**batch).to_tuple(), teacher(**batch).to_tuple(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["roberta", "electra"])
def test_a_copy_of_another_familys_layers_sees_what_the_teacher_sees(family):
    teacher = tiny_models.model(family)
    student = create_student(teacher, same_size_config(teacher))
    batch = tiny_models.batch((6, 6))
    torch.testing.assert_close(
        student.base_model(**batch).last_hidden_state, teacher.base_model(**batch)[0], rtol=1e-5, atol=1e-5
    )


def test_at_the_teachers_width_the_mapped_layers_are_copied(teacher):
    student = create_student(teacher, "tinybert-3l-384d", layer_mapping="0:0,1:1,2:4,3:6")
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name, value in ours.items():
        pieces = name.split(".")
        if "layer" in pieces:
            at = pieces.index("layer") + 1
            pieces[at] = {"0": "0", "1": "3", "2": "5"}[pieces[at]]
        assert torch.equal(value, theirs[".".join(pieces)]), name
    assert offered(student) == {}


def intermediate_loss(student, teacher, batch, projections):
    """Hidden and attention loss, from `output_hidden_states` and the weights, without the package's capture."""
    hidden, attention = [], []
    kept = batch["attention_mask"].bool()
    for ours, theirs, states, targets in matched_states(student, teacher, batch):
        projected = states[ours] @ projections[f"{ours}.weight"].T + projections[f"{ours}.bias"]
        hidden.append((projected - targets[theirs])[kept].square().mean())
        if ours:
            pairs = kept[:, None, :, None] & kept[:, None, None, :]
            difference = scores(student, ours, states) - scores(teacher, theirs, targets)
            attention.append((difference.square() * pairs).sum() / pairs.sum() / difference.shape[1])
    return sum(hidden).item(), sum(attention).item()


def matched_states(student, teacher, batch):
    mapping = LayerMapping.uniform(student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    with torch.no_grad():
        both = [m.base_model(**batch, output_hidden_states=True).hidden_states for m in (student, teacher)]
    return [(ours, theirs, *both) for ours, theirs in mapping.items()]


def best_projections(student, teacher, batch):
    kept, found = batch["attention_mask"].bool(), {}
    for ours, theirs, states, targets in matched_states(student, teacher, batch):
        x = torch.cat([states[ours][kept], torch.ones(int(kept.sum()), 1)], dim=1).double()
        solution = torch.linalg.lstsq(x, targets[theirs][kept].double()).solution.float()
        found |= {f"{ours}.weight": solution[:-1].T, f"{ours}.bias": solution[-1]}
    return found


def scores(model, layer, states):
    module = model.base_model.encoder.layer[layer - 1].attention.self
    heads = model.config.num_attention_heads
    q, k = (p(states[layer - 1]).unflatten(-1, (heads, -1)).transpose(1, 2) for p in (module.query, module.key))
    return q @ k.mT / q.shape[-1] ** 0.5


@pytest.mark.parametrize("preset", ["tinybert-4l-312d", "tinybert-3l-192d"])
def test_a_narrower_student_starts_close_to_the_teacher(preset, teacher):
    train, test = tiny_models.sentences(256, "train"), tiny_models.sentences(128)
    random = create_student(teacher, preset, init="random")
    size = random.config.hidden_size
    drawn = Projections(size, 384, range(5), shared=False)
    drawn = {name.removeprefix("linear."): value.detach() for name, value in drawn.state_dict().items()}
    random_hidden, random_attention = intermediate_loss(random, teacher, test, drawn)
    fitted_hidden, _ = intermediate_loss(random, teacher, test, best_projections(random, teacher, train))

    untold = create_student(teacher, preset)
    hidden, attention = intermediate_loss(untold, teacher, test, offered(untold))
    print(preset, random_hidden, fitted_hidden, random_attention, "untold", hidden, attention)
    assert hidden < 0.7 * random_hidden
    assert attention < 0.75 * random_attention

    told = create_student(teacher, preset, calibration=train | {"labels": torch.zeros(256)})
    told_hidden, told_attention = intermediate_loss(told, teacher, test, offered(told))
    print("told", told_hidden, told_attention)
    assert told_hidden < 0.8 * fitted_hidden
    assert told_hidden < 0.8 * hidden
    assert told_attention < 0.5 * random_attention
    assert told_attention < attention


def test_starting_from_the_teacher_leaves_the_teacher_alone(teacher):
    before, hooks = fingerprint(teacher), tiny_models.hooks(teacher)
    config = copy.deepcopy(teacher.config.to_dict())
    teacher.train()
    create_student(teacher, "tinybert-3l-192d", calibration=tiny_models.sentences(4))
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert (fingerprint(teacher), tiny_models.hooks(teacher)) == (before, hooks)
    assert teacher.config.to_dict() == config


def test_a_configuration_that_was_passed_in_is_left_alone():
    teacher = tiny_models.model()
    config = BertConfig(**same_size_config(teacher).to_dict())
    before = config.to_dict()
    create_student(teacher, config)
    assert config.to_dict() == before


@pytest.mark.parametrize("make", [small_config, same_size_config])
def test_a_teacher_in_bfloat16_makes_a_student_in_float32(make):
    teacher = tiny_models.model().to(torch.bfloat16)
    student = create_student(teacher, make(teacher))
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in student.parameters())


def test_other_heads_at_the_teachers_width_are_reduced():
    teacher = tiny_models.model()
    student = create_student(teacher, same_size_config(teacher, num_attention_heads=2))
    assert student.config.num_attention_heads == 2
    assert all(p.isfinite().all() for p in student.parameters())
    assert set(offered(student)) == {f"{m}.{part}" for m in range(4) for part in ("weight", "bias")}


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_offers_are_never_saved(init, teacher, tmp_path):
    student = create_student(teacher, "tinybert-3l-192d", init=init)
    assert bool(offered(student)) == (init == "teacher")
    student.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(teacher_keys(student))
    assert offered(AutoModelForSequenceClassification.from_pretrained(tmp_path)) == {}


def teacher_keys(student):
    return [name for name in student.state_dict() if "position_ids" not in name]


# Existing checkpoints


def test_starts_from_a_checkpoint_folder(teacher, teacher_folder, tmp_path):
    first = create_student(teacher, "tinybert-3l-192d")
    first.save_pretrained(tmp_path)
    student = create_student(teacher, tmp_path, init="random")
    assert {n: v.tolist() for n, v in student.state_dict().items() if v.numel() < 999} == {
        n: v.tolist() for n, v in first.state_dict().items() if v.numel() < 999
    }
    batch = tiny_models.sentences(4)
    assert torch.equal(student(**batch).logits, first(**batch).logits)
    assert not student.training
    student.save_pretrained(tmp_path / "again")
    text = (tmp_path / "again" / "config.json").read_text()
    assert json.loads(text)["tinybert"]["init"] == "checkpoint"
    assert_no_path(text, teacher_folder, tmp_path)


def test_a_checkpoint_in_half_precision_becomes_float32(tmp_path):
    teacher = tiny_models.model()
    create_student(teacher, small_config(teacher)).half().save_pretrained(tmp_path)
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
    first = create_student(teacher, small_config(teacher))
    first.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors") | fit("fit_dense"), tmp_path / "model.safetensors")
    student = create_student(teacher, str(tmp_path))
    assert torch.equal(student.classifier.weight, first.classifier.weight)
    assert torch.equal(offered(student)["shared.weight"], fit("fit_dense")["fit_dense.weight"])
    with pytest.raises(ValueError, match="3 labels and the student|4 labels and the student"):
        create_student(tiny_models.model(num_labels=4), str(tmp_path))


# What is refused


@pytest.mark.parametrize(
    ("config", "init", "message"),
    [
        ("tinybert-3l-192d", "zeros", "'teacher' or 'random', got 'zeros'"),
        ("tinybert-2l", "teacher", ", ".join(PRESETS)),
        ("tinybert-6l-768d", "teacher", "768 is more than 384"),
    ],
)
def test_what_cannot_be_made_from_this_teacher(config, init, message, teacher):
    with pytest.raises(ValueError, match=message):
        create_student(teacher, config, init=init)


def test_a_folder_without_a_model(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        create_student(teacher, tmp_path)


@pytest.mark.parametrize("init", ["teacher", "random"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vocab_size": 91}, "vocabulary of 90 tokens and the student of 91"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}, "3 labels and the student 2"),
        ({"id2label": {0: "y", 1: "x", 2: "z"}, "label2id": {"y": 0, "x": 1, "z": 2}}, "order of labels"),
        ({"id2label": {0: "x", 1: "y", 2: "w"}, "label2id": {"x": 0, "y": 1, "w": 2}}, "different labels"),
    ],
)
def test_other_labels_or_another_vocabulary(overrides, message, init, tmp_path):
    names = {0: "x", 1: "y", 2: "z"}
    teacher = tiny_models.model(id2label=names, label2id={v: k for k, v in names.items()})
    with pytest.raises(ValueError, match=message):
        create_student(teacher, small_config(teacher, **overrides), init=init)
    AutoModelForSequenceClassification.from_config(small_config(teacher, **overrides).to_bert_config()).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=message):
        create_student(teacher, tmp_path)


def test_more_layers_or_positions_than_the_teacher():
    teacher = tiny_models.model()
    with pytest.raises(ValueError, match="1 to 3 layers"):
        create_student(teacher, small_config(teacher, num_hidden_layers=4))
    with pytest.raises(ValueError, match="81 positions, more than the teacher's 80"):
        create_student(teacher, small_config(teacher, max_position_embeddings=81))


@pytest.mark.parametrize(
    ("family", "overrides"), [("distilbert", {}), ("electra", {"embedding_size": 12})], ids=["names", "embeddings"]
)
@pytest.mark.parametrize("make", [small_config, same_size_config])
def test_an_architecture_it_cannot_start_from_is_named(family, overrides, make):
    teacher = tiny_models.model(family, **overrides)
    with pytest.raises(ValueError, match="init='random'"):
        create_student(teacher, make(teacher))
    assert type(create_student(teacher, make(teacher), init="random").base_model) is BertModel
