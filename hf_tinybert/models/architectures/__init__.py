"""Where the encoder families of transformers keep their layers, queries, keys and values."""

from hf_tinybert.models.architectures.encoder import Attention, Encoder
from hf_tinybert.models.architectures.registry import locate, register_family
from hf_tinybert.models.architectures.specs import Family

__all__ = ["Attention", "Encoder", "Family", "locate", "register_family"]
