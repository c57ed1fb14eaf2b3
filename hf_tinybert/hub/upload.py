"""Uploads a student to the Hub: which files are uploaded, and what an error of the Hub means."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from hf_tinybert.utils import compat
from hf_tinybert.utils.files import written_beside
from hf_tinybert.utils.hashing import file_digest, stream_digest

if TYPE_CHECKING:
    from concurrent.futures import Future

logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
PICTURES = "pictures"

_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_SENTENCE_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "[0-9]_*/*")
#: Files of a student, its tokenizer and its adapter's base model.
STUDENT_FILES = (
    *(name for name in (*_MODEL_FILES, *TOKENIZER_FILES)),
    *(f"base/{name}" for name in (*_MODEL_FILES, *TOKENIZER_FILES)),
    *_SENTENCE_FILES,
)
#: Folders of exported models, and the file in them that records the weights they were exported from.
EXPORTS = ("onnx", "openvino")
EXPORT_NAME = "export.json"
#: All files that are uploaded.
PATTERNS = (*STUDENT_FILES, CARD_NAME, f"{PICTURES}/*.png", *(f"{name}/*" for name in EXPORTS))

_ERRORS: tuple[type[Exception], ...] = (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    *compat.connection_errors(),
)
#: A failed file upload raises a RuntimeError around one of these, or one of the Xet client's own.
_CAUGHT: tuple[type[Exception], ...] = (*_ERRORS, RuntimeError)
_ADVICE = {
    401: "the token is missing or not known: log in with `hf auth login`, or set HF_TOKEN",
    403: "this token may not write there: make one that can, or choose a --repo-id of your own",
    404: "there is no such repository, or this token may not see it",
    409: "somebody else was changing it at the same time: run the command again",
    412: "somebody else was changing it at the same time: run the command again",
    429: "too many requests: wait a few minutes and run the command again",
}


#: One client, in whose queue background uploads wait for each other.
_API = HfApi()


class PushError(OSError):
    """An upload failed; the message gives the reason and what to do."""


def files_of(folder: str | os.PathLike[str]) -> list[str]:
    """The files of a folder that are uploaded, relative to it and sorted; no exports of other weights."""
    root = Path(folder)
    left_out = tuple(f"{name}/" for name in EXPORTS if is_stale(root, name))
    for name in left_out:
        logger.warning(
            f"{root / name} was exported from other weights than those in {root}, and is left out: run "
            "`hf-tinybert export` again."
        )
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    wanted = (name for name in names if any(fnmatch(name, pattern) for pattern in PATTERNS))
    return sorted(name for name in wanted if not name.startswith(left_out))


def weights_sha256(folder: str | os.PathLike[str]) -> str | None:
    """The digest of the weight files of a folder; None where there are none."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        return None
    return stream_digest(file_digest(file) for file in files)


def is_stale(folder: str | os.PathLike[str], name: str) -> bool:
    """Whether an export (`onnx`, `openvino`) was made from other weights than those in its folder, as it records."""
    root = Path(folder)
    try:
        recorded = json.loads((root / name / EXPORT_NAME).read_text(encoding="utf-8")).get("weights")
    except (OSError, ValueError, AttributeError):
        return False
    return recorded is not None and recorded != weights_sha256(root)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that does not hold a student.

    Raises:
        ValueError: the message names what is missing.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{folder} is not a folder; expected the folder of a saved student.")
    files = files_of(path)
    configs = {"config.json", "adapter_config.json"} & set(files)
    weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    if "adapter_config.json" in configs:
        raise ValueError(
            f"{folder} holds a LoRA adapter, whose base model is named by a folder of this machine: save the merged "
            "student (`merge_adapter(trainer.student).save_pretrained(...)`, and the tokenizer) and push that. "
            "`trainer.push_to_hub()` does this itself."
        )
    if not configs or not weights:
        missing = "configuration (config.json)" if not configs else "weights (model.safetensors)"
        raise ValueError(f"{folder} holds no {missing}: save a student there first (`trainer.save_model()`).")


def create_repository(repo_id: str, token: str | None = None, private: bool | None = None) -> str:
    """The full name of a model repository, which is created if it does not exist.

    Raises:
        PushError: the Hub refused, or was not reached.
        ValueError: `repo_id` is not a valid name.
    """
    with explained(repo_id):
        url = _API.create_repo(repo_id, token=token, private=private, exist_ok=True)
    return str(url.repo_id)


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload student",
) -> CommitInfo:
    """Upload the student in a folder: weights, tokenizer, card, pictures and `onnx/`, nothing else.

    A repeated upload does not send again what the Hub already has.

    Args:
        folder: of the student.
        repo_id: of the repository, OWNER/NAME, which must exist.
        token: of the user; that of `hf auth login` or `HF_TOKEN` by default.
        revision: branch; created from main if it does not exist.
        commit_message: of the commit.

    Returns:
        huggingface_hub's `CommitInfo`, once the upload is complete.

    Raises:
        PushError: the Hub refused, or was not reached.
        ValueError: the folder holds no student.
    """
    with explained(repo_id):
        additions = _prepare(folder, repo_id, token, revision, in_memory=False)
        return _API.create_commit(repo_id, additions, commit_message=commit_message, token=token, revision=revision)


def push_later(
    folder: str | os.PathLike[str],
    repo_id: str,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload student",
) -> Future[CommitInfo]:
    """The same in the background, after earlier background uploads; returns a future.

    The present content is sent: what is saved into the folder meanwhile must not mix with it.
    """
    with explained(repo_id):
        additions = _prepare(folder, repo_id, token, revision, in_memory=True)
        return _API.create_commit(
            repo_id, additions, commit_message=commit_message, token=token, revision=revision, run_as_future=True
        )


def _prepare(
    folder: str | os.PathLike[str], repo_id: str, token: str | None, revision: str | None, in_memory: bool
) -> list[CommitOperationAdd]:
    """Check the folder, make the branch, and list the files of a commit; the card's examples name the repository."""
    check_folder(folder)
    _make_branch(repo_id, revision, token)
    paths = {name: Path(folder) / name for name in files_of(folder)}
    contents = {name: path.read_bytes() if in_memory else str(path) for name, path in paths.items()}
    if CARD_NAME in contents:
        contents[CARD_NAME] = named(paths[CARD_NAME].read_text(encoding="utf-8"), repo_id).encode("utf-8")
    return [CommitOperationAdd(name, content) for name, content in contents.items()]


def push_checkpoint_later(
    folder: str | os.PathLike[str],
    repo_id: str,
    path_in_repo: str,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload checkpoint",
) -> Future[CommitInfo]:
    """Upload a whole checkpoint in the background, so that training can be resumed on another machine."""
    _make_branch(repo_id, revision, token)
    return _API.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        path_in_repo=path_in_repo,
        token=token,
        revision=revision,
        commit_message=commit_message,
        run_as_future=True,
    )


def named(card: str, repo_id: str) -> str:
    """A card whose examples load the model from its repository, in place of its title."""
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    if title is None:
        return card
    quoted = rf'(?:(?<=[(=])(?<!subfolder=)|(?<=", ))"{re.escape(title[1].strip())}"'
    return re.sub(quoted, f'"{repo_id}"', card)


def _make_branch(repo_id: str, revision: str | None, token: str | None) -> None:
    if revision is not None and not revision.startswith("refs/"):
        _API.create_branch(repo_id, branch=revision, token=token, exist_ok=True)


def copy_student(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a student, without card and pictures, from a checkpoint into another folder, each file atomically."""
    with written_beside(target) as staging:
        for name in files_of(source):
            if any(fnmatch(name, pattern) for pattern in STUDENT_FILES):
                copy = Path(staging) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(source) / name, copy)


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn the Hub client's errors into ones that tell what to do."""
    try:
        yield
    except _CAUGHT as error:
        raise explain(error, repo_id) from error


def explain(error: BaseException, repo_id: str) -> Exception:
    """The error for a failed request: the reason, and what to do."""
    if type(error) is RuntimeError and isinstance(error.__cause__, _ERRORS):  # of a file's upload
        error = error.__cause__
    if isinstance(error, HFValidationError):
        return ValueError(f"{repo_id!r} cannot name a repository; expected NAME or OWNER/NAME. {error}")
    response = getattr(error, "response", None)
    status = None if response is None else response.status_code
    if isinstance(error, LocalTokenNotFoundError):
        reason = _ADVICE[401]
    elif status is None:
        reason = (
            f"it was not reached, or the connection broke ({type(error).__name__}: {error}): check the network (and "
            "HF_ENDPOINT) and run the command again"
        )
    elif status >= 500:
        reason = "it has an internal error: run the command again later"
    else:
        reason = _ADVICE.get(status, str(error))
    code = "" if status is None else f" ({status})"
    return PushError(
        f"The Hub did not take {repo_id}{code}: {reason}. Nothing on this disk has changed, and what has arrived is "
        "not sent again."
    )
