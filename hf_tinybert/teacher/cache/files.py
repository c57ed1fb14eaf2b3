"""Cache files: written atomically, and read only if key, shapes and checksum are right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_tinybert.utils.files import file_beside
from hf_tinybert.utils.hashing import tensors_digest


class Damaged(Exception):
    """A file is incomplete, or holds something else than expected."""


def write(path: Path, tensors: Mapping[str, Tensor], key: str) -> None:
    """Write a safetensors file with key and checksum in its header, under a temporary name, and rename it.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    try:
        with file_beside(path) as file:
            save_file(dict(tensors), str(file), metadata={"key": key, "sha256": tensors_digest(tensors)})
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"The teacher's cache cannot be written to {path.parent}: {error}. Make room there, choose another folder "
            "with teacher_cache_dir, or use teacher_cache='logits' or 'none'."
        ) from None


def read(path: Path, shapes: Mapping[str, tuple[int, ...]] | None, key: str) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped, after its key, shapes and checksum have been checked.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is incomplete, or belongs to another cache.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise Damaged(str(error)) from None
    if header.get("key") != key:
        raise Damaged("it belongs to other data or another teacher")
    if shapes is not None and {name: tuple(tensor.shape) for name, tensor in tensors.items()} != dict(shapes):
        raise Damaged("its tensors have other shapes")
    if header.get("sha256") != tensors_digest(tensors):
        raise Damaged("its checksum does not match")
    return tensors
