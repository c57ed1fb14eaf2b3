"""Checkpoints as TinyBERT's authors publish them, pulled from a Hub on loopback, become students."""

from __future__ import annotations

import json
import pickle
from importlib import resources
from pathlib import Path

import factories
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining

from hf_tinybert import create_student
from hf_tinybert.utils import compat

pytestmark = pytest.mark.also_transformers("4.57")


@pytest.fixture(scope="module")
def published(teacher_folder, tmp_path_factory):
    """A general student in the authors' form: old names, `fit_dense`, a pickle, a configuration that names no type."""
    folder = tmp_path_factory.mktemp("published")
    teacher = factories.load(teacher_folder)
    start = create_student(teacher, factories.student_config(teacher), init="teacher")
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
    state["fit_dense.weight"] = torch.randn(96, 48, generator=generator) * 0.02
    state["fit_dense.bias"] = torch.randn(96, generator=generator) * 0.02
    torch.save(state, folder / "pytorch_model.bin")
    config = {
        "attention_probs_dropout_prob": 0.1,
        "cell": {},
        "emb_size": 48,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 48,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pre_trained": "",
        "structure": [],
        "type_vocab_size": 2,
        "vocab_size": 1500,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = AutoTokenizer.from_pretrained(teacher_folder).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def uploaded(published, client):
    assert "result" in client("upload", folder=str(published), repo_id="me/TinyBERT_General_2L_48D")
    return "me/TinyBERT_General_2L_48D"


def test_weights_and_projection_are_the_published_ones(client, uploaded, published, teacher_folder):
    weights = str(published / "pytorch_model.bin")
    answer = client("pull", teacher_folder=teacher_folder, weights=weights, repo_id=uploaded)["result"]
    assert answer.pop("tensors") == 5 + 2 * 16
    assert answer.pop("labels") == factories.intents()
    assert answer == {"different": [], "type": "bert", "projection": True, "bias": True}


def test_it_is_distilled_and_pulled_whole(client, uploaded, published, teacher_folder, tmp_path):
    demo = str(resources.files("hf_tinybert.data") / "demo_data" / "train.csv")
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
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("bert", 2, 48)
    folder = client("download", repo_id=uploaded)["result"]
    for file in ("config.json", "pytorch_model.bin", "vocab.txt"):
        assert (Path(folder) / file).read_bytes() == (published / file).read_bytes()


class Harmful:
    """What runs code where it is unpickled without care."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_a_pickle_that_runs_code_is_refused(client, published, teacher_folder, tmp_path):
    folder, trap = tmp_path / "harmful", tmp_path / "trap"
    folder.mkdir()
    (folder / "config.json").write_bytes((published / "config.json").read_bytes())
    state = torch.load(published / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"fit_dense.extra": Harmful(str(trap))}, folder / "pytorch_model.bin", pickle_module=pickle)
    assert "result" in client("upload", folder=str(folder), repo_id="me/harmful")
    weights = str(published / "pytorch_model.bin")
    answer = client("pull", teacher_folder=teacher_folder, weights=weights, repo_id="me/harmful")
    assert answer["error"] == ("UnpicklingError" if compat.HAS_SAMPLING_STRATEGY else "OSError")
    assert "_pickle.UnpicklingError: Weights only load failed" in answer["trace"]
    assert not trap.exists()
