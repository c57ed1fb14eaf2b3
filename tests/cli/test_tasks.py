"""Every task from a pretrained encoder to a student that `pipeline()` loads, by the command line, on real data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import cut_minilm
import factories
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertModel,
    pipeline,
)
from transformers.pipelines import SUPPORTED_TASKS

from hf_tinybert.tasks import TASKS, of_model


def rows_of(split):
    """Household requests with the names of their intents."""
    data = factories.household()[split].select(range(96 if split == "train" else 24))
    texts = [factories.tokenizer().decode(ids, skip_special_tokens=True) for ids in data["input_ids"]]
    return list(zip(texts, (factories.intents()[label] for label in data["labels"]), strict=True))


def several(split):
    """Two requests in one text, with the intents of both."""
    source, rows = random.Random(0), rows_of(split)
    pairs = [source.sample(rows, 2) for _ in rows]
    return [{"text": " and ".join(text for text, _ in pair), "labels": sorted({x for _, x in pair})} for pair in pairs]


def questions(split):
    """Three requests in one text, and the question which of them is of an intent."""
    source, rows = random.Random(0), rows_of(split)
    made = []
    for text, intent in rows:
        others = [row for row in source.sample(rows, 8) if row[1] != intent][:2]
        texts = [text, *(other for other, _ in others)]
        source.shuffle(texts)
        context = ". ".join(texts)
        answers = {"text": [text], "answer_start": [context.index(text)]}
        made.append(
            {"question": f"Which is about {intent.replace('_', ' ')}?", "context": context, "answers": answers}
        )
    return made


def write(folder, make):
    flags = []
    for split, flag in (("train", "--train-file"), ("eval", "--eval-file")):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in make(split)), encoding="utf-8")
        flags += [flag, str(path)]
    return flags


def distilled_by_command(command, models, folder, flags, task, extra=()):
    encoder, student_shape = models
    quick = [*flags, *extra, "--use-cpu", "--disable-tqdm", "True", "--per-device-train-batch-size", "8"]
    finetune = ["finetune", "--task", task, "--model", encoder, *quick, "--learning-rate", "3e-4", "--max-steps", "12"]
    finetuned = command(*finetune, "--output-dir", folder / "teacher")
    assert finetuned.code == 0, finetuned
    assert of_model(AutoConfig.from_pretrained(folder / "teacher")) == task
    cache = ["--teacher-cache", "logits", "--teacher-cache-dir", folder / "cache"]
    distil = ["distill", "--teacher", folder / "teacher", "--student", student_shape, *quick, *cache]
    result = command(*distil, "--max-steps", "4", "--output-dir", folder / "student")
    assert result.code == 0, result
    scores = json.loads((folder / "student" / "summary.json").read_text())
    measured = json.loads((folder / "student" / "eval_results.json").read_text())
    assert 0.0 < measured["eval_agreement"] <= 1.0
    again = command("evaluate", "--model", folder / "student", *flags, *extra)
    metric = scores["metric"]
    assert scores["student"]["score"] == measured[f"eval_{metric}"]
    assert f"eval {metric}: {scores['teacher']['score']:.4f}" in finetuned.out
    assert f"eval {metric} {measured['eval_' + metric]:.4f}" in " ".join(again.out.split())
    return folder / "student", scores


@pytest.fixture(scope="module")
def models(encoder, student_shape):
    """A pretrained encoder, and the shape of a student."""
    return encoder, student_shape


def test_several_labels(command, models, tmp_path):
    student, scores = distilled_by_command(command, models, tmp_path, write(tmp_path, several), "text-classification")
    assert scores["metric"] == "f1"
    answer = pipeline("text-classification", model=str(student), top_k=None)("turn on the lights")
    assert {item["label"] for item in answer[0]} == set(factories.intents())
    assert AutoConfig.from_pretrained(student).problem_type == "multi_label_classification"


@pytest.mark.also_transformers("4.57")
def test_questions(command, models, tmp_path):
    flags = write(tmp_path, questions)
    window = ["--max-length", "64", "--doc-stride", "16"]
    student, scores = distilled_by_command(command, models, tmp_path, flags, "question-answering", window)
    assert scores["metric"] == "f1"
    row = questions("eval")[0]
    if "question-answering" in SUPPORTED_TASKS:  # transformers 5 has dropped this pipeline
        answer = pipeline("question-answering", model=str(student))(question=row["question"], context=row["context"])
        assert answer["answer"] in row["context"]
    model = AutoModelForQuestionAnswering.from_pretrained(student)
    inputs = AutoTokenizer.from_pretrained(student)(row["question"], row["context"], return_tensors="pt")
    assert model(**inputs).start_logits.shape == inputs["input_ids"].shape


def test_tags_of_wnut(command, models, tmp_path, shared_data):
    flags = []
    for split, flag, count in (("train", "--train-file", 64), ("dev", "--eval-file", 16)):
        texts = (shared_data / "wnut17" / f"{split}.conll").read_text(encoding="utf-8").split("\n\n")
        with_entities = [text for text in texts if "\tB-" in text][:count]
        (tmp_path / f"{split}.conll").write_text("\n\n".join(with_entities) + "\n", encoding="utf-8")
        flags += [flag, str(tmp_path / f"{split}.conll")]
    window = ["--max-length", "64"]
    student, scores = distilled_by_command(command, models, tmp_path, flags, "token-classification", window)
    assert scores["metric"] == "f1"
    answer = pipeline("token-classification", model=str(student))("I met Angela Merkel in Berlin .")
    labels = AutoConfig.from_pretrained(student).label2id
    assert {item["entity"] for item in answer} <= labels.keys()
    assert {"O", "B-person", "I-person", "B-location"} <= labels.keys()


@pytest.fixture(scope="module")
def small_masked_lm(masked_lm_folder, tmp_path_factory) -> Path:
    """All layers, and the small teacher's tokens: with 30,522 a step takes ten times as long."""
    return cut_minilm.cut(AutoModelForMaskedLM, masked_lm_folder, tmp_path_factory.mktemp("small_masked_lm"), layers=6)


def test_masked_language_modelling(command, small_masked_lm, tmp_path):
    flags = write(tmp_path, lambda split: [{"text": text} for text, _ in rows_of(split)[:12]])
    distil = ["distill", "--teacher", small_masked_lm, "--student", "tinybert-3l-192d", *flags, "--use-cpu"]
    quick = ["--max-steps", "2", "--per-device-train-batch-size", "4", "--disable-tqdm", "True"]
    result = command(*distil, *quick, "--output-dir", tmp_path / "student")
    assert result.code == 0, result
    scores = json.loads((tmp_path / "student" / "summary.json").read_text())
    assert scores["metric"] == "accuracy"
    teacher, student = (scores[role]["score"] for role in ("teacher", "student"))
    assert 0.1 < teacher <= 1
    assert student == json.loads((tmp_path / "student" / "eval_results.json").read_text())["eval_accuracy"]
    answers = pipeline("fill-mask", model=str(tmp_path / "student"))("turn on the [MASK].")
    assert len({answer["token"] for answer in answers}) == 5
    read = answers[0]["sequence"].replace(" ", "")  # there is no space before punctuation
    assert read == f"turnonthe{answers[0]['token_str']}."


@pytest.mark.slow
def test_sentence_vectors_of_sts(command, minilm, tmp_path, shared_data):
    """Pairs without labels teach; the held-out pairs' numbers say how well the cosines rank them."""
    flags = []
    for split, flag, count in (("train", "--train-file", 64), ("dev", "--eval-file", 60)):
        rows = [
            line.strip().split("\t") for line in (shared_data / "glue/STS-B" / f"{split}.tsv").open(encoding="utf-8")
        ]
        place = [rows[0].index(name) for name in ("sentence1", "sentence2", "score")]
        chosen = [[row[i].strip() for i in place] for row in rows[1 :: len(rows) // count][:count]]
        made = [dict(zip(("sentence1", "sentence2", "score"), (a, b, float(c)), strict=True)) for a, b, c in chosen]
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        flags += [flag, str(path)]
    command_line = ["distill", "--task", "feature-extraction", "--teacher", minilm, "--student", "tinybert-3l-384d"]
    quick = ["--use-cpu", "--disable-tqdm", "True", "--per-device-train-batch-size", "16", "--max-steps", "12"]
    result = command(*command_line, *flags, *quick, "--output-dir", tmp_path / "student")
    assert result.code == 0, result
    scores = json.loads((tmp_path / "student" / "summary.json").read_text())
    assert scores["metric"] == "spearman"
    teacher, student = (scores[role]["score"] for role in ("teacher", "student"))
    assert teacher > 0.75
    assert student > 0.5
    rows = [json.loads(line) for line in (tmp_path / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    opened = SentenceTransformer(str(tmp_path / "student"))
    first, second = (opened.encode([row[name] for row in rows]) for name in ("sentence1", "sentence2"))
    expected = spearmanr((first * second).sum(-1), [row["score"] for row in rows]).statistic
    assert student == pytest.approx(expected, abs=2e-3)


def test_a_student_with_a_tokenizer_of_its_own(command, models, tmp_path):
    flags = write(tmp_path, lambda split: [{"text": text, "label": intent} for text, intent in rows_of(split)])
    quick = [*flags, "--use-cpu", "--disable-tqdm", "True", "--per-device-train-batch-size", "16"]
    finetune = ["finetune", "--model", models[0], *quick, "--learning-rate", "3e-4", "--max-steps", "20"]
    assert command(*finetune, "--output-dir", tmp_path / "teacher").code == 0
    words = sorted({word for text, _ in rows_of("train") for word in text.split()})
    (tmp_path / "small").mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (tmp_path / "small" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(tmp_path / "small")
    distil = [
        "distill",
        "--teacher",
        tmp_path / "teacher",
        "--student",
        tmp_path / "small",
        *quick,
        "--max-steps",
        "4",
    ]
    refused = command(*distil, "--output-dir", tmp_path / "out")
    assert refused.code == 2
    assert "use phases='prediction'" in refused.error
    result = command(*distil, "--phases", "prediction", "--output-dir", tmp_path / "student")
    assert result.code == 0, result
    scores = json.loads((tmp_path / "student" / "summary.json").read_text())
    measured = json.loads((tmp_path / "student" / "eval_results.json").read_text())
    again = command("evaluate", "--model", tmp_path / "teacher", *flags)
    teacher, student = (scores[role]["score"] for role in ("teacher", "student"))
    assert f"eval accuracy {teacher:.4f}" in " ".join(again.out.split())
    answer = pipeline("text-classification", model=str(tmp_path / "student"))("turn on the lights")
    assert answer[0]["label"] in factories.intents()
    assert student == measured["eval_accuracy"]


def test_every_task_is_named_as_a_pipeline():
    assert TASKS.keys() <= SUPPORTED_TASKS.keys() | {"question-answering"}
