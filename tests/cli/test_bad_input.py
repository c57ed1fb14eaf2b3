"""A mistake in the input ends with exit status 2 and a sentence, and no model is left behind."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import factories
import pytest
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from hf_tinybert.presets import PRESETS

QUICK = ["--use-cpu", "--disable-tqdm", "True", "--max-steps", "2", "--per-device-train-batch-size", "4"]
LABELS = factories.intents()
VOCABULARY = len(factories.tokenizer())
TOKENIZER_FILES = ("tokenizer__json", "tokenizer_config__json", "vocab__txt", "special_tokens_map__json")


class Bench:
    """Makes the files and folders that a case needs."""

    def __init__(self, folder: Path, teacher: Path, files: Path, encoder: str) -> None:
        self.folder, self.teacher, self.files, self.encoder = folder, teacher, files, encoder

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
            "vocab_size": VOCABULARY,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
        }
        path = self.folder / "checkpoint"
        BertForSequenceClassification(BertConfig(**(sizes | changes))).save_pretrained(path)
        AutoTokenizer.from_pretrained(self.teacher).save_pretrained(path)
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
        config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=VOCABULARY, pad_token_id=0, id2label=names)
        GPT2ForSequenceClassification(config).save_pretrained(path)
        AutoTokenizer.from_pretrained(self.teacher).save_pretrained(path)
        return path


@pytest.fixture
def bench(tmp_path, teacher_folder, files, encoder) -> Bench:
    (tmp_path / "made").mkdir()
    return Bench(tmp_path / "made", Path(teacher_folder), files, encoder)


def refused(command, out: Path, message: str, verb: str, *flags) -> None:
    result = command(verb, *flags)
    assert result.code == 2, result
    assert "Traceback" not in result.err + result.out
    assert f"hf-tinybert {verb}: error: " in result.err
    sentence = result.error.removeprefix("error: ").strip()
    assert re.fullmatch(message, sentence, re.DOTALL), sentence
    assert not [path for path in out.rglob("*") if path.is_file()]


LONG = "turn the lights on " * 200
ONLY_TO_512 = r"--max-length is {}; the {} takes 1 to 512 tokens\."

DISTILL = {
    # the student
    "unknown preset": (
        lambda b: ["--student", "tinybert-9l"],
        rf"Unknown preset 'tinybert-9l'; the presets are {', '.join(PRESETS)}\.",
    ),
    "empty student folder": (
        lambda b: ["--student", b.folder],
        r"The student folder \S+made holds no model: there is no config\.json in it\.",
    ),
    "no such student": (lambda b: ["--student", b.folder / "gone"], r"The student folder \S+/gone does not exist\."),
    "unknown init": (
        lambda b: ["--student-init", "sideways"],
        r"init is 'teacher', 'random', or the folder or Hub id of an encoder; 'sideways' could not be loaded: .*",
    ),
    "an init beside weights": (
        lambda b: ["--student", b.student(), "--student-init", "teacher"],
        r"student_init='teacher' sets how a new student is initialised, and this one already has weights: .*",
    ),
    "other labels": (
        lambda b: ["--student", b.student([*LABELS[:-1], "poetry"])],
        r"Teacher and student have different labels, so their logits cannot be compared\.\n"
        r"  teacher: \{.*'weather'\}\n  student: \{.*'poetry'\}",
    ),
    "short student": (
        lambda b: ["--student", b.student(max_position_embeddings=16)],
        r"--max-length is 48; the student takes 1 to 16 tokens\.",
    ),
    # the teacher
    "teacher folder without a model": (
        lambda b: ["--teacher", b.folder],
        r"The teacher folder \S+made holds no model: there is no config\.json in it\.",
    ),
    "no such teacher folder": (
        lambda b: ["--teacher", b.folder / "gone"],
        r"The teacher folder \S+made/gone does not exist\.",
    ),
    "no such teacher on the Hub": (
        lambda b: ["--teacher", "no-such-owner/no-such-model"],
        r"We couldn't connect to 'https://huggingface\.co' to load the files, and couldn't find them in the cached .*",
    ),
    "teacher without a head": (
        lambda b: ["--teacher", b.encoder],
        r"The teacher \S+ has no trained weights for classifier\.bias, classifier\.weight: it was not fine-tuned for "
        r"BertForSequenceClassification\. Fine-tune it first, for example with `hf-tinybert finetune`\.",
    ),
    "teacher without a tokenizer": (
        lambda b: ["--teacher", b.teacher_copy(**dict.fromkeys(TOKENIZER_FILES))],
        r"The teacher folder \S+teacher has no tokenizer: save it there with `tokenizer\.save_pretrained`\.",
    ),
    "teacher's weights cut short": (
        lambda b: [
            "--teacher",
            b.teacher_copy(model__safetensors=(b.teacher / "model.safetensors").read_bytes()[:5000]),
        ],
        r"The weights of the teacher \S+teacher are damaged: .*header.*",
    ),
    "teacher without weights": (
        lambda b: ["--teacher", b.teacher_copy(model__safetensors=None)],
        r"Error no file named .*model\.safetensors.* found in directory \S+teacher\.",
    ),
    "teacher's config is no JSON": (
        lambda b: ["--teacher", b.teacher_copy(config__json=b"{")],
        r"It looks like the config file at '\S+teacher/config\.json' is not a valid JSON file\.",
    ),
    "teacher is a decoder": (
        lambda b: ["--teacher", b.decoder()],
        r"GPT2ForSequenceClassification \(model_type 'gpt2'\) is not an encoder whose layers can be matched: .*",
    ),
    # the data
    "only data to evaluate on": (
        lambda b: ["--train-file", "", "--eval-file", b.eval],
        r"No training data: give --train-file or a --dataset with a train split\.",
    ),
    "missing file": (
        lambda b: ["--test-file", b.folder / "gone.csv"],
        r"The data file \S+made/gone\.csv does not exist\.",
    ),
    "missing text column": (
        lambda b: ["--train-file", b.text("f.csv", "body,intent\na,weather\n")],
        r"No text column named text, .*f\.csv has the columns 'body', 'intent'\. Name it with --text-column; .*",
    ),
    "too long for the teacher": (lambda b: ["--max-length", 513], ONLY_TO_512.format(513, "teacher")),
    "nothing to evaluate on": (
        lambda b: ["--eval-strategy", "steps"],
        r"You have set `args\.eval_strategy` to \S+ but you didn't pass an `eval_dataset` to `Trainer`\. .*",
    ),
    # the arguments
    "mapping out of range": (
        lambda b: ["--layer-mapping", "0:0,1:9"],
        r"Layer mapping 1:9 is out of range: the student has layers 0\.\.2 and the teacher 0\.\.4 .*",
    ),
    "layer weights beyond the student": (
        lambda b: ["--layer-weights", "3:1"],
        r"layer_weights names layer 3; the student has layers 1\.\.2\.",
    ),
    "temperature": (lambda b: ["--temperature", 0], r"temperature must be positive, got 0\.0\."),
    "not a number": (
        lambda b: ["--max-steps", "many"],
        r"argument --max_steps/--max-steps: invalid int value: 'many'",
    ),
    "nothing to resume from": (
        lambda b: ["--resume-from-checkpoint", "last"],
        r"There is no complete checkpoint in \S+out to resume from\.",
    ),
    "resuming from a folder that is not there": (
        lambda b: ["--resume-from-checkpoint", b.folder / "checkpoint-9"],
        r"The checkpoint \S+checkpoint-9 cannot be resumed: it lacks optimizer\.pt, scheduler\.pt, "
        r"distillation_projections\.safetensors, distillation_state\.json, model\.safetensors, rng_state\.pth, "
        r"trainer_state\.json\.",
    ),
    "unknown key in the configuration": (
        lambda b: ["--config", b.text("run.yaml", "temprature: 2\n")],
        r"The configuration file has the unknown argument\(s\) temprature\.",
    ),
    "output folder is a file": (
        lambda b: ["--output-dir", b.text("taken", "")],
        r"--output-dir \S+made/taken is a file: name a folder\.",
    ),
}


@pytest.mark.parametrize("case", DISTILL)
def test_distill(command, bench, student_shape, tmp_path, case):
    flags, message = DISTILL[case]
    given = flags(bench)
    out = tmp_path / "out"
    usual = {
        "--teacher": bench.teacher,
        "--student": student_shape,
        "--student-init": "random",
        "--train-file": bench.train,
        "--max-length": 48,
        "--output-dir": out,
    }
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    if "--student" in given and "--student-init" not in given:
        del usual["--student-init"]  # which is for students that have no weights yet
    words = [word for flag, value in usual.items() if value != "" for word in (flag, value)]
    refused(command, out, message, "distill", *QUICK, *words)


FINETUNE = {
    "no such model": (lambda b: ["--model", b.folder / "gone"], r"The model folder \S+/gone does not exist\."),
    "folder without a model": (
        lambda b: ["--model", b.folder],
        r"The model folder \S+made holds no model: there is no config\.json in it\.",
    ),
    "head of another size": (
        lambda b: ["--model", b.teacher, "--train-file", b.text("f.csv", "text,label\na,yes\nb,no\nc,yes\n")],
        r"The model \S+ cannot be loaded with a head for 2 label\(s\): .* Was it fine-tuned for other labels\? "
        r"Start from a pretrained encoder\.",
    ),
    "one class": (
        lambda b: ["--train-file", b.text("f.csv", "text,label\na,yes\nb,yes\nc,yes\n")],
        "The column 'label' holds one label only, 'yes': there is nothing to learn.",
    ),
    "tags of one text too few": (
        lambda b: [
            "--task",
            "token-classification",
            "--train-file",
            b.text("f.jsonl", '{"tokens": ["a", "b"], "tags": ["O", "B-x"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n'),
        ],
        r"\S+f\.jsonl, row 2: there are 2 words in 'tokens' and 1 tags in 'tags'\. .*",
    ),
    "a tag without a word": (
        lambda b: ["--task", "token-classification", "--train-file", b.text("f.conll", "a\tO\nb\n")],
        r"\S+f\.conll, line 2: 'b' has 1 columns, others 2\. .*",
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
        r"\S+f\.jsonl, row 1: its answer 'text' does not stand at character 4 .* of its context\. .*",
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
        r"--max-length 32 leaves no room for the text beside a question of \d tokens and a --doc-stride of 64: .*",
    ),
    "an unknown task": (
        lambda b: ["--task", "translation"],
        r"argument --task: invalid choice: 'translation' \(choose from .*text-classification.*\)",
    ),
    "a task without labels": (
        lambda b: ["--task", "feature-extraction"],
        r"argument --task: invalid choice: 'feature-extraction' \(choose from .*\)",
    ),
    "regression and words": (
        lambda b: [
            *("--train-file", b.text("t.csv", "text,score\na,1.5\nb,2.5\n")),
            *("--eval-file", b.text("e.csv", "text,score\na,good\n")),
        ],
        r"\S+e\.csv, row 1: the column 'score' holds a value that is no number, 'good', .*",
    ),
    "longer than the model's positions": (
        lambda b: [
            *("--max-length", 600),
            *("--train-file", b.text("long.csv", f"text,label\n{LONG},yes\n{LONG},no\n")),
        ],
        ONLY_TO_512.format(600, "model"),
    ),
    "no length": (lambda b: ["--max-length", 0], ONLY_TO_512.format(0, "model")),
    "no training data": (
        lambda b: ["--train-file", "", "--eval-file", b.eval],
        r"No training data: give --train-file or a --dataset with a train split\.",
    ),
    "nothing to resume from": (
        lambda b: ["--resume-from-checkpoint", "last"],
        r"There is no complete checkpoint in \S+out to resume from\.",
    ),
}


@pytest.mark.parametrize("case", FINETUNE)
def test_finetune(command, bench, tmp_path, case):
    flags, message = FINETUNE[case]
    given = flags(bench)
    out = tmp_path / "out"
    usual = {"--model": bench.encoder, "--train-file": bench.train, "--max-length": 48, "--output-dir": out}
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    words = [word for flag, value in usual.items() if value != "" for word in (flag, value)]
    refused(command, out, message, "finetune", *QUICK, *words)


EVALUATE = {
    "model without a head": (
        lambda b: ["--model", b.encoder],
        r"The model \S+ has no trained weights for classifier\.bias, .*",
    ),
    "folder without a model": (
        lambda b: ["--model", b.folder],
        r"The model folder \S+made holds no model: there is no config\.json in it\.",
    ),
    "no data": (
        lambda b: ["--eval-file", ""],
        r"No data: give --train-file \(and --eval-file, --test-file\), or --dataset\.",
    ),
    "unknown label": (
        lambda b: ["--eval-file", b.text("f.csv", "text,intent\na,weather\nb,poetry\n")],
        r"The eval data has 1 label\(s\) that the model was not trained for: poetry\. It knows: alarm_timer, .*",
    ),
    "max length": (lambda b: ["--max-length", 1000], ONLY_TO_512.format(1000, "model")),
    "missing column": (
        lambda b: ["--text-column", "body"],
        r"No text column 'body': \S+eval\.csv has the columns 'text', 'intent'\. Name it with --text-column\.",
    ),
    "broken file": (
        lambda b: ["--eval-file", b.text("f.jsonl", '{"text": ')],
        r"\S+f\.jsonl, line 1: it is no JSON \(.*\)\. .*",
    ),
    "decoder": (lambda b: ["--model", b.decoder()], r"GPT2ForSequenceClassification \(.*\) is not an encoder .*"),
    "batch size": (
        lambda b: ["--per-device-eval-batch-size", 0],
        "batch_size should be a positive integer value, but got batch_size=0",
    ),
}


@pytest.mark.parametrize("case", EVALUATE)
def test_evaluate(command, bench, tmp_path, case):
    flags, message = EVALUATE[case]
    given = flags(bench)
    usual = {"--model": bench.teacher, "--eval-file": bench.eval}
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    words = [word for flag, value in usual.items() if value != "" for word in (flag, value)]
    refused(command, tmp_path / "out", message, "evaluate", "--use-cpu", *words)
