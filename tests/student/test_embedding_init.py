from __future__ import annotations

import pytest
import tiny_models
import torch
from transformers import AutoModel

from hf_tinybert.models.features import accepted_inputs
from hf_tinybert.student.calibration import CalibrationTexts
from hf_tinybert.student.embedding_init import init_embeddings
from hf_tinybert.student.layer_init import StudentSpace
from hf_tinybert.student.teacher_trace import TeacherTrace

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
#: Their tables are narrower than their layers, or a map is between.
MAPPED = [("albert", {}), ("electra", {"embedding_size": 12})]
OFFSET = {"roberta": 2, "xlm-roberta": 2, "mpnet": 2}

pytestmark = pytest.mark.usefixtures("no_gradients")


def typed(batch):
    """With token types: a second sentence from the fourth token on."""
    types = (torch.arange(batch["input_ids"].shape[1]) > 3).long().expand_as(batch["input_ids"])
    return batch | {"token_type_ids": types * batch["attention_mask"]}


def made(family="bert", width=24, batch=None, spread_norms=True, teacher_overrides=None, **overrides):
    """A teacher's trace, the block that was made from it, its space and what it returned."""
    teacher = tiny_models.model(family, AutoModel, **(teacher_overrides or {}))
    if spread_norms:
        for name, parameter in teacher.named_parameters():
            if "orm" in name:
                parameter.uniform_(0.6, 1.5) if name.endswith("weight") else parameter.normal_(std=0.3)
    batch = tiny_models.batch((7, 12, 4, 9) * 8) if batch is None else batch
    trace = TeacherTrace(teacher, CalibrationTexts.from_batch(batch, 64), [3])
    torch.manual_seed(3)
    shape = tiny_models.same_size_config(teacher, **({"hidden_size": width} | overrides)).to_bert_config()
    block = AutoModel.from_config(shape).eval().embeddings
    space = StudentSpace.from_states([trace.states[0], trace.states[3]], width)
    return trace, block, space, init_embeddings(block, trace, space)


def run(block, chunk):
    return block(**{name: chunk[name] for name in ("input_ids", "token_type_ids") if name in chunk})


@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("family", tiny_models.ARCHITECTURES)
def test_it_returns_what_the_block_does(family, width):
    trace, block, _, returned = made(family, width)
    for chunk, states in zip(trace.texts.chunks, returned, strict=True):
        torch.testing.assert_close(states, run(block, chunk), **TOLERANCE)


@pytest.mark.parametrize("family", [name for name in tiny_models.ARCHITECTURES if name != "albert"])
def test_at_the_teachers_width_a_sum_of_tables_is_the_same_sum(family):
    # What ModernBERT's norm returns is normalised once more: a sum of tables only where it does not scale.
    trace, _, _, returned = made(family, spread_norms=family != "modernbert")
    torch.testing.assert_close(trace.texts.pack(returned), trace.states[0], **TOLERANCE)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "deberta-v2"])
def test_rows_are_projected_from_the_first_position_that_inputs_have(family):
    trace, block, space, _ = made(family, 16)
    teacher = trace.teacher.embeddings
    torch.testing.assert_close(block.word_embeddings.weight, teacher.word_embeddings.weight @ space.basis)
    for name in ("position_embeddings", "token_type_embeddings"):
        found, table = getattr(block, name).weight, getattr(teacher, name, None)
        if table is None:
            assert found.abs().max() == 0
            continue
        rows = table.weight[OFFSET.get(family, 0) if name.startswith("position") else 0 :]
        count = min(len(rows), len(found))
        torch.testing.assert_close(found[:count], rows[:count] @ space.basis)
    if OFFSET.get(family):
        assert block.position_embeddings.num_embeddings == 78


def test_a_norm_is_copied_at_the_teachers_width_and_fitted_to_a_narrower_space():
    """It scales directions of its own, which a basis mixes."""
    trace, block, _, _ = made()
    theirs = trace.teacher.embeddings.LayerNorm
    assert torch.equal(block.LayerNorm.weight, theirs.weight)
    assert torch.equal(block.LayerNorm.bias, theirs.bias)
    trace, block, space, returned = made(width=16)
    error = trace.texts.pack(returned) - space(trace.states[0])
    torch.testing.assert_close(error.mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    plain = (trace.texts.pack(returned) - block.LayerNorm.bias) / block.LayerNorm.weight
    torch.testing.assert_close((error * plain).mean(0), torch.zeros(16), rtol=0, atol=1e-3)
    assert error.square().mean() < 0.3 * space(trace.states[0]).var(dim=0).mean()


@pytest.mark.parametrize(("family", "overrides"), MAPPED, ids=["albert", "electra"])
@pytest.mark.parametrize("width", [16, 24])
def test_a_block_with_a_map_behind_it_is_followed_at_texts_and_positions_unseen(family, overrides, width):
    """Closer than tables without positions could."""
    trace, block, space, _ = made(family, width, teacher_overrides=overrides)
    other = tiny_models.batch((60, 60, 60), seed=9)
    inputs = accepted_inputs(trace.teacher, other)
    wanted = space(trace.teacher(**inputs, output_hidden_states=True).hidden_states[0]).flatten(0, 1)
    error = (run(block, other).flatten(0, 1) - wanted).square().mean()
    assert error < 0.2 * (wanted - wanted.mean(0)).square().mean()
    block.position_embeddings.weight.zero_()
    assert error < 0.6 * (run(block, other).flatten(0, 1) - wanted).square().mean()


@pytest.mark.parametrize(("family", "overrides"), [("bert", {}), *MAPPED], ids=["bert", "albert", "electra"])
def test_token_types_are_told_apart_as_the_teacher_does(family, overrides):
    trace, block, space, _ = made(family, 16, typed(tiny_models.batch((12,) * 16)), teacher_overrides=overrides)
    other = tiny_models.batch((12,) * 6, seed=4)
    types = torch.ones_like(other["input_ids"])
    theirs, ours = [], []
    for each in (torch.zeros_like(types), types):
        inputs = other | {"token_type_ids": each}
        theirs.append(space(trace.teacher(**inputs, output_hidden_states=True).hidden_states[0]))
        ours.append(run(block, inputs))
    change = [(pair[1] - pair[0]).flatten(0, 1).mean(0) for pair in (ours, theirs)]
    assert torch.cosine_similarity(*change, dim=0) > 0.8
    assert change[0].norm() == pytest.approx(change[1].norm(), rel=0.5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_student_reads_no_positions_that_the_teacher_does_not_have(family):
    longest = 80 - OFFSET.get(family, 0)
    with pytest.raises(ValueError, match=f"has {longest + 1} positions, more than the teacher's {longest}"):
        made(family, max_position_embeddings=longest + 1)
    _, block, _, _ = made(family, max_position_embeddings=12)
    assert block.position_embeddings.num_embeddings == 12


def test_a_teacher_without_positions_in_its_embeddings_has_a_student_without_them():
    _, block, _, _ = made("deberta-v2")
    assert block.position_embeddings.weight.abs().max() == 0
    assert block.token_type_embeddings.weight.abs().max() == 0


def test_nothing_stays_on_the_models():
    trace, block, _, _ = made("albert", 16)
    assert tiny_models.hooks(block) == tiny_models.hooks(trace.teacher) == 0
