from __future__ import annotations

import copy
from dataclasses import replace

import factories
import pytest
import tiny_models
import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig

from hf_tinybert import LayerMapping, create_student
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.models.architectures import registry
from hf_tinybert.models.loading import fingerprint
from hf_tinybert.models.output_types import logits_of
from hf_tinybert.student.projection_init import offered
from hf_tinybert.student.teacher_init import start_from_teacher

AUTO_CLASSES = [*tiny_models.AUTO_CLASSES, "AutoModelForQuestionAnswering"]
#: What a BERT of the same size computes as well.
SAME = [
    (family, name) for family in ("bert", "roberta", "xlm-roberta", "electra", "distilbert") for name in AUTO_CLASSES
]
SAME = [pair for pair in SAME if pair[0] not in ("electra", "distilbert") or "SequenceClassification" not in pair[1]]


def answers(model, batch):
    """Logits or hidden states; of positions the real ones."""
    with torch.no_grad():
        output = model(**batch, return_dict=True)
    found = logits_of(output)
    found = output["last_hidden_state"] if found is None else found
    return found if found.dim() == 2 else found[batch["attention_mask"].bool()]


def seen():
    """Texts for the fit."""
    return tiny_models.batch((9, 12, 7, 5) * 16, seed=3)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize(("family", "name"), SAME)
def test_a_copy_of_the_same_size_answers_like_the_teacher(family, name):
    labels = 2 if "QuestionAnswering" in name else 3
    teacher = tiny_models.model(family, getattr(transformers, name), num_labels=labels)
    student = create_student(teacher, tiny_models.same_size_config(teacher), calibration=seen())
    assert student.config.model_type == "bert"
    batch = tiny_models.batch()
    torch.testing.assert_close(answers(student, batch), answers(teacher, batch), rtol=0, atol=1e-4)
    assert offered(student) == {}


@pytest.mark.parametrize(("family", "name"), SAME)
def test_without_texts_too(family, name):
    labels = 2 if "QuestionAnswering" in name else 3
    teacher = tiny_models.model(family, getattr(transformers, name), num_labels=labels)
    student = create_student(teacher, tiny_models.same_size_config(teacher))
    batch = tiny_models.batch()
    torch.testing.assert_close(answers(student, batch), answers(teacher, batch), rtol=0, atol=1e-4)


@pytest.mark.also_transformers("4.57")
@pytest.mark.parametrize("make", [tiny_models.same_size_config, tiny_models.small_config])
@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_a_student_of_any_architecture_starts_closer_than_a_constant_and_than_random_layers(family, make):
    """To the last layer's states, in the coordinates of the offered projections, on texts unseen."""
    teacher = tiny_models.model(family, AutoModel)
    shape = make(teacher)
    last = shape.num_hidden_layers
    calibration = tiny_models.batch((9, 12, 7, 5) * 60, seed=3)
    student = create_student(teacher, shape, calibration=calibration)
    batch = tiny_models.batch((12, 8, 5, 10) * 8, seed=4)
    wanted = answers(teacher, batch)

    def distance(model):
        """With the best linear map that the calibration texts tell."""
        x, y = answers(model, calibration), answers(teacher, calibration)
        solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
        found = answers(model, batch)
        return (found @ solution[:-1] + solution[-1] - wanted).square().mean()

    random = create_student(teacher, shape, init="random")
    constant = (wanted - answers(teacher, calibration).mean(0)).square().mean()
    assert distance(student) < 0.9 * constant
    assert distance(student) < 0.9 * distance(random)
    if family != "modernbert" and (offers := offered(student)):
        ours = answers(student, batch) @ offers[f"{last}.weight"].T + offers[f"{last}.bias"]
        assert (ours - wanted).square().mean() < 0.9 * constant


def test_at_the_teachers_width_each_layer_is_fitted_to_the_one_that_it_is_matched_with(teacher):
    """Fewer layers than the teacher's have to do what it does: the copies of them do so worse."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192}
    train, test = tiny_models.sentences(128, "train"), tiny_models.sentences(64)
    student = create_student(teacher, factories.student_config(teacher, **sizes), calibration=train)
    assert offered(student) == {}
    copied = copy.deepcopy(student)
    for ours, theirs in ((0, 1), (1, 3)):
        layers = (m.bert.encoder.layer[n] for m, n in ((copied, ours), (teacher, theirs)))
        next(layers).load_state_dict(next(layers).state_dict())
    errors = [
        [
            (states[ours] - targets[theirs])[test["attention_mask"].bool()].square().mean().item()
            for ours, theirs, states, targets in matched_states(model, teacher, test)
        ]
        for model in (student, copied)
    ]
    assert errors[0][0] == errors[1][0] == 0.0
    assert errors[0][1] < 0.7 * errors[1][1]
    assert errors[0][2] < 0.7 * errors[1][2]


def test_a_layer_without_an_entry_stays_random_and_the_next_reads_what_it_returns():
    teacher = tiny_models.model()
    torch.manual_seed(11)
    drawn = AutoModelForSequenceClassification.from_config(tiny_models.same_size_config(teacher).to_bert_config())
    student = copy.deepcopy(drawn).eval()
    assert start_from_teacher(student, teacher, LayerMapping({0: 0, 1: 1, 3: 3}), seen()) == {}
    for number, same in ((0, False), (1, True), (2, False)):
        layers = [m.bert.encoder.layer[number].state_dict() for m in (student, drawn)]
        assert all(torch.equal(value, layers[1][name]) for name, value in layers[0].items()) == same
    batch = tiny_models.batch((12, 8, 5, 10) * 8, seed=4)
    with torch.no_grad():
        ours, theirs = (m(**batch, output_hidden_states=True).hidden_states for m in (student, teacher))
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(ours[1][mask], theirs[1][mask], rtol=0, atol=1e-4)
    wanted = theirs[3][mask]
    assert (ours[3][mask] - wanted).square().mean() < 0.9 * (wanted - wanted.mean(0)).square().mean()


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


def padded(tokenizer, texts):
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def assert_starts_close(teacher, shape, train, test):
    """Closer than random weights; having seen texts, closer still, also than random weights' best projections."""
    random = create_student(teacher, shape, init="random")
    layers = range(random.config.num_hidden_layers + 1)
    drawn = Projections(random.config.hidden_size, teacher.config.hidden_size, layers, shared=False)
    drawn = {name.removeprefix("linear."): value.detach() for name, value in drawn.state_dict().items()}
    random_hidden, random_attention = intermediate_loss(random, teacher, test, drawn)
    fitted_hidden, _ = intermediate_loss(random, teacher, test, best_projections(random, teacher, train))

    untold = create_student(teacher, shape)
    hidden, attention = intermediate_loss(untold, teacher, test, offered(untold))
    assert hidden < 0.7 * random_hidden
    assert attention < 0.75 * random_attention

    told = create_student(teacher, shape, calibration=train | {"labels": torch.zeros(len(train["input_ids"]))})
    told_hidden, told_attention = intermediate_loss(told, teacher, test, offered(told))
    assert told_hidden < 0.8 * fitted_hidden
    assert told_hidden < 0.8 * hidden
    assert told_attention < 0.6 * random_attention
    assert told_attention < attention


def test_a_narrower_student_starts_close_to_the_teacher(teacher):
    train, test = tiny_models.sentences(128, "train"), tiny_models.sentences(64)
    assert_starts_close(teacher, factories.student_config(teacher), train, test)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tinybert-4l-312d", "tinybert-3l-192d"])
def test_a_preset_of_a_large_teacher_starts_close_to_it(preset, minilm):
    teacher, tokenizer = AutoModel.from_pretrained(minilm).eval(), AutoTokenizer.from_pretrained(minilm)
    texts = factories.requests(384)
    assert_starts_close(teacher, preset, padded(tokenizer, texts[:256]), padded(tokenizer, texts[256:]))


def test_starting_from_the_teacher_leaves_the_teacher_alone(teacher):
    before, hooks = fingerprint(teacher), tiny_models.hooks(teacher)
    config = copy.deepcopy(teacher.config.to_dict())
    teacher.train()
    create_student(teacher, factories.student_config(teacher), calibration=tiny_models.sentences(4))
    assert teacher.training
    assert all(p.requires_grad for p in teacher.parameters())
    assert (fingerprint(teacher), tiny_models.hooks(teacher)) == (before, hooks)
    assert teacher.config.to_dict() == config


@pytest.mark.parametrize("make", [tiny_models.small_config, tiny_models.same_size_config])
def test_a_teacher_in_bfloat16_makes_a_student_in_float32(make):
    teacher = tiny_models.model().to(torch.bfloat16)
    student = create_student(teacher, make(teacher))
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in student.parameters())


def test_other_heads_at_the_teachers_width_need_no_projections():
    teacher = tiny_models.model()
    student = create_student(teacher, tiny_models.same_size_config(teacher, num_attention_heads=2))
    assert student.config.num_attention_heads == 2
    assert all(p.isfinite().all() for p in student.parameters())
    assert offered(student) == {}


def test_projections_of_all_matched_levels_are_the_best_maps_to_the_teachers_states():
    teacher, batch = tiny_models.model(), tiny_models.batch((9, 12, 7, 5) * 40, seed=3)
    student = create_student(teacher, tiny_models.small_config(teacher), calibration=batch)
    found, best = offered(student), best_projections(student, teacher, batch)
    assert found.keys() == best.keys() == {f"{m}.{part}" for m in range(3) for part in ("weight", "bias")}
    kept = batch["attention_mask"].bool()
    for ours, theirs, states, targets in matched_states(student, teacher, batch):
        errors = [
            (states[ours] @ each[f"{ours}.weight"].T + each[f"{ours}.bias"] - targets[theirs])[kept].square().mean()
            for each in (found, best)
        ]
        assert errors[0] <= 1.005 * errors[1]


def test_more_layers_or_positions_than_the_teacher():
    teacher = tiny_models.model()
    with pytest.raises(ValueError, match="1 to 3 layers"):
        create_student(teacher, tiny_models.small_config(teacher, num_hidden_layers=4))
    with pytest.raises(ValueError, match="81 positions, more than the teacher's 80"):
        create_student(teacher, tiny_models.small_config(teacher, max_position_embeddings=81))


def test_a_teacher_without_numbers_is_refused():
    teacher = tiny_models.model()
    with torch.no_grad():
        teacher.bert.encoder.layer[1].output.dense.bias[3] = torch.nan
    with pytest.raises(ValueError, match="weights are not all finite"):
        create_student(teacher, tiny_models.small_config(teacher))


def test_a_student_that_is_no_bert_is_refused():
    teacher = tiny_models.model()
    shape = tiny_models.config("distilbert", DistilBertConfig)
    with pytest.raises(ValueError, match=r"init='teacher' makes a BERT, .* is of a distilbert: use a TinyBertConfig"):
        create_student(teacher, shape)
    assert create_student(teacher, shape, init="random").config.model_type == "distilbert"


def test_an_architecture_that_does_not_name_its_parts_is_refused(monkeypatch):
    monkeypatch.setitem(registry.ARCHITECTURES, "electra", replace(registry.ARCHITECTURES["electra"], parts=None))
    teacher = tiny_models.model("electra")
    message = r"cannot start from a ElectraForSequenceClassification: .* parts=LayerParts.* init='random'"
    with pytest.raises(ValueError, match=message):
        create_student(teacher, tiny_models.small_config(teacher))
    assert create_student(teacher, tiny_models.small_config(teacher), init="random").config.model_type == "bert"


def test_a_wider_student_is_refused():
    teacher = tiny_models.model()
    with pytest.raises(ValueError, match="no wider than its teacher: 28 is more than 24"):
        create_student(teacher, tiny_models.small_config(teacher, hidden_size=28))


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet"])
def test_positions_are_those_that_inputs_of_the_teacher_can_have(family):
    teacher = tiny_models.model(family)
    student = create_student(teacher, tiny_models.small_config(teacher), calibration=seen())
    assert student.config.max_position_embeddings == 78
    assert student(**tiny_models.batch((78, 3))).logits.isfinite().all()


def test_of_several_calls_of_one_layer_the_right_one_is_matched():
    """ALBERT's first group serves its first two layers."""
    teacher, batch = tiny_models.model("albert", AutoModel), tiny_models.batch((9, 12, 7, 5) * 40, seed=3)
    shape = tiny_models.same_size_config(teacher, num_hidden_layers=1)
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        theirs = teacher(**batch, output_hidden_states=True).hidden_states
        for layer in (1, 2):
            student = create_student(teacher, shape, layer_mapping={0: 0, 1: layer}, calibration=batch)
            found = student(**batch).last_hidden_state
            errors = [(found - each)[mask].square().mean() for each in theirs]
            assert int(torch.stack(errors).argmin()) == layer


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_of_more_heads_than_the_student_keeps_and_of_a_calibration_batch_with_padding_alone_in_a_row(family):
    teacher = tiny_models.model(family)
    batch = tiny_models.batch((7, 0, 5))
    student = create_student(teacher, tiny_models.small_config(teacher, num_attention_heads=2), calibration=batch)
    assert all(p.isfinite().all() for p in student.parameters())


def test_padding_the_calibration_batch_further_changes_nothing():
    teacher = tiny_models.model()
    weights = []
    for width in (7, 12):
        torch.manual_seed(0)
        batch = tiny_models.batch((7, 3, 5) * 8, width=width)
        student = create_student(teacher, tiny_models.small_config(teacher), calibration=batch)
        with torch.no_grad():
            weights.append(student(**tiny_models.batch()).logits)
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-3)


def test_the_same_teacher_makes_the_same_student_whatever_the_random_state():
    teacher, answers = tiny_models.model(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        student = create_student(teacher, tiny_models.small_config(teacher))
        with torch.no_grad():
            answers.append(student(**tiny_models.batch()).logits)
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-4)


def test_a_narrower_masked_language_model_starts_with_a_head_that_answers(masked_lm_folder):
    teacher = transformers.AutoModelForMaskedLM.from_pretrained(masked_lm_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(masked_lm_folder)
    texts = factories.requests(64)
    seen, unseen = padded(tokenizer, texts[:48]), padded(tokenizer, texts[48:])
    student = create_student(teacher, "tinybert-4l-312d", calibration=seen)
    with torch.no_grad():
        ours, theirs = (model(**unseen).logits.argmax(-1) for model in (student, teacher))
    inner = (unseen["attention_mask"].cumsum(1) > 1) & (unseen["input_ids"] != tokenizer.sep_token_id)
    inner &= unseen["attention_mask"].bool()
    assert (ours == theirs)[inner].float().mean() > 0.7


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_student_of_another_encoders_layers_has_its_body_and_the_teachers_head(family):
    """The encoder sees what the teacher sees, mirrored: the head has to be found in its coordinates."""
    teacher, batch = tiny_models.model(family), tiny_models.batch((9, 12, 7, 5) * 60, seed=3)
    source = create_student(teacher, tiny_models.same_size_config(teacher), calibration=batch).base_model
    mirrored(source)
    shape = tiny_models.same_size_config(teacher)
    student = AutoModelForSequenceClassification.from_config(shape.to_bert_config()).eval()
    offers = start_from_teacher(student, teacher, LayerMapping.uniform(3, 3), batch, source)
    assert offers.keys() == {f"{m}.{part}" for m in range(4) for part in ("weight", "bias")}
    unseen = tiny_models.batch((12, 8, 5, 10) * 20, seed=4)
    mask = unseen["attention_mask"].bool()
    torch.testing.assert_close(answers(student.bert, unseen), answers(source, unseen), rtol=0, atol=1e-4)
    ours, theirs = answers(student, unseen), answers(teacher, unseen)
    assert (ours - theirs).square().mean() < 0.2 * (theirs - theirs.mean(0)).square().mean()
    with torch.no_grad():
        states, targets = (m(**unseen, output_hidden_states=True).hidden_states for m in (student, teacher))
    for level in range(4):
        wanted = targets[level][mask]
        found = states[level][mask] @ offers[f"{level}.weight"].T + offers[f"{level}.bias"]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)


def mirrored(bert):
    """The same BERT with its hidden features in the reverse order."""
    with torch.no_grad():
        for name, parameter in bert.named_parameters():
            if "embeddings" in name or any(part in name for part in ("query", "key", "value", "intermediate")):
                if parameter.dim() == 2:
                    parameter.copy_(parameter.flip(1))
                elif "LayerNorm" in name:
                    parameter.copy_(parameter.flip(0))
            elif "output" in name:
                parameter.copy_(parameter.flip(0))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_a_student_of_another_encoder_may_be_wider_than_the_teacher(name, family):
    labels = 2 if "QuestionAnswering" in name else 3
    teacher = tiny_models.model(family, getattr(transformers, name), num_labels=labels)
    source = tiny_models.model("bert", AutoModel, seed=1, hidden_size=32)
    shape = tiny_models.small_config(teacher, hidden_size=32)
    student = getattr(transformers, name).from_config(shape.to_bert_config()).eval()
    offers = start_from_teacher(student, teacher, LayerMapping.uniform(2, 3), seen(), source)
    assert offers["2.weight"].shape == (24, 32)
    assert answers(student, tiny_models.batch()).isfinite().all()
    words = [m.base_model.get_input_embeddings().weight for m in (student, source)]
    torch.testing.assert_close(*words)


def test_the_student_is_left_on_the_cpu_and_the_source_as_it_was():
    teacher, source = tiny_models.model(), tiny_models.model(auto=AutoModel, seed=1).train()
    before = fingerprint(source)
    student = AutoModelForSequenceClassification.from_config(tiny_models.small_config(teacher).to_bert_config())
    start_from_teacher(student, teacher, LayerMapping.uniform(2, 3), None, source)
    assert source.training
    assert not teacher.training
    assert (fingerprint(source), tiny_models.hooks(source)) == (before, 0)
    assert student.device.type == "cpu"
