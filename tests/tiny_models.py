"""Tiny random models of several families and small batches: for mechanics, never for what a model knows."""

from __future__ import annotations

import factories
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DataCollatorWithPadding,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
    set_seed,
)

from hf_tinybert import TinyBertConfig

VOCABULARY = 90
CONFIGS = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "electra": ElectraConfig,
    "distilbert": DistilBertConfig,
}
#: Every family with an adapter, with what makes its peculiarities show in three layers and a few tokens.
ARCHITECTURES = CONFIGS | {
    "xlm-roberta": XLMRobertaConfig,
    "albert": AlbertConfig,
    "mpnet": MPNetConfig,
    "deberta-v2": DebertaV2Config,
    "modernbert": ModernBertConfig,
}
PECULIAR = {
    "albert": {"embedding_size": 10, "num_hidden_groups": 2, "num_hidden_layers": 3},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
        "position_biased_input": False,
        "position_buckets": 6,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "type_vocab_size": 0,
    },
    "modernbert": {
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "global_attn_every_n_layers": 2,
        "local_attention": 4,
        "initializer_cutoff_factor": 3.0,
    },
}
AUTO_CLASSES = [
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]
DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def config(family="bert", config_class=None, **overrides):
    """Three layers, 24 wide, 4 heads; weights large enough for attention to be far from uniform."""
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 80,
        "initializer_range": 0.3,
        "num_labels": 3,
    } | overrides
    if family == "electra":
        values.setdefault("embedding_size", values["hidden_size"])
    values = PECULIAR.get(family, {}) | values
    if family == "distilbert":
        values = {DISTILBERT_NAMES.get(name, name): value for name, value in values.items()}
    return (config_class or ARCHITECTURES[family])(**values)


def model(family="bert", auto=AutoModelForSequenceClassification, seed=0, attention=None, **overrides):
    set_seed(seed)
    kwargs = {} if attention is None else {"attn_implementation": attention}
    return auto.from_config(config(family, **overrides), **kwargs).eval()


def small_config(teacher, **overrides):
    """A student of two layers, 16 wide, for a tiny teacher."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 20}
    return TinyBertConfig.from_teacher(teacher.config, **(sizes | overrides))


def same_size_config(teacher, **overrides):
    """A student of the tiny teacher's own size."""
    sizes = {"num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 40}
    return small_config(teacher, **(sizes | overrides))


def undropped(model):
    """In train mode, without dropout."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(model.config, name):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = 0.0
    return model.train()


def batch(lengths=(7, 3, 5), seed=0, width=None):
    """Random tokens of the given lengths, padded with id 1 on the right."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.ones(len(lengths), width, dtype=torch.long)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def sentences(rows=16, split="test", labels=False):
    """Every so-many-th real request of a split, padded together."""
    data = factories.household()[split]
    chosen = data.select(range(0, len(data), len(data) // rows)).select(range(rows))
    collated = dict(DataCollatorWithPadding(factories.tokenizer())(list(chosen)))
    if not labels:
        del collated["labels"]
    return collated


def hooks(model):
    """How many hooks are on a model's modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
