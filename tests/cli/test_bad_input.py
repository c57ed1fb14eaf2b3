"""A mistake in the input ends with exit status 2 and a sentence, and no model is left behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import workbench
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

QUICK = ["--use-cpu", "--disable-tqdm", "True", "--max-steps", "2", "--per-device-train-batch-size", "4"]
LABELS = workbench.intents()


class Bench:
    """Makes the files and folders that a case needs."""

    def __init__(self, folder: Path, teacher: Path, files: Path, body: str) -> None:
        self.folder, self.teacher, self.files, self.body = folder, teacher, files, body

    @property
    def train(self) -> Path:
        return self.files / "train.csv"

    @property
    def eval(self) -> Path:
        return self.files / "eval.csv"

    def text(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content, encoding="utf-8")
        return path

    def student(self, labels: list[str] | None = None, **changes) -> Path:
        """A small checkpoint of ours with something changed."""
        names = dict(enumerate(labels or LABELS))
        sizes = {
            "vocab_size": 30522,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 12,
            "intermediate_size": 96,
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
        }
        path = self.folder / "checkpoint"
        BertForSequenceClassification(BertConfig(**(sizes | changes))).save_pretrained(path)
        AutoTokenizer.from_pretrained(self.teacher).save_pretrained(path)
        return path

    def other_tokens(self) -> Path:
        """A checkpoint whose tokenizer has as many tokens as the teacher's, with two of them exchanged."""
        path = self.student()
        content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        vocabulary["lamp"], vocabulary["weather"] = vocabulary["weather"], vocabulary["lamp"]
        (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        if (path / "vocab.txt").exists():
            tokens = sorted(vocabulary, key=vocabulary.__getitem__)
            (path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        return path

    def teacher_copy(self, **files: bytes | None) -> Path:
        """The teacher with files replaced (or, with None, removed)."""
        path = shutil.copytree(self.teacher, self.folder / "teacher", ignore=shutil.ignore_patterns("checkpoint-*"))
        for name, content in files.items():
            target = path / name.replace("__", ".")
            if content is None:
                target.unlink(missing_ok=True)
            else:
                target.write_bytes(content)
        return path

    def decoder(self) -> Path:
        path = self.folder / "gpt"
        names = dict(enumerate(LABELS))
        config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=30522, pad_token_id=0, id2label=names)
        GPT2ForSequenceClassification(config).save_pretrained(path)
        AutoTokenizer.from_pretrained(self.teacher).save_pretrained(path)
        return path


@pytest.fixture
def bench(tmp_path, teacher_path, files, body) -> Bench:
    (tmp_path / "made").mkdir()
    return Bench(tmp_path / "made", teacher_path, files, body)


def refused(command, out: Path, message: str, verb: str, *flags) -> None:
    result = command(verb, *flags)
    assert result.code == 2, result
    assert "Traceback" not in result.err + result.out
    assert f"hf-tinybert {verb}: error: " in result.err
    error = result.error
    assert re.search(message, error, re.DOTALL), error
    for pattern in ("*.safetensors", "*.bin", "summary.json"):
        assert not list(out.rglob(pattern)), f"{pattern} was left in {out}"


LONG = "turn the lights on " * 200

DISTILL = {
    # the student
    "unknown preset": (
        lambda b: ["--student", "tinybert-9l"],
        "Unknown preset 'tinybert-9l'; the presets are tinybert-4l",
    ),
    "empty student folder": (
        lambda b: ["--student", b.folder],
        r"student folder .* holds no model: there is no config",
    ),
    "no such student": (lambda b: ["--student", b.folder / "gone"], "gone"),
    "unknown init": (lambda b: ["--init", "sideways"], "argument --init.*invalid choice: 'sideways'"),
    "other labels": (
        lambda b: ["--student", b.student([*LABELS[:-1], "poetry"])],
        "different labels.*teacher: .*student: .*poetry",
    ),
    "other number of labels": (
        lambda b: ["--student", b.student(LABELS[:5])],
        "teacher has 12 labels and the student 5",
    ),
    "other vocabulary size": (
        lambda b: ["--student", b.student(vocab_size=1000)],
        "vocabulary of 30522 tokens and the student of 1000",
    ),
    "other vocabulary": (lambda b: ["--student", b.other_tokens()], "tokenizer.*same vocabulary"),
    "other heads": (
        lambda b: ["--student", b.student(num_attention_heads=6), "--head-matching", "heads"],
        "the teacher has 12 heads and the student 6",
    ),
    "short student": (
        lambda b: ["--student", b.student(max_position_embeddings=16)],
        "--max-length is 48; the student takes 1 to 16 tokens",
    ),
    # the teacher
    "teacher folder without a model": (lambda b: ["--teacher", b.folder], "teacher folder .* holds no model"),
    "no such teacher folder": (lambda b: ["--teacher", b.folder / "gone"], "teacher folder .*gone does not exist"),
    "no such teacher on the Hub": (
        lambda b: ["--teacher", "no-such-owner/no-such-model"],
        "huggingface|no-such-owner",
    ),
    "teacher without a head": (
        lambda b: ["--teacher", b.body],
        r"no trained weights for classifier\.bias, classifier\.weight: it was not fine-tuned.*hf-tinybert finetune",
    ),
    "teacher without a tokenizer": (
        lambda b: [
            "--teacher",
            b.teacher_copy(
                **dict.fromkeys(
                    ("tokenizer__json", "tokenizer_config__json", "vocab__txt", "special_tokens_map__json")
                )
            ),
        ],
        "(?i)tokenizer",
    ),
    "teacher's weights cut short": (
        lambda b: [
            "--teacher",
            b.teacher_copy(model__safetensors=(b.teacher / "model.safetensors").read_bytes()[:5000]),
        ],
        "(?i)teacher|safetensors|header",
    ),
    "teacher without weights": (lambda b: ["--teacher", b.teacher_copy(model__safetensors=None)], "model.safetensors"),
    "teacher's config is no JSON": (lambda b: ["--teacher", b.teacher_copy(config__json=b"{")], r"config\.json"),
    "teacher is a decoder": (lambda b: ["--teacher", b.decoder()], "GPT2ForSequenceClassification.*is not an encoder"),
    # the data
    "no data": (lambda b: ["--train-file", ""], "No data: give --train-file"),
    "only data to evaluate on": (
        lambda b: ["--train-file", "", "--eval-file", b.eval],
        "No training data: give --train",
    ),
    "files and a data set": (lambda b: ["--dataset", "glue"], "either --dataset or files"),
    "no such data set": (
        lambda b: ["--train-file", "", "--dataset", "no-such-owner/no-data"],
        "no-such-owner/no-data",
    ),
    "missing file": (lambda b: ["--test-file", b.folder / "gone.csv"], r"gone\.csv does not exist"),
    "empty file": (lambda b: ["--train-file", b.text("empty.csv", "")], r"empty\.csv is empty"),
    "header alone": (lambda b: ["--train-file", b.text("h.csv", "text,intent\n")], r"h\.csv has no rows"),
    "wrong ending": (
        lambda b: ["--train-file", b.text("data.txt", "text,intent\n")],
        r"ends in '\.txt'; expected one of",
    ),
    "missing text column": (
        lambda b: ["--train-file", b.text("f.csv", "body,intent\na,weather\n")],
        "No text column.*columns body, intent.*--text-column",
    ),
    "missing label column": (lambda b: ["--label-column", "kind"], "No label column 'kind'.*columns text, intent"),
    "missing column in another split": (
        lambda b: ["--eval-file", b.text("f.csv", "text,kind\na,weather\n")],
        "The eval data has no column 'intent'; its columns are text, kind",
    ),
    "label that the teacher does not know": (
        lambda b: ["--eval-file", b.text("f.csv", "text,intent\na,weather\nb,poetry\n")],
        r"The eval data has 1 label\(s\) that the model was not trained for: poetry",
    ),
    "text is missing": (
        lambda b: ["--eval-file", b.text("f.jsonl", '{"text": "a", "intent": "weather"}\n{"intent": "weather"}\n')],
        "The eval data has no text in row 2",
    ),
    "too long for the teacher": (lambda b: ["--max-length", 513], "--max-length is 513; the teacher takes 1 to 512"),
    "no length": (lambda b: ["--max-length", 0], "--max-length is 0; the teacher takes 1 to 512"),
    "no training samples": (lambda b: ["--max-train-samples", 0], r"max.train.samples"),
    "nothing to evaluate on": (lambda b: ["--eval-strategy", "steps"], "(?i)eval.?dataset|--eval-file"),
    # the arguments
    "mapping out of range": (
        lambda b: ["--layer-mapping", "0:0,1:9"],
        r"1:9 is out of range: the student has layers 0\.\.3 and the teacher 0\.\.6",
    ),
    "mapping out of range with a checkpoint": (
        lambda b: ["--student", b.student(), "--layer-mapping", "0:0,3:6"],
        r"3:6 is out of range: the student has layers 0\.\.2",
    ),
    "unreadable mapping": (
        lambda b: ["--layer-mapping", "sideways"],
        "expected one of uniform, first, last, or pairs",
    ),
    "bad layer weights": (lambda b: ["--layer-weights", "1:heavy"], "layer_weights: expected pairs layer:factor"),
    "negative layer weights": (lambda b: ["--layer-weights", "1:-1"], "layers count from 1 and factors from 0"),
    "layer weights beyond the student": (
        lambda b: ["--layer-weights", "7:1"],
        r"layer_weights names layer 7; the student has layers 1\.\.3",
    ),
    "unknown phases": (lambda b: ["--phases", "three"], "argument --phases.*invalid choice: 'three'"),
    "temperature": (lambda b: ["--temperature", 0], "temperature must be positive"),
    "share": (lambda b: ["--intermediate-share", 1.5], "intermediate_share must lie between 0 and 1"),
    "negative weight": (lambda b: ["--hidden-weight", -1], "hidden_weight must not be negative"),
    "unknown schedule": (lambda b: ["--intermediate-lr-scheduler-type", "sideways"], "sideways"),
    "learning rate 0 and another": (
        lambda b: ["--phases", "two", "--learning-rate", 0, "--intermediate-learning-rate", 1e-3],
        "learning_rate",
    ),
    "not a number": (lambda b: ["--max-steps", "many"], "--max-steps: invalid int value: 'many'"),
    "nothing to resume from": (lambda b: ["--resume-from-checkpoint", "last"], "no complete checkpoint in"),
    "resuming from a folder that is not there": (
        lambda b: ["--resume-from-checkpoint", b.folder / "checkpoint-9"],
        "checkpoint-9 cannot be resumed: it lacks optimizer.pt",
    ),
    "unknown key in the configuration": (
        lambda b: ["--config", b.text("run.yaml", "temprature: 2\n")],
        r"unknown argument\(s\) temprature",
    ),
    "missing configuration": (lambda b: ["--config", b.folder / "gone.yaml"], r"gone\.yaml cannot be read"),
    "null in the configuration": (lambda b: ["--config", b.text("run.yaml", "temperature:\n")], "temperature"),
    "output folder is a file": (lambda b: ["--output-dir", b.text("taken", "")], r"taken is a file: name a folder"),
}


@pytest.mark.parametrize("case", DISTILL)
def test_distill(command, bench, tmp_path, case):
    flags, message = DISTILL[case]
    given = flags(bench)
    out = tmp_path / "out"
    usual = {
        "--teacher": bench.teacher,
        "--student": "tinybert-3l-192d",
        "--init": "random",
        "--train-file": bench.train,
        "--max-length": 48,
        "--output-dir": out,
    }
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    words = [word for flag, value in usual.items() if value != "" for word in (flag, value)]
    refused(command, out, message, "distill", *QUICK, *words)


FINETUNE = {
    "no such model": (lambda b: ["--model", b.folder / "gone"], "gone"),
    "folder without a model": (lambda b: ["--model", b.folder], r"config\.json|holds no model"),
    "head of another size": (
        lambda b: ["--model", b.teacher, "--train-file", b.text("f.csv", "text,label\na,yes\nb,no\nc,yes\n")],
        "(?i)label|classifier|size",
    ),
    "one class": (
        lambda b: ["--train-file", b.text("f.csv", "text,label\na,yes\nb,yes\nc,yes\n")],
        "(?i)label|class",
    ),
    "tags of one text too few": (
        lambda b: [
            "--task",
            "token-classification",
            "--train-file",
            b.text("f.jsonl", '{"tokens": ["a", "b"], "tags": ["O", "B-x"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n'),
        ],
        "2 words and 1 tags in row 2",
    ),
    "a tag without a word": (
        lambda b: ["--task", "token-classification", "--train-file", b.text("f.conll", "a\tO\nb\n")],
        "no tag in line 2",
    ),
    "an answer that is not there": (
        lambda b: [
            "--task",
            "question-answering",
            "--train-file",
            b.text(
                "f.jsonl",
                '{"question": "q", "context": "some text", "answers": {"text": ["text"], "answer_start": [4]}}\n',
            ),
        ],
        "answer 'text', which does not stand at character 4",
    ),
    "no room beside the question": (
        lambda b: [
            "--task",
            "question-answering",
            "--max-length",
            "32",
            "--train-file",
            b.text("f.jsonl", '{"question": "q", "context": "t", "answers": {"text": [], "answer_start": []}}\n'),
        ],
        "leaves no room for the text",
    ),
    "an unknown task": (lambda b: ["--task", "translation"], "argument --task.*invalid choice"),
    "a task without labels": (lambda b: ["--task", "feature-extraction"], "argument --task.*invalid choice"),
    "label of the evaluation that training never saw": (
        lambda b: ["--eval-file", b.text("f.csv", "text,intent\na,weather\nb,poetry\n")],
        r"The eval data has 1 label\(s\) that the model was not trained for: poetry",
    ),
    "regression and words": (
        lambda b: [
            *("--train-file", b.text("t.csv", "text,score\na,1.5\nb,2.5\n")),
            *("--eval-file", b.text("e.csv", "text,score\na,good\n")),
        ],
        "The eval data's column 'score' holds a value that is no number",
    ),
    "longer than the model's positions": (
        lambda b: [
            *("--max-length", 600),
            *("--train-file", b.text("long.csv", f"text,label\n{LONG},yes\n{LONG},no\n")),
        ],
        "--max-length is 600; .* takes 1 to 512",
    ),
    "no length": (lambda b: ["--max-length", 0], "--max-length is 0"),
    "no training data": (lambda b: ["--train-file", "", "--eval-file", b.eval], "No training data"),
    "nothing to resume from": (lambda b: ["--resume-from-checkpoint", "last"], "(?i)no (valid|complete) checkpoint"),
}


@pytest.mark.parametrize("case", FINETUNE)
def test_finetune(command, bench, tmp_path, case):
    flags, message = FINETUNE[case]
    given = flags(bench)
    out = tmp_path / "out"
    usual = {"--model": bench.body, "--train-file": bench.train, "--max-length": 48, "--output-dir": out}
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    words = [word for flag, value in usual.items() if value != "" for word in (flag, value)]
    refused(command, out, message, "finetune", *QUICK, *words)


EVALUATE = {
    "model without a head": (lambda b: ["--model", b.body], "no trained weights for classifier"),
    "folder without a model": (lambda b: ["--model", b.folder], "holds no model"),
    "no data": (lambda b: ["--eval-file", ""], "No data"),
    "unknown label": (
        lambda b: ["--eval-file", b.text("f.csv", "text,intent\na,weather\nb,poetry\n")],
        "not trained for: poetry. It knows: alarm_timer",
    ),
    "max length": (lambda b: ["--max-length", 1000], "--max-length is 1000; the model takes 1 to 512 tokens"),
    "missing column": (
        lambda b: ["--text-column", "body"],
        "No text column 'body': the data has the columns text, intent",
    ),
    "broken file": (lambda b: ["--eval-file", b.text("f.jsonl", '{"text": ')], "could not be read as json"),
    "decoder": (lambda b: ["--model", b.decoder()], "is not an encoder"),
    "batch size": (lambda b: ["--per-device-eval-batch-size", 0], "(?i)batch.?size"),
}


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate(command, bench, tmp_path, case):
    flags, message = EVALUATE[case]
    given = flags(bench)
    usual = {"--model": bench.teacher, "--eval-file": bench.eval}
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    words = [word for flag, value in usual.items() if value != "" for word in (flag, value)]
    refused(command, tmp_path / "out", message, "evaluate", "--use-cpu", *words)


def test_a_model_for_evaluation_is_not_called_a_teacher(command, bench):
    result = command("evaluate", "--model", bench.folder, "--eval-file", bench.eval)
    assert "teacher" not in result.err
