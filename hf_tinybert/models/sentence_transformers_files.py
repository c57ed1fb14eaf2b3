"""The files from which sentence-transformers loads a folder: pooling, a linear layer, normalisation.

Every version of sentence-transformers reads them. The package itself is not needed to write them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import cached_file

from hf_tinybert.models.pooling import POOLINGS

MODULES, _POOLING, _DENSE, _NORMALIZE = "modules.json", "1_Pooling", "2_Dense", "Normalize"
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
_DENSE_WEIGHTS = "model.safetensors"


def write(
    folder: str | os.PathLike[str], size: int, pooling: str, max_length: int | None, dense: nn.Linear | None = None
) -> None:
    """Add the files to a saved model: pooling, a linear layer if there is one, normalisation to length 1.

    Args:
        folder: holds the model and its tokenizer.
        size: the model's hidden size.
        pooling: `"mean"` or `"cls"`.
        max_length: the longest input in tokens, if there is one.
        dense: the `nn.Linear` behind the pooled vector, or None.
    """
    target, steps = Path(folder), [("", "Transformer"), (_POOLING, "Pooling")]
    modes = {name: mode == pooling for mode, name in _MODES.items()}
    others = {f"pooling_mode_{name}": False for name in ("max_tokens", "mean_sqrt_len_tokens")}
    _json(target / _POOLING / "config.json", {"word_embedding_dimension": size} | modes | others)
    if dense is not None:
        steps.append((_DENSE, "Dense"))
        config = {"in_features": dense.in_features, "out_features": dense.out_features, "bias": dense.bias is not None}
        _json(target / _DENSE / "config.json", config | {"activation_function": "torch.nn.modules.linear.Identity"})
        state = {f"linear.{name}": value.detach().cpu().contiguous() for name, value in dense.state_dict().items()}
        save_file(state, target / _DENSE / _DENSE_WEIGHTS)
    steps.append((f"{len(steps)}_{_NORMALIZE}", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{module}"}
        for number, (path, module) in enumerate(steps)
    ]
    _json(target / MODULES, modules)
    _json(target / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})


def pooling_of(model: PreTrainedModel) -> str | None:
    """The pooling that a model's folder or Hub repository specifies, or None if it specifies none.

    Raises:
        ValueError: the pooling is not supported.
    """
    path = _file(getattr(model.config, "_name_or_path", ""), f"{_POOLING}/config.json")
    if path is None:
        return None
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    on = {name for name, value in config.items() if name.startswith("pooling_mode_") and value is True}
    pooling = next((mode for mode, name in _MODES.items() if on == {name} or config.get("pooling_mode") == mode), None)
    if pooling is None:
        raise ValueError(
            f"{model.config._name_or_path} pools its vectors by {sorted(on) or config.get('pooling_mode')}; supported "
            f"are {', '.join(POOLINGS)}: set pooling='mean' or 'cls' to match that instead."
        )
    return pooling


def dense_of(name: str) -> dict[str, Tensor]:
    """Weight and bias of the linear layer in a folder that `write` made, or nothing."""
    path = _file(name, f"{_DENSE}/{_DENSE_WEIGHTS}")
    return {} if path is None else {key.removeprefix("linear."): value for key, value in load_file(path).items()}


def _file(name: str, path: str) -> str | None:
    """A file of a folder or of a repository on the Hub; None where it does not exist or the Hub is not reached."""
    if not name or (os.path.isabs(name) and not os.path.isdir(name)):
        return None
    file: str | None = cached_file(
        name, path, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return file


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
