"""Where the encoder families of transformers keep their layers, queries, keys and values."""

from hf_tinybert.families.encoder import Attention, Encoder
from hf_tinybert.families.family import Family
from hf_tinybert.families.locating import locate, register_family

__all__ = ["Attention", "Encoder", "Family", "locate", "register_family"]
