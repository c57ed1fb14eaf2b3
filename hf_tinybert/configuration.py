"""`TinyBertConfig`: the sizes of students, saved as plain BERT configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import BertConfig, PretrainedConfig
from transformers.utils import logging

from hf_tinybert.presets import DEFAULT_PRESET, PRESETS, preset_sizes

logger = logging.get_logger(__name__)

#: Key of a saved configuration that holds the student's provenance; plain BERT ignores it.
PROVENANCE_KEY = "tinybert"


#: Model types whose positions are counted from behind the padding id, and MPNet's, whatever its configuration says.
_AFTER_PADDING, _MPNET_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet"), 1
#: Model types whose longest input is no size of a table, and the positions that their students get.
_WITHOUT_TABLE, _TRAINED_POSITIONS = ("modernbert",), 512


#: Of a student.
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class TinyBertConfig(BertConfig):
    """A BERT configuration of a student's size.

    It is saved as a plain BERT's `config.json` (`"model_type": "bert"`), so loading a student needs only transformers.
    Every argument of `BertConfig` is accepted; sizes that are not given are those of `tinybert-4l-312d`, and both
    dropout probabilities are 0 instead of 0.1: dropout of hidden states drowns what a student starts with, and
    PyTorch's fused attention on a CPU does not support dropout of attention (`docs/performance.md`).
    """

    model_type = "bert"

    def __init__(self, **kwargs: object) -> None:
        """Fill in the default preset's sizes."""
        super().__init__(**(PRESETS[DEFAULT_PRESET] | _NO_DROPOUT | kwargs))

    @classmethod
    def preset(cls, name: str, **overrides: object) -> TinyBertConfig:
        """The configuration of a preset, with BERT's vocabulary and any overrides.

        Raises:
            ValueError: there is no such preset; the message lists the presets.
        """
        return cls(**(preset_sizes(name) | overrides))

    @classmethod
    def from_teacher(
        cls, teacher_config: PretrainedConfig, preset: str = DEFAULT_PRESET, **overrides: object
    ) -> TinyBertConfig:
        """A student of a preset's size with the teacher's inputs and labels.

        Vocabulary, padding id, token types, longest input, labels (`id2label`, `problem_type`) and the number
        of attention heads come from the teacher. Of a teacher without a position table that reads more than 512 tokens
        (ModernBERT), the student gets 512 positions. If the preset's width is no multiple of the teacher's number of
        heads, the preset's number is kept, and `head_matching` sets how attention is compared.

        Args:
            teacher_config: the teacher's configuration.
            preset: name of the preset.
            **overrides: any argument of `BertConfig`; takes precedence over teacher and preset.

        Raises:
            ValueError: the preset is unknown, or the width is no multiple of the number of heads.
        """
        sizes = preset_sizes(preset)
        taken: dict[str, object] = {
            "vocab_size": teacher_config.vocab_size,
            "pad_token_id": teacher_config.pad_token_id,
            # Families without token types (DeBERTa, DistilBERT) may have tokenizers that make them.
            "type_vocab_size": getattr(teacher_config, "type_vocab_size", 0) or 2,
            "max_position_embeddings": _positions(teacher_config),
            "hidden_act": _first_of(teacher_config, ("hidden_act", "activation", "hidden_activation"), "gelu"),
            "layer_norm_eps": _first_of(teacher_config, ("layer_norm_eps", "norm_eps"), 1e-12),
            "tie_word_embeddings": getattr(teacher_config, "tie_word_embeddings", True),
            "id2label": dict(teacher_config.id2label),
            "label2id": dict(teacher_config.label2id),
            "problem_type": teacher_config.problem_type,
        }
        for special in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
            if getattr(teacher_config, special, None) is not None:
                taken[special] = getattr(teacher_config, special)
        heads = teacher_config.num_attention_heads
        width = overrides.get("hidden_size", sizes["hidden_size"])
        if isinstance(width, int) and width % heads == 0:
            taken["num_attention_heads"] = heads
        elif "num_attention_heads" not in overrides:
            logger.warning(
                f"The teacher has {heads} attention heads, which do not divide the student's width {width}; the "
                f"student keeps {sizes['num_attention_heads']}, and head_matching sets how they are compared."
            )
        if overrides.keys() & {"num_labels", "id2label", "label2id"}:
            del taken["id2label"], taken["label2id"]
            if isinstance(id2label := overrides.get("id2label"), Mapping):
                taken["label2id"] = {name: int(index) for index, name in id2label.items()}
        config = cls(**(sizes | taken | overrides))
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                f"The student's width {config.hidden_size} is no multiple of its {config.num_attention_heads} heads."
            )
        return config

    def to_bert_config(self) -> BertConfig:
        """The same configuration as a plain `BertConfig`, from which models are built."""
        values = self.to_dict()
        values.pop("model_type", None)
        return BertConfig.from_dict(values)


def longest_matters(teacher_config: PretrainedConfig) -> bool:
    """Whether a teacher reads longer inputs than its students do by default: it has no table of positions."""
    return teacher_config.model_type in _WITHOUT_TABLE and teacher_config.max_position_embeddings > _TRAINED_POSITIONS


def _positions(teacher_config: PretrainedConfig) -> int:
    """The positions that inputs of a teacher can have, and a student's table gets."""
    positions: int = teacher_config.max_position_embeddings
    if teacher_config.model_type in _AFTER_PADDING:
        padding = teacher_config.pad_token_id if teacher_config.model_type != "mpnet" else _MPNET_PADDING
        return positions - (padding or 0) - 1
    return min(positions, _TRAINED_POSITIONS) if teacher_config.model_type in _WITHOUT_TABLE else positions


def _first_of(config: PretrainedConfig, names: Sequence[str], default: object) -> object:
    """The first of several names that a configuration has."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)
