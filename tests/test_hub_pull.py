"""Checkpoints as TinyBERT's authors publish them, pulled from a Hub on loopback, become students."""

from __future__ import annotations

import json
import pickle
import subprocess

import pytest
import torch
import workbench
from transformers import AutoTokenizer, BertConfig, BertForPreTraining

from hf_tinybert import create_student

PULL = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification
from hf_tinybert import create_student
from hf_tinybert.projections import Projections, offered
teacher = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
published = torch.load(sys.argv[2], weights_only=True)
student = create_student(teacher, sys.argv[3])
own = {name: value for name, value in student.state_dict().items() if name.startswith("bert.")}
old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
       for name, value in own.items() if "pooler" not in name}
offers = offered(student)
print("ANSWER", json.dumps({
    "equal": all(torch.equal(published[name], value) for name, value in old.items()),
    "tensors": len(old),
    "labels": student.config.id2label == teacher.config.id2label,
    "type": student.config.model_type,
    "projection": torch.equal(offers["shared.weight"], published["fit_dense.weight"]),
    "bias": torch.equal(offers["shared.bias"], published["fit_dense.bias"]),
}))
"""


@pytest.fixture(scope="module")
def published(teacher_folder, tmp_path_factory):
    """A general student in the authors' form: old names, `fit_dense`, a pickle, a configuration that names no type."""
    folder = tmp_path_factory.mktemp("published")
    teacher = workbench.load(teacher_folder)
    start = create_student(teacher, "tinybert-4l-312d", init="teacher")
    sizes = BertConfig.from_dict({k: v for k, v in start.config.to_dict().items() if k != "architectures"})
    model = BertForPreTraining(sizes)
    model.bert.load_state_dict(start.bert.state_dict())
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[name] = value.clone()
    generator = torch.Generator().manual_seed(0)
    state["fit_dense.weight"] = torch.randn(384, 312, generator=generator) * 0.02
    state["fit_dense.bias"] = torch.randn(384, generator=generator) * 0.02
    torch.save(state, folder / "pytorch_model.bin")
    config = {
        "attention_probs_dropout_prob": 0.1,
        "cell": {},
        "emb_size": 312,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 312,
        "initializer_range": 0.02,
        "intermediate_size": 1200,
        "max_position_embeddings": 512,
        "num_attention_heads": 12,
        "num_hidden_layers": 4,
        "pre_trained": "",
        "structure": [],
        "type_vocab_size": 2,
        "vocab_size": 30522,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = AutoTokenizer.from_pretrained(teacher_folder).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def uploaded(published, client):
    assert "result" in client("upload", folder=str(published), repo_id="me/TinyBERT_General_4L_312D")
    return "me/TinyBERT_General_4L_312D"


def python(running_hub, cache, code, *arguments):
    command = workbench.worker("-c", code, *arguments)
    command["env"] |= running_hub.environment(cache, token=None)
    return subprocess.run(**command, capture_output=True, timeout=300)


def test_weights_and_projection_are_the_published_ones(running_hub, uploaded, published, teacher_folder, tmp_path):
    done = python(running_hub, tmp_path, PULL, teacher_folder, published / "pytorch_model.bin", uploaded)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.split("ANSWER")[1])
    assert answer.pop("tensors") == 5 + 4 * 16
    assert answer == {"equal": True, "labels": True, "type": "bert", "projection": True, "bias": True}


def test_it_is_distilled_and_pulled_whole(client, uploaded, published, teacher_folder, tmp_path):
    demo = str(workbench.resources.files("hf_tinybert") / "demo_data" / "train.csv")
    flags = [
        "--train-file",
        demo,
        "--label-column",
        "intent",
        "--max-steps",
        "4",
        "--use-cpu",
        "--disable-tqdm",
        "True",
    ]
    asked = [
        "distill",
        "--teacher",
        teacher_folder,
        "--student",
        uploaded,
        *flags,
        "--output-dir",
        str(tmp_path / "out"),
    ]
    answer = client("command", argv=asked)["result"]
    assert answer["code"] == 0, answer["err"]
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("bert", 4, 312)
    folder = client("download", repo_id=uploaded)["result"]
    for file in ("config.json", "pytorch_model.bin", "vocab.txt"):
        assert (workbench.Path(folder) / file).read_bytes() == (published / file).read_bytes()


class Harmful:
    """What runs code where it is unpickled without care."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_a_pickle_that_runs_code_is_refused(running_hub, client, published, teacher_folder, tmp_path):
    folder, trap = tmp_path / "harmful", tmp_path / "trap"
    folder.mkdir()
    (folder / "config.json").write_bytes((published / "config.json").read_bytes())
    state = torch.load(published / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"fit_dense.extra": Harmful(str(trap))}, folder / "pytorch_model.bin", pickle_module=pickle)
    assert "result" in client("upload", folder=str(folder), repo_id="me/harmful")
    done = python(running_hub, tmp_path / "cache", PULL, teacher_folder, published / "pytorch_model.bin", "me/harmful")
    assert done.returncode != 0
    assert "weights_only" in done.stderr or "Weights only" in done.stderr
    assert not trap.exists()
