"""The inputs of an exported model, and the usual values of those that a batch lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_tinybert.utils.types import Batch


class ModelInputs:
    """Which inputs a model takes, in its order.

    Args:
        names: some of `input_ids`, `attention_mask` and `token_type_ids`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Keep the names."""
        self.names = list(names)

    @classmethod
    def from_model(cls, model: PreTrainedModel) -> ModelInputs:
        """The inputs of a model's ONNX file, as Optimum chooses them: token types of a BERT, or of more than one."""
        has_types = model.config.model_type == "bert" or getattr(model.config, "type_vocab_size", 0) >= 2
        return cls(["input_ids", "attention_mask", *(["token_type_ids"] if has_types else [])])

    def complete(self, batch: Batch) -> dict[str, Tensor]:
        """The model's inputs from a batch `[B, S]`; without mask and types, all positions are real and of type 0."""
        ids = batch["input_ids"]
        usual = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        return {name: batch[name] if batch.get(name) is not None else usual[name] for name in self.names}

    def complete_row(self, row: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """The same of one unpadded row, as the tokenizer makes it."""
        tensors = {name: torch.tensor([row[name]]) for name in self.names if name in row}
        return {name: value[0].tolist() for name, value in self.complete(tensors).items()}
