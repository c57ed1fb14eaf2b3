"""MiniLM's first four layers with the small teacher's tokens: for pages and scripts whose students are 312 wide."""

from __future__ import annotations

import copy
from pathlib import Path

import factories
import small_teacher
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
)

LAYERS = 4
#: A MiniLM with its trained masked language modelling head, which is no part of the project.
MASKED_LM = Path(__file__).parents[2] / "shared" / "models" / "minilm-mlm"


def masked_lm() -> str:
    """The masked language model, or MiniLM, whose new head then says nothing sensible."""
    return str(MASKED_LM) if MASKED_LM.is_dir() else small_teacher.minilm()


def cut(auto, source: str, folder: Path, layers: int = LAYERS) -> Path:
    """The model of a folder with fewer layers and tokens, and the small teacher's tokenizer."""
    model = auto.from_pretrained(source)
    known = AutoTokenizer.from_pretrained(source).get_vocab()
    tokens = factories.tokenizer().convert_ids_to_tokens(range(len(factories.tokenizer())))
    rows = [known[token] for token in tokens]
    config = copy.deepcopy(model.config)
    before, config.vocab_size = config.vocab_size, len(rows)
    config.num_hidden_layers = layers
    left_out = tuple(f"layer.{layer}." for layer in range(layers, model.config.num_hidden_layers))
    weights = {
        name: value[rows] if value.shape[:1] == (before,) else value
        for name, value in model.state_dict().items()
        if not any(part in name for part in left_out)
    }
    smaller = type(model)(config)
    smaller.load_state_dict(weights)
    return saved(smaller, folder)


def encoder(folder: Path) -> Path:
    return cut(AutoModel, small_teacher.minilm(), folder)


def language_model(folder: Path) -> Path:
    return cut(AutoModelForMaskedLM, masked_lm(), folder)


def classifier(source: Path, folder: Path) -> Path:
    """The cut encoder with a head for household requests: a teacher."""
    names = dict(enumerate(factories.intents()))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    model = BertForSequenceClassification(BertConfig.from_pretrained(source, **labels)).eval()
    model.bert.load_state_dict(AutoModel.from_pretrained(source).state_dict())
    rows = list(factories.household()["train"].select(range(400)))
    return saved(with_head(model, rows), folder)


def with_head(model: BertForSequenceClassification, rows: list[dict]) -> BertForSequenceClassification:
    """The classifier whose head is that of least squares on these rows."""
    batch = DataCollatorWithPadding(factories.tokenizer())(rows)
    wanted = 8.0 * torch.nn.functional.one_hot(batch.pop("labels"), model.config.num_labels)
    with torch.no_grad():
        pooled = model.eval().bert(**batch).pooler_output
        pooled = torch.cat([pooled, torch.ones(len(pooled), 1)], dim=1).double()
        ridge = pooled.T @ pooled + 0.1 * torch.eye(pooled.shape[1])
        solved = torch.linalg.solve(ridge, pooled.T @ wanted.double()).float()
        model.classifier.weight.copy_(solved[:-1].T)
        model.classifier.bias.copy_(solved[-1])
    return model


def taught(model: BertForSequenceClassification, rows: list[dict], steps: int = 30) -> BertForSequenceClassification:
    """Fine-tuned on a few rows until it is sure of them."""
    batch = DataCollatorWithPadding(factories.tokenizer())(rows)
    optimizer = torch.optim.AdamW(with_head(model, rows).parameters(), lr=3e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model


def saved(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    factories.tokenizer().save_pretrained(folder)
    return folder
