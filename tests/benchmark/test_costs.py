from __future__ import annotations

import importlib.util
from itertools import product

import pytest
import tiny_models
import torch
from torch import nn
from transformers import AlbertConfig, AutoModel, AutoModelForSequenceClassification

from hf_tinybert.benchmark.costs import (
    SHAPES,
    Candidate,
    Plan,
    bytes_on_disk,
    count_flops,
    find_candidates,
    latency,
    measure,
)
from hf_tinybert.export import exporters

CPU = torch.device("cpu")
QUICK = Plan(batch_sizes=(1,), lengths=(6,), rounds=3, warm_up=1)
has_onnx = importlib.util.find_spec("onnxruntime") is not None
needs_onnx = pytest.mark.skipif(not has_onnx, reason="ONNX Runtime is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models of two families, 16 wide and 24 wide."""
    folder = tmp_path_factory.mktemp("models")
    tiny_models.model().save_pretrained(folder / "teacher")
    tiny_models.model("distilbert", hidden_size=16).save_pretrained(folder / "student")
    return folder


# file size


@pytest.mark.parametrize("projections", [0, 5, 300])
def test_the_file_size_is_that_of_the_weights_without_the_projections(projections, tmp_path):
    assert bytes_on_disk(tmp_path) is None
    for name, size in {"config.json": 11, "optimizer.pt": 13, "training_args.bin": 17}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert bytes_on_disk(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"x" * 300)
    (tmp_path / "distillation_projections.safetensors").write_bytes(b"x" * projections)
    assert bytes_on_disk(tmp_path) == 300
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 40)
    assert bytes_on_disk(str(tmp_path)) == 340


def test_file_size_of_the_old_format_and_of_a_hub_id(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 7)
    assert bytes_on_disk(tmp_path) == 7
    assert bytes_on_disk("somebody/bert-intents") is None


# FLOPs


def formula(layers, width, feed_forward, length, labels, dense_head=True):
    """Two FLOPs a multiply-add: six linear layers a token, scores and their sum over values, the head."""
    linear = 4 * width * width + 2 * width * feed_forward
    attention = 2 * length * width
    head = dense_head * width * width + width * labels
    return 2 * (layers * length * (linear + attention) + head)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [1, 16, 80])
@pytest.mark.parametrize(("layers", "width", "feed_forward", "labels"), [(3, 24, 40, 3), (1, 8, 100, 2)])
def test_flops_of_a_bert(attention, length, layers, width, feed_forward, labels):
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": feed_forward}
    model = tiny_models.model(attention=attention, num_labels=labels, **sizes)
    assert count_flops(model, length) == formula(layers, width, feed_forward, length, labels)


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert"])
def test_flops_of_other_families(family):
    assert count_flops(tiny_models.model(family), 16) == formula(3, 24, 40, 16, 3)


def test_flops_of_a_real_encoder(encoder):
    model = AutoModel.from_pretrained(encoder).eval()
    for length in (32, 128):
        assert count_flops(model, length) == formula(4, 96, 192, length, labels=0)


# inputs


# timing


def test_latencies_are_positive_of_every_model_and_grow_with_its_depth():
    models = {"deep": tiny_models.model(num_hidden_layers=12).train(), "flat": tiny_models.model(num_hidden_layers=1)}
    found = latency(models, length=16, rounds=15, warm_up=3)
    assert found["deep"] > found["flat"] > 0
    assert not models["deep"].training


# what to measure


def test_candidates_have_the_given_name_or_the_last_part_of_their_folder(tmp_path):
    odd = tmp_path / "lr=3"
    odd.mkdir()
    found = find_candidates(
        [f"big={tmp_path}", f"{odd}/", f"small={odd}", "somebody/bert-intents", "hub=somebody/bert-intents"],
        ["bert-base", "tinybert-4l-312d"],
    )
    assert found == (
        Candidate("big", path=str(tmp_path)),
        Candidate("lr=3", path=f"{odd}/"),
        Candidate("small", path=str(odd)),
        Candidate("somebody/bert-intents", path="somebody/bert-intents"),
        Candidate("hub", path="somebody/bert-intents"),
        Candidate("bert-base", shape="bert-base"),
        Candidate("tinybert-4l-312d", shape="tinybert-4l-312d"),
    )


@pytest.mark.parametrize(
    ("models", "shapes", "message"),
    [
        ([], [], "Nothing to measure: give --models or --shapes"),
        (["a=x", "a=y"], [], "Two models are called 'a'"),
        (["x/student", "y=x/student", "x/student"], [], "Two models are called 'x/student'.*--models name=path"),
        (["bert-base=x"], ["bert-base"], "Two models are called 'bert-base'"),
        ([], ["bert-base", "bert-base"], "Two models are called 'bert-base'"),
        ([], ["bert-huge"], "Unknown shape 'bert-huge'; the shapes are bert-base, tinybert-4l-312d"),
        (["=x"], [], "--models takes a folder, a Hub id or name=path, got '=x'"),
        (["x="], [], "got 'x='"),
        ([""], [], "got ''"),
    ],
)
def test_candidates_that_cannot_be(models, shapes, message):
    with pytest.raises(ValueError, match=message):
        find_candidates(models, shapes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": (1, 0)}, "--batch-sizes takes different whole numbers of at least 1, got 1 0"),
        ({"batch_sizes": (-4,)}, "--batch-sizes .* got -4"),
        ({"batch_sizes": ()}, "--batch-sizes .* got nothing"),
        ({"lengths": (0,)}, "--lengths .* got 0"),
        ({"lengths": (8, 16, 8)}, "--lengths .* different .* got 8 16 8"),
        ({"threads": (0,)}, "--threads takes different whole numbers of at least 1, got 0"),
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"warm_up": -1}, "--warm-up must be at least 0, got -1"),
    ],
)
def test_plans_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        Plan(**changes)


# measuring


def test_every_model_in_every_runtime_for_every_batch_size_and_length(folders, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # two threads on a busy core wait for each other
    plan = Plan(batch_sizes=(1, 3), lengths=(5, 9), threads=(1, 2), rounds=4, warm_up=0)
    candidates = find_candidates([str(folders / "teacher"), f"small={folders / 'student'}"])
    costs, timings = measure(candidates, plan, ["pytorch", "pytorch-int8"])
    rows = [(name, runtime) for name in ("teacher", "small") for runtime in ("pytorch", "pytorch-int8")]
    assert [(cost.name, cost.runtime) for cost in costs] == rows
    blocks = list(product((1, 2), (1, 3), (5, 9)))
    found = [(t.threads, t.batch_size, t.length, t.name, t.runtime) for t in timings]
    assert found == [block + row for block in blocks for row in rows]
    for timing in timings:
        assert timing.p95_ms >= timing.median_ms > 0
        assert timing.sequences_per_second == pytest.approx(timing.batch_size * 1000 / timing.median_ms)
    for start in range(0, len(timings), len(rows)):
        block = timings[start : start + len(rows)]
        assert [t.speed_up for t in block] == [pytest.approx(block[0].median_ms / t.median_ms) for t in block]
    teacher, teacher_int8, small, _ = costs
    assert teacher.flops == {length: formula(3, 24, 40, length, 3) for length in (5, 9)} == teacher_int8.flops
    assert small.flops == {length: formula(3, 16, 40, length, 2 + 1) for length in (5, 9)}
    assert teacher.parameters == teacher_int8.parameters == tiny_models.model().num_parameters()
    assert teacher.bytes_on_disk == (folders / "teacher" / "model.safetensors").stat().st_size
    assert [cost.size_is_computed for cost in costs] == [False, True] * 2
    assert not any(cost.random_weights for cost in costs)


def test_a_shape_has_random_weights_and_a_computed_size():
    (cost, quantized), _ = measure([Candidate("tiny", shape="tinybert-3l-192d")], QUICK, ["pytorch", "pytorch-int8"])
    assert cost.label == "tiny (random weights), pytorch"
    # Embeddings, layers, pooler and a head of two labels; two numbers a width in each LayerNorm.
    d, f = 192, 768
    embeddings = (30522 + 512 + 2) * d + 2 * d
    layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    assert cost.parameters == embeddings + 3 * layer + d * d + d + 2 * d + 2
    assert (cost.bytes_on_disk, cost.size_is_computed) == (4 * cost.parameters, True)
    # Three bytes less for each weight of a linear layer.
    saved = 3 * (3 * (4 * d * d + 2 * d * f) + d * d + 2 * d)
    assert quantized.bytes_on_disk == pytest.approx(cost.bytes_on_disk - saved, rel=0.01)
    assert quantized.size_is_computed


def test_bert_base_is_bert_base():
    sizes = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    assert SHAPES["bert-base"] == sizes


def test_the_threads_are_set_for_the_measurement_only(folders, monkeypatch):
    before, given = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    plan = Plan(batch_sizes=(1,), lengths=(4,), threads=(before + 1, before), rounds=1, warm_up=0)
    measure([Candidate("t", path=str(folders / "teacher"))], plan, ["pytorch"])
    assert given == [before + 1, before, before, before]


def test_speed_ups_against_another_than_the_first(folders):
    candidates = find_candidates([str(folders / "teacher"), f"small={folders / 'student'}"])
    _, timings = measure(candidates, QUICK, ["pytorch", "pytorch-int8"], baseline="small")
    assert [t.speed_up for t in timings] == [pytest.approx(timings[2].median_ms / t.median_ms) for t in timings]
    with pytest.raises(ValueError, match=r"--baseline must be one of the models, teacher, small; got 'large'\."):
        measure(candidates, QUICK, ["pytorch"], baseline="large")


def test_of_a_real_model(teacher, teacher_folder):
    plan = Plan(batch_sizes=(1,), lengths=(64,), rounds=5, warm_up=1)
    candidates = [Candidate("wide", shape="tinybert-6l-384d"), Candidate("real", path=teacher_folder)]
    (wide, real), (wide_time, real_time) = measure(candidates, plan, ["pytorch"])
    assert real.parameters == sum(p.numel() for p in teacher.parameters())
    assert real.bytes_on_disk == pytest.approx(4 * real.parameters, rel=0.02)
    assert wide.flops == {64: formula(6, 384, 1536, 64, labels=2)}
    assert real.flops == {64: formula(4, 96, 192, 64, labels=12)}
    assert wide_time.speed_up == 1
    assert real_time.speed_up > 2


def test_a_family_that_cannot_be_distilled_can_be_timed(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    config = AlbertConfig(vocab_size=90, embedding_size=8, max_position_embeddings=12, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    candidates = [Candidate("albert", path=str(tmp_path))]
    _, (timing,) = measure(candidates, QUICK, ["pytorch"])
    assert timing.median_ms > 0
    with pytest.raises(ValueError, match="--lengths has 13; the model albert takes 1 to 12 tokens"):
        measure(candidates, Plan(lengths=(13,)), ["pytorch"])


def test_nothing_is_timed_when_a_length_is_beyond_a_models_positions(tmp_path, folders):
    tiny_models.model("roberta").save_pretrained(tmp_path)  # 80 positions, of which padding takes the first two
    candidates = [Candidate("teacher", path=str(folders / "teacher")), Candidate("roberta", path=str(tmp_path))]
    told = []
    with pytest.raises(ValueError, match="--lengths has 79; the model roberta takes 1 to 78 tokens"):
        measure(candidates, Plan(lengths=(8, 79)), ["pytorch"], progress=told.append)
    assert told == []


def test_a_folder_without_a_model(tmp_path, folders):
    candidates = [Candidate("teacher", path=str(folders / "teacher")), Candidate("empty", path=str(tmp_path))]
    with pytest.raises(ValueError, match="holds no model"):
        measure(candidates, QUICK, ["pytorch"])


@pytest.fixture(scope="module")
def imported_exporter(tmp_path_factory):
    """The exporter's imports take longer than an export."""
    exporters.write(tiny_models.model(num_hidden_layers=1), tmp_path_factory.mktemp("exporter") / "model.onnx")


@needs_onnx
@pytest.mark.usefixtures("imported_exporter")
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("onnxruntime-int8", marks=pytest.mark.slow)])
def test_onnxruntime_exports_to_a_folder_of_its_own(runtime, tmp_path):
    tiny_models.model(num_hidden_layers=1).save_pretrained(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    (pytorch, onnx), timings = measure([Candidate("flat", path=str(tmp_path))], QUICK, ["pytorch", runtime])
    assert sorted(tmp_path.rglob("*")) == before
    assert (onnx.parameters, onnx.flops) == (pytorch.parameters, pytorch.flops)
    if runtime == "onnxruntime":
        assert onnx.bytes_on_disk > 4 * onnx.parameters
    else:
        assert 0 < onnx.bytes_on_disk < 4 * onnx.parameters + 200_000
    assert not onnx.size_is_computed
    assert [timing.runtime for timing in timings if timing.median_ms > 0] == ["pytorch", runtime]


@needs_onnx
def test_onnxruntime_takes_the_file_that_is_there(tmp_path):
    # Another model's file tells us what was measured; onnx/ goes before the folder itself.
    other = tiny_models.model("distilbert", hidden_size=16, num_hidden_layers=1)
    exporters.write(other, tmp_path / "model.onnx")
    tiny_models.model().save_pretrained(tmp_path)
    candidates = [Candidate("teacher", path=str(tmp_path))]
    (at_top,), _ = measure(candidates, QUICK, ["onnxruntime"])
    assert at_top.bytes_on_disk == (tmp_path / "model.onnx").stat().st_size
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model.onnx").rename(tmp_path / "onnx" / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    (below,), _ = measure(candidates, QUICK, ["onnxruntime"])
    assert below.bytes_on_disk == at_top.bytes_on_disk


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_turn_lasts_until_the_work_is_done():
    class Slow(nn.Module):
        config = tiny_models.config()
        device = torch.device("cuda")

        def forward(self, input_ids, attention_mask):
            torch.cuda._sleep(50_000_000)

    assert latency({"slow": Slow()}, length=4, rounds=3, warm_up=1)["slow"] > 5
