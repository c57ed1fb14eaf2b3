"""What the tests share: a small real teacher, real sentences, processes, a Hub; and that nothing is left behind."""

from __future__ import annotations

import copy
import gc
import os
import shutil
import sys
import tempfile
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
from accelerate.state import AcceleratorState

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import factories
import hub_server
import small_teacher
from asking import asked
from processes import PATHS, Processes

from hf_tinybert.utils import compat

pytest_plugins = ["own_times"]


def pytest_configure(config):
    """A temporary folder of the session's own: what a test leaves outside its `tmp_path` is seen there."""
    folder = tempfile.mkdtemp(prefix="hf-tinybert-tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    if "HF_TINYBERT_TEST_CACHE" not in os.environ:
        os.environ["HF_TINYBERT_TEST_CACHE"] = str(config.cache.mkdir("hf-tinybert"))


def pytest_addoption(parser):
    parser.addoption("--every-test", action="store_true", help="also those that are not marked for this transformers")


def pytest_collection_modifyitems(config, items):
    """The newest transformers runs every test, 4.57 those that are marked for it."""
    if compat.HAS_SAMPLING_STRATEGY or config.getoption("--every-test"):
        return
    kept, left_out = [], []
    for item in items:
        versions = {version for mark in item.iter_markers("also_transformers") for version in mark.args}
        (kept if "4.57" in versions else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def pytest_collection_finish():
    """Every training collects garbage several times: over all that was imported, that takes longer than it."""
    gc.collect()
    gc.freeze()


#: ONNX Runtime's own, written when it is imported.
NOT_OURS = {".ses"}


def left_behind(folder: Path) -> list[str]:
    """Files beside pytest's own folder, processes and open ports of a session whose fixtures are gone."""
    resource_tracker._resource_tracker._stop()
    this, pytest_folders = psutil.Process(), {path.name for path in folder.glob("pytest-of-*")}
    found = [f"file {path}" for path in folder.iterdir() if path.name not in NOT_OURS | pytest_folders]
    found += [f"process {child.pid}: {' '.join(child.cmdline())}" for child in this.children(recursive=True)]
    ports = [connection for connection in this.net_connections() if connection.status == psutil.CONN_LISTEN]
    return found + [f"port {port.laddr.port}" for port in ports]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    folder = Path(tempfile.gettempdir())
    if found := left_behind(folder):
        session.config.get_terminal_writer().line("\nThe tests have left behind: " + "; ".join(found), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if session.exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Training arguments with bf16 or torch_compile set variables that change later runs, also in other processes."""
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """Starts processes of their own quickly (`processes.Processes`)."""
    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def minilm() -> str:
    """Folder of all-MiniLM-L6-v2, a real `BertModel` of 6 layers, 384 wide, 12 heads: for a few tests end to end."""
    return small_teacher.minilm()


@pytest.fixture(scope="session")
def encoder() -> str:
    """Folder of a real pretrained `BertModel` of 4 layers, 96 wide, 4 heads."""
    return factories.encoder()


@pytest.fixture(scope="session")
def student_shape() -> str:
    """For `--student`: 2 layers, 48 wide (presets are wider than the small teacher)."""
    return factories.student_shape()


@pytest.fixture(scope="session")
def tokenizer():
    return factories.tokenizer()


@pytest.fixture(scope="session")
def household():
    """The demo's requests, tokenised: train, eval and test."""
    return factories.household()


@pytest.fixture(scope="session")
def teacher_folder() -> str:
    """The encoder fine-tuned on the household requests: a real teacher."""
    return factories.teacher_folder()


@pytest.fixture(scope="session")
def loaded_teacher(teacher_folder):
    return factories.load(teacher_folder)


@pytest.fixture
def teacher(loaded_teacher):
    """A copy of the test's own."""
    return copy.deepcopy(loaded_teacher)


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
    environment = os.environ | running_hub.environment(tmp_path_factory.mktemp("hub_cache"))
    environment["PYTHONPATH"] = os.pathsep.join(PATHS)
    with asked(sys.executable, Path(__file__).with_name("hub_client.py"), environment) as ask:
        ask("ready")
        yield ask
