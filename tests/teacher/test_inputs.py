"""A teacher that reads other tokens than its student, on real requests."""

from __future__ import annotations

import json

import factories
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_tinybert import DistillationTrainer, TinyBertConfig, create_student, tokenize_for_teacher
from hf_tinybert.evaluation import metrics
from hf_tinybert.teacher.inputs import COLUMNS, TeacherInputsCollator, of_student, of_teacher


def texts_of(split):
    rows = factories.household()[split]
    texts = [factories.tokenizer().decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]
    return Dataset.from_dict({"text": texts, "labels": rows["labels"]})


@pytest.fixture(scope="module")
def byte_tokens():
    """A byte-level BPE tokenizer of 600 tokens, trained on the requests: nothing in common with WordPiece."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts_of("train")["text"],
        trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", mask_token="<mask>")


@pytest.fixture(scope="module")
def data(byte_tokens):
    """Rows with the student's inputs (bytes) and the teacher's (WordPiece)."""

    def tokenize(batch):
        return {name: value for name, value in byte_tokens(batch["text"]).items() if name != "token_type_ids"}

    splits = {}
    for split in ("train", "eval"):
        both = tokenize_for_teacher(texts_of(split), factories.tokenizer(), "text", max_length=32)
        splits[split] = both.map(tokenize, batched=True, remove_columns=["text"])
    return splits


def test_no_batch_of_an_evaluation_is_left_behind(teacher, data, byte_tokens, tmp_path):
    args = factories.arguments(tmp_path, phases="prediction", max_steps=1)
    trainer = DistillationTrainer(
        student_of(teacher),
        args,
        train_dataset=data["train"],
        eval_dataset=data["eval"],
        processing_class=byte_tokens,
        teacher=teacher,
        teacher_processing_class=factories.tokenizer(),
    )
    trainer.evaluate(data["eval"].select(range(8)))
    other = trainer.data_collator([data["eval"][row] for row in range(20, 24)])
    loss = trainer.compute_loss(trainer.teacher, other)  # outside of an evaluation
    with torch.no_grad():
        own = {name: value for name, value in of_teacher(other).items() if name != "labels"}
        expected = torch.nn.functional.cross_entropy(teacher(**own).logits, other["labels"])
    torch.testing.assert_close(loss, expected)


def student_of(teacher, **changes):
    set_seed(0)
    config = factories.student_config(teacher, **({"vocab_size": 600} | changes))
    return create_student(teacher, config, init="random", separate_vocabulary=True)


def trainer_of(teacher, data, tokens, folder, student=None, changes=None, **arguments):
    args = factories.arguments(folder, **({"phases": "prediction", "max_steps": 12} | arguments))
    settings = {
        "model": student or student_of(teacher),
        "teacher": teacher,
        "args": args,
        "train_dataset": data["train"],
        "eval_dataset": data["eval"],
        "processing_class": tokens,
        "teacher_processing_class": factories.tokenizer(),
        "compute_metrics": metrics.accuracy,
    }
    return DistillationTrainer(**(settings | (changes or {})))


def test_the_teacher_says_of_a_text_what_it_says_alone(teacher, data, byte_tokens, tmp_path):
    trainer = trainer_of(teacher, data, byte_tokens, tmp_path, report_fidelity=True)
    own = factories.trainer(
        factories.small_student(teacher), teacher, factories.arguments(tmp_path), compute_metrics=metrics.accuracy
    )
    expected = own.evaluate_teacher(factories.household()["eval"])
    measured = trainer.evaluate_teacher()
    assert measured["teacher_accuracy"] == expected["teacher_accuracy"] > 0.5
    assert measured["teacher_loss"] == pytest.approx(expected["teacher_loss"], rel=2e-3)


@pytest.mark.parametrize("cache", ["none", "logits"])
def test_it_teaches(cache, teacher, data, byte_tokens, tmp_path):
    """From random weights the student comes to say of 24 requests what the teacher says."""
    few = data["train"].select(range(24))
    trainer = trainer_of(
        teacher,
        {"train": few, "eval": few},
        byte_tokens,
        tmp_path,
        max_steps=60,
        per_device_train_batch_size=12,
        learning_rate=5e-3,
        teacher_cache=cache,
        teacher_cache_dir=str(tmp_path / "cache"),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_agreement"] > before["eval_agreement"] + 0.5
    assert after["eval_kl"] < 0.5 * before["eval_kl"]
    trainer.save_model(str(tmp_path / "student"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert again.config.vocab_size == 600


def test_predictions_need_no_labels_and_no_teacher(teacher, data, byte_tokens, tmp_path):
    trainer = trainer_of(teacher, data, byte_tokens, tmp_path, report_fidelity=False)
    both = data["eval"].select(range(9))
    with_labels = trainer.predict(both.remove_columns([name for name in COLUMNS if name in both.column_names]))
    without = trainer.predict(both.remove_columns(["labels"]))
    np.testing.assert_allclose(without.predictions, with_labels.predictions, atol=1e-5)


def test_collated_rows(byte_tokens, data):
    collator = TeacherInputsCollator(lambda rows: {"kept": [sorted(row) for row in rows]}, factories.tokenizer())
    rows = [dict(data["train"][i]) for i in range(3)]
    batch = collator(rows)
    assert batch["kept"] == [["attention_mask", "input_ids", "labels"]] * 3
    assert batch["teacher_input_ids"].shape[1] % 8 == 0
    for row, ids, mask in zip(rows, batch["teacher_input_ids"], batch["teacher_attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == row["teacher_input_ids"]
    assert collator([{"input_ids": [1]}]) == {"kept": [["input_ids"]]}


def test_views_of_a_batch():
    batch = {"input_ids": 1, "token_type_ids": 2, "labels": 3, "teacher_input_ids": 4, "teacher_row": (5,)}
    assert of_teacher(batch) == {"input_ids": 4, "labels": 3, "teacher_row": (5,)}
    assert of_student(batch) == {"input_ids": 1, "token_type_ids": 2, "labels": 3, "teacher_row": (5,)}
    assert of_teacher({"input_ids": 1}) == {"input_ids": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": "two_phase"}, "cuts texts into other tokens than the student's: .*: use phases='prediction'"),
        ({"phases": "joint"}, "Layers have no positions in common"),
        ({"phases": "joint", "teacher_cache": "features"}, "knows the teacher's positions alone"),
    ],
)
def test_layers_of_other_tokens_are_refused(arguments, message, teacher, data, byte_tokens, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_of(teacher, data, byte_tokens, tmp_path, **arguments)


def renumbered(tokenizer):
    """The teacher's tokenizer with its word pieces under other ids, and two separators between a pair."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    last = len(vocabulary) - 1
    state["model"]["vocab"] = {token: last - index for token, index in vocabulary.items()}
    for token in state["added_tokens"]:
        token["id"] = last - token["id"]
    named = {
        name: getattr(tokenizer, name) for name in ("unk_token", "cls_token", "sep_token", "pad_token", "mask_token")
    }
    ids = {named[name]: state["model"]["vocab"][named[name]] for name in ("cls_token", "sep_token")}
    changed = Tokenizer.from_str(json.dumps(state))
    first, end = named["cls_token"], named["sep_token"]
    changed.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {end}", pair=f"{first} $A {end} {end} $B {end}", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(tokenizer_object=changed, **named)


def test_layers_are_matched_where_both_cut_alike(teacher, tmp_path):
    """A student that reads other ids, with other separators, has the losses of one that reads the teacher's."""
    own = renumbered(factories.tokenizer())
    pairs = Dataset.from_dict({"a": texts_of("train")["text"][:24], "b": texts_of("train")["text"][24:48]})
    pairs = pairs.add_column("labels", [n % 12 for n in range(24)])
    both = tokenize_for_teacher(pairs, factories.tokenizer(), "a", "b")
    both = both.map(lambda row: dict(own(row["a"], row["b"])), remove_columns=["a", "b"])
    assert both["input_ids"] != both["teacher_input_ids"]
    assert len(both["input_ids"][0]) == len(both["teacher_input_ids"][0]) + 1
    student = factories.small_student(teacher, init="teacher")
    last = teacher.config.vocab_size - 1
    with torch.no_grad():  # the same student under the other ids, blind to positions and segments
        table = student.get_input_embeddings().weight
        table.copy_(table.flip(0)[-last - 1 :])
        for name in ("position_embeddings", "token_type_embeddings"):
            getattr(student.base_model.embeddings, name).weight.zero_()
    trainer = trainer_of(
        teacher,
        {"train": both, "eval": both},
        own,
        tmp_path,
        student=student,
        phases="joint",
        max_steps=30,
        learning_rate=1e-3,
        logging_steps=10,
        per_device_train_batch_size=8,
    )
    batch = trainer.data_collator([both[row] for row in range(4)])
    places = batch["teacher_positions"]
    mapped = batch["teacher_input_ids"].gather(1, places)
    real = batch["attention_mask"].bool()
    assert torch.equal(mapped[real], last - batch["input_ids"][real])
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_hidden_2" in entry]
    for name in ("loss_hidden_1", "loss_hidden_2", "loss_attention_1", "loss_prediction"):
        assert logs[-1][name] < logs[0][name], name


def test_tasks_of_tokens_and_missing_or_long_columns_are_refused(teacher, data, byte_tokens, tmp_path):
    config = BertConfig(vocab_size=600, hidden_size=24, num_hidden_layers=1, num_attention_heads=12, num_labels=12)
    tagger = AutoModelForTokenClassification.from_config(config)
    with pytest.raises(ValueError, match="cuts texts into other tokens"):
        trainer_of(teacher, data, byte_tokens, tmp_path, student=tagger)
    for split, what in (("train_dataset", "training"), ("eval_dataset", "evaluation")):
        lacking = data["train"].remove_columns(["teacher_input_ids"])
        with pytest.raises(ValueError, match=f"The {what} data has no column 'teacher_input_ids'"):
            trainer_of(teacher, data, byte_tokens, tmp_path, changes={split: lacking})
    long = data["train"].select(range(2)).remove_columns(["teacher_input_ids", "teacher_attention_mask"])
    long = long.add_column("teacher_input_ids", [[101] * 600, [101]])
    with pytest.raises(ValueError, match="600 tokens is longer than the 512 positions"):
        trainer_of(teacher, data, byte_tokens, tmp_path, changes={"train_dataset": long})
    with pytest.raises(ValueError, match="There is no column 'sentence'"):
        tokenize_for_teacher(texts_of("eval"), byte_tokens, "sentence")
    with pytest.raises(ValueError, match="There is no column 'sentence'"):
        tokenize_for_teacher(DatasetDict({"train": texts_of("eval")}), byte_tokens, "sentence")
    with pytest.raises(ValueError, match="init='teacher' needs the teacher's vocabulary"):
        create_student(teacher, TinyBertConfig.from_teacher(teacher.config, vocab_size=600), separate_vocabulary=True)


def test_several_splits_at_once(byte_tokens):
    both = tokenize_for_teacher(DatasetDict({"eval": texts_of("eval"), "test": texts_of("test")}), byte_tokens, "text")
    for split in ("eval", "test"):
        assert both[split]["teacher_input_ids"][3] == byte_tokens(both[split]["text"][3])["input_ids"]


def test_streams(teacher, data, byte_tokens, tmp_path):
    stream = data["train"].to_iterable_dataset()
    trainer = trainer_of(teacher, data, byte_tokens, tmp_path, changes={"train_dataset": stream}, max_steps=2)
    trainer.train()
    assert trainer.state.global_step == 2
    lacking = data["train"].select_columns(["input_ids", "attention_mask", "labels"]).to_iterable_dataset()
    args = {"max_steps": 2, "report_fidelity": False}
    with pytest.raises(ValueError, match=r"no (column )?'teacher_input_ids'"):
        trainer_of(teacher, data, byte_tokens, tmp_path, changes={"train_dataset": lacking}, **args).train()
    assert torch.is_grad_enabled()
