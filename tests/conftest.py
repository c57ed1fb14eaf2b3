"""What the tests share: a real pretrained body, real sentences, and where the development data lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import hub_server
import workbench

from hf_tinybert import compat


def pytest_collection_modifyitems(config, items):
    """Leave out what runs in the other world only."""
    here, kept, left_out = "5" if compat.HAS_SAMPLING_STRATEGY else "4.57", [], []
    for item in items:
        worlds = {mark.args[0] for mark in item.iter_markers("one_world")}
        (left_out if worlds and here not in worlds else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Training arguments with bf16 or torch_compile set variables that change later runs, also in other processes."""
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def body() -> str:
    """Folder of all-MiniLM-L6-v2, a real `BertModel` of 6 layers, 384 wide, 12 heads."""
    return workbench.body()


@pytest.fixture(scope="session")
def tokenizer():
    return workbench.tokenizer()


@pytest.fixture(scope="session")
def household():
    """The demo's requests, tokenised: train, eval and test."""
    return workbench.household()


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory) -> str:
    """A MiniLM fine-tuned on the household requests for a minute: a real teacher."""
    return workbench.finetuned_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def teacher(teacher_folder):
    return workbench.load(teacher_folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data, which is no part of the project."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the development data is not in {folder}")
    return folder


@pytest.fixture(scope="session")
def masked_lm_folder() -> str:
    """A MiniLM with its trained masked language modelling head, which is no part of the project."""
    folder = Path(__file__).parents[2] / "shared" / "models" / "minilm-mlm"
    if not folder.is_dir():
        pytest.skip(f"the masked language model is not in {folder}")
    return str(folder)


@pytest.fixture(scope="session")
def running_hub():
    with hub_server.HubServer() as running:
        yield running


@pytest.fixture
def server(running_hub):
    """A Hub on loopback that has nothing planned and has noted nothing yet."""
    running_hub.failures.clear()
    running_hub.received.clear()
    running_hub.requests.clear()
    return running_hub


@pytest.fixture(scope="session")
def client(running_hub, tmp_path_factory):
    """Does what it is told (`hub_client`), in a process that knows of the Hub by its environment alone."""
    command = workbench.worker(str(Path(__file__).with_name("hub_client.py")))
    command["env"] |= running_hub.environment(tmp_path_factory.mktemp("hub_cache"))
    process = subprocess.Popen(**command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(do, **arguments):
        process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        process.stdin.flush()
        while not (line := process.stdout.readline()).startswith("ANSWER"):
            assert line, "the client has ended"
        return json.loads(line.removeprefix("ANSWER"))

    yield ask
    process.stdin.close()
    process.wait()
