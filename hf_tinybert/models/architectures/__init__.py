"""The names under which encoders of transformers keep their layers, queries, keys and values."""

from hf_tinybert.models.architectures.encoder import Attention, Encoder
from hf_tinybert.models.architectures.registry import register_architecture
from hf_tinybert.models.architectures.specs import ArchitectureSpec

__all__ = ["ArchitectureSpec", "Attention", "Encoder", "register_architecture"]
