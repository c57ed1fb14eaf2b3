"""Small teachers of every architecture, trained on the household requests by PyTorch alone.

Four tasks are made of the same requests (`rows`):

- `text-classification`: the demo's twelve intents;
- `token-classification`: BIO tags. A run of words that are not among the commonest is tagged with the request's
  intent, `B-` at its first word and `I-` after it; the commonest words are `O`. So a tag depends on the word, on the
  word before it and on the whole request;
- `masked-lm`: behind each request stands one word, that which says most about its intent in all requests, and it is
  masked (of so few texts, nothing is learnt about tokens that are masked at random);
- `question-answering`: the span from the word that says most about the request's intent to the end of its run of
  words that are not among the commonest.

The models have four layers, 96 wide, the vocabulary of the small teacher and at first its encoder's word embeddings;
all else begins at random. A trained one is kept under a key of its recipe and data: whichever version of transformers
trains it first, both load its weights.

`python tests/architecture_teachers.py` trains what is missing and prints the table of `docs/teachers.md`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import factories
import small_teacher
import tiny_models
import torch
from datasets import Dataset
from filelock import FileLock
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
    get_scheduler,
    set_seed,
)

from hf_tinybert import TinyBertConfig, create_student
from hf_tinybert.student.calibration import sample_calibration_batch

WIDTH, LAYERS, HEADS, NEURONS = 96, 4, 4, 192
CONFIGS: dict[str, type[PretrainedConfig]] = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
    "electra": ElectraConfig,
    "electra-small": ElectraConfig,
    "distilbert": DistilBertConfig,
    "albert": AlbertConfig,
    "mpnet": MPNetConfig,
    "deberta-v2": DebertaV2Config,
    "modernbert": ModernBertConfig,
}
#: What makes an architecture differ from a BERT, in four layers and sentences of some 16 tokens.
PECULIAR = {
    "electra": {"embedding_size": WIDTH},
    "electra-small": {"embedding_size": 32},
    "albert": {"embedding_size": 32, "num_hidden_groups": 2, "classifier_dropout_prob": 0.0},
    "deberta-v2": tiny_models.PECULIAR["deberta-v2"] | {"position_buckets": 16},
    "modernbert": {
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "reference_compile": False,
    },
}
DISTILBERT_NAMES = tiny_models.DISTILBERT_NAMES | {
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
AUTO_CLASSES = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "masked-lm": AutoModelForMaskedLM,
    "question-answering": AutoModelForQuestionAnswering,
}
TASKS = tuple(AUTO_CLASSES)
#: Optimiser steps of a training.
STEPS = {"text-classification": 200, "token-classification": 300, "masked-lm": 200, "question-answering": 300}
#: Held-out accuracy (of labels, words, masked tokens, starts) that a teacher must reach.
LEARNT = {"text-classification": 0.55, "token-classification": 0.6, "masked-lm": 0.55, "question-answering": 0.4}
#: Where a BERT computes what the teacher does: with these architectures in all tasks, and with these in all but
#: text classification, whose head has another activation.
EXACT, EXACT_TOKENS = ("bert", "roberta", "xlm-roberta", "camembert"), ("electra", "distilbert")
_COMMON_WORDS = 40
#: Requests of similar length in a batch of a training.
_ROWS = 32


def is_exact(architecture: str, task: str) -> bool:
    return architecture in EXACT or (architecture in EXACT_TOKENS and task != "text-classification")


# The tasks


@cache
def encoded(split: str):
    """Token ids of each request, the word (a number) of each token, and the words."""
    tokenizer, found = factories.tokenizer(), []
    for row in small_teacher.requests(split):
        encoding = tokenizer(row["text"], truncation=True, max_length=64, return_offsets_mapping=True)
        words = encoding.word_ids()
        spelled: dict[int, str] = {}
        for word, (start, end) in zip(words, encoding["offset_mapping"], strict=True):
            if word is not None:
                spelled[word] = spelled.get(word, "") + row["text"][start:end].lower()
        found.append((encoding["input_ids"], words, spelled, row["intent"]))
    return found


@cache
def common_words() -> frozenset[str]:
    """The commonest words of the training requests, and signs."""
    counts = Counter(word for _, _, spelled, _ in encoded("train") for word in spelled.values())
    signs = {word for word in counts if not any(letter.isalnum() for letter in word)}
    return frozenset(signs | {word for word, _ in counts.most_common(_COMMON_WORDS)})


@cache
def intents_of_words() -> dict[str, Counter[str]]:
    """How often a word occurs in the training requests of each intent."""
    counts: dict[str, Counter[str]] = {}
    for _, _, spelled, intent in encoded("train"):
        for word in set(spelled.values()):
            counts.setdefault(word, Counter())[intent] += 1
    return counts


def share_of_intent(word: str, intent: str) -> float:
    """The share of a word's requests that are of an intent, drawn towards that of a word never seen."""
    counts = intents_of_words().get(word, Counter())
    return (counts[intent] + 2 / 12) / (counts.total() + 2)


@cache
def word_of(intent: str) -> str:
    """The token that says most about an intent."""
    known = factories.tokenizer().get_vocab()
    words = [word for word in intents_of_words() if word in known and word not in common_words()]
    return max(words, key=lambda word: (share_of_intent(word, intent), word))


def tag_names() -> list[str]:
    return ["O", *(f"{begin}-{intent}" for intent in factories.intents() for begin in "BI")]


def tags(words, spelled, intent) -> list[int]:
    """A tag for the first token of each word, -100 for all others."""
    content = {word: text not in common_words() for word, text in spelled.items()}
    names, found, seen = tag_names(), [], set()
    for word in words:
        if word is None or word in seen:
            found.append(-100)
            continue
        seen.add(word)
        begin = "I" if content.get(word - 1) else "B"
        found.append(names.index(f"{begin}-{intent}") if content[word] else 0)
    return found


def span(words, spelled, intent) -> tuple[int, int]:
    """First and last token of the answer."""
    content = [word for word, text in spelled.items() if text not in common_words()] or list(spelled)
    first = last = max(content, key=lambda word: share_of_intent(spelled[word], intent))
    while last + 1 in content:
        last += 1
    backwards = words[::-1]
    return words.index(first), len(words) - 1 - backwards.index(last)


@cache
def rows(task: str, split: str) -> Dataset:
    """Tokenised requests with the labels of a task; that of a masked token is made when it is masked."""
    found = []
    for ids, words, spelled, intent in encoded(split):
        row = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if task == "text-classification":
            row["labels"] = factories.intents().index(intent)
        elif task == "token-classification":
            row["labels"] = tags(words, spelled, intent)
        elif task == "masked-lm":
            row["input_ids"] = [*ids, factories.tokenizer().convert_tokens_to_ids(word_of(intent)), ids[-1]]
            row["attention_mask"] = [1] * len(row["input_ids"])
        elif task == "question-answering":
            row["start_positions"], row["end_positions"] = span(words, spelled, intent)
        found.append(row)
    return Dataset.from_list(found)


def batch_of(task: str, chosen) -> dict[str, torch.Tensor]:
    """Rows padded together; for a masked language model the last word is masked."""
    chosen = [dict(row) for row in chosen]
    if task == "masked-lm":
        for row in chosen:
            *before, word, end = row["input_ids"]
            row["input_ids"] = [*before, factories.tokenizer().mask_token_id, end]
            row["labels"] = [-100] * len(before) + [word, -100]
    length = max(len(row["input_ids"]) for row in chosen)
    batch = {}
    for name, value in chosen[0].items():
        values = [row[name] for row in chosen]
        if isinstance(value, list):
            filler = -100 if name == "labels" else 0
            values = [value + [filler] * (length - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


@cache
def held_out_batch(task: str) -> dict[str, torch.Tensor]:
    return batch_of(task, rows(task, "test"))


# The teachers


def config(architecture: str, task: str) -> PretrainedConfig:
    values = {
        "vocab_size": small_teacher.TOKENS,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": NEURONS,
        "max_position_embeddings": 128,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.05,
        "pad_token_id": 0,
    } | PECULIAR.get(architecture, {})
    names = {"text-classification": factories.intents(), "token-classification": tag_names()}.get(task)
    if names:
        values |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if architecture == "distilbert":
        values = {DISTILBERT_NAMES.get(name, name): value for name, value in values.items()}
    return CONFIGS[architecture](**values)


def _length(row) -> int:
    return len(row["input_ids"])


def untrained(architecture: str, task: str) -> PreTrainedModel:
    return AUTO_CLASSES[task].from_config(config(architecture, task))


def trained(architecture: str, task: str) -> PreTrainedModel:
    """Trained now."""
    set_seed(0)
    model = untrained(architecture, task)
    table = model.get_input_embeddings().weight
    known = AutoModel.from_pretrained(factories.encoder()).get_input_embeddings().weight.detach()
    with torch.no_grad():
        table.copy_(0.3 * known[:, : table.shape[1]] / known.std())
    data, source, steps = sorted(rows(task, "train").to_list(), key=_length), random.Random(0), STEPS[task]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    schedule = get_scheduler("linear", optimizer, steps // 10, steps)
    model.train()
    for _ in range(steps):
        start = source.randrange(-_ROWS // 2, len(data) - _ROWS // 2)
        loss = model(**batch_of(task, data[max(start, 0) : start + _ROWS])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def key(architecture: str, task: str) -> str:
    """Changes with the recipe and the data; not with the versions of the libraries."""
    parts = [inspect.getsource(made) for made in (config, batch_of, trained)]
    parts += [json.dumps(PECULIAR.get(architecture)), str(STEPS[task]), str((WIDTH, LAYERS, HEADS, NEURONS))]
    parts += [json.dumps(rows(task, split).to_list()) for split in ("train", "test")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def teacher(architecture: str, task: str) -> PreTrainedModel:
    """From the cache or trained now, in eval mode; not to be changed."""
    folder = Path(os.environ["HF_TINYBERT_TEST_CACHE"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{architecture}-{task}-{key(architecture, task)}.pt"
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            state = trained(architecture, task).state_dict()
            torch.set_num_threads(threads)
            with tempfile.TemporaryDirectory(dir=folder) as beside:
                torch.save(state, Path(beside) / "state.pt")
                (Path(beside) / "state.pt").rename(path)
    model = untrained(architecture, task)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


# What they are compared by


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The logits; of spans those of starts and of ends."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return [output.start_logits, output.end_logits] if "start_logits" in output else [output.logits]


def decisions(task: str, model: PreTrainedModel) -> torch.Tensor:
    """For the test requests: their labels, tags of words, masked tokens or starts of spans."""
    batch = held_out_batch(task)
    logits = outputs(model, batch)[0]
    if task == "question-answering":
        logits = logits.masked_fill(batch["attention_mask"] == 0, float("-inf"))
    found = logits.argmax(-1)
    return found[batch["labels"] != -100] if found.dim() == 2 else found


def right(task: str) -> torch.Tensor:
    batch = held_out_batch(task)
    wanted = batch["start_positions" if task == "question-answering" else "labels"]
    return wanted[wanted != -100]


def accuracy(task: str, model: PreTrainedModel) -> float:
    return (decisions(task, model) == right(task)).float().mean().item()


def constant_accuracy(task: str) -> float:
    """That of the best constant answer."""
    wanted = right(task)
    return (wanted == wanted.mode().values).float().mean().item()


def constant_agreement(task: str, model: PreTrainedModel) -> float:
    """How often the model takes its commonest decision."""
    found = decisions(task, model)
    return (found == found.mode().values).float().mean().item()


def agreement(task: str, student: PreTrainedModel, model: PreTrainedModel) -> float:
    return (decisions(task, student) == decisions(task, model)).float().mean().item()


def difference(task: str, student: PreTrainedModel, model: PreTrainedModel) -> float:
    """The largest difference of logits of the test requests, at real positions."""
    batch = held_out_batch(task)
    pairs = zip(outputs(student, batch), outputs(model, batch), strict=True)
    rest = [a - b for a, b in pairs]
    if task != "text-classification":
        rest = [each[batch["attention_mask"].bool()] for each in rest]
    return max(each.abs().max().item() for each in rest)


def student_config(model: PreTrainedModel, share: int) -> TinyBertConfig:
    """As deep as the teacher, and as wide, or half as wide."""
    sizes = {"hidden_size": WIDTH // share, "intermediate_size": NEURONS // share, "num_hidden_layers": LAYERS}
    return TinyBertConfig.from_teacher(model.config, **sizes)


def student(task: str, model: PreTrainedModel, share: int = 1) -> PreTrainedModel:
    set_seed(0)
    calibration = sample_calibration_batch(rows(task, "train"), factories.tokenizer())
    return create_student(model, student_config(model, share), calibration=calibration)


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    architecture: str
    task: str
    accuracy: float
    difference: float
    agreement: float
    agreement_at_half: float
    constant_agreement: float

    def __str__(self) -> str:
        exact = f"{self.difference:.0e}" if is_exact(self.architecture, self.task) else "-"
        agreements = (self.agreement, self.agreement_at_half, self.constant_agreement)
        cells = [f"{self.accuracy:.1%}", exact, *(f"{value:.1%}" for value in agreements)]
        return f"| {' | '.join([self.architecture, self.task, *cells])} |"


def measured(architecture: str, task: str) -> Row:
    model = teacher(architecture, task)
    same, half = student(task, model), student(task, model, share=2)
    return Row(
        architecture,
        task,
        accuracy(task, model),
        difference(task, same, model),
        agreement(task, same, model),
        agreement(task, half, model),
        constant_agreement(task, model),
    )


def table(architectures=tuple(CONFIGS), tasks=TASKS) -> None:
    """Print it, row by row."""
    names = ("teacher", "task", "its accuracy", "largest difference", "agreement at its size", "at half its width")
    print(f"| {' | '.join([*names, 'of a constant answer'])} |")
    print("| --- " * 7 + "|")
    for task in tasks:
        for architecture in architectures:
            print(measured(architecture, task), flush=True)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_TINYBERT_TEST_CACHE", str(Path(tempfile.gettempdir()) / "architecture-teachers"))
    table(*(argument.split(",") for argument in sys.argv[1:]))
