"""Extractive question answering: a data set on the Hub, or files of your own (JSON lines in SQuAD's form).

    python SCRIPT --model_name_or_path MODEL --dataset_name squad --do_train --do_eval --output_dir FOLDER
"""

import collections
import re
import string
from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    set_seed,
)
from hf_tinybert import DistillationTrainer as Trainer, DistillationTrainingArguments as TrainingArguments


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the model to fine-tune."})
    cache_dir: str | None = None


@dataclass
class DataTrainingArguments:
    dataset_name: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    max_seq_length: int = 384
    doc_stride: int = 128
    n_best_size: int = 20
    max_answer_length: int = 30
    max_train_samples: int | None = None


class QuestionAnsweringTrainer(Trainer):
    """Turns the logits of windows into answers before they are measured."""

    def __init__(self, *args, eval_examples=None, post_process_function=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        output = self.predict(eval_dataset.remove_columns(["example_id", "offset_mapping"]))
        answers = self.post_process_function(self.eval_examples, eval_dataset, output.predictions)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in answers.items()}
        self.log(metrics)
        return metrics


def normalize_answer(text):
    """Lower text and remove punctuation, articles and extra whitespace."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1_of(prediction, gold):
    found, right = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not found or not right:
        return float(found == right)
    same = sum((collections.Counter(found) & collections.Counter(right)).values())
    return 0.0 if same == 0 else 2 * same / (len(found) + len(right))


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    if data_args.dataset_name is not None:
        raw_datasets = load_dataset(data_args.dataset_name, cache_dir=model_args.cache_dir)
    else:
        data_files = {"train": data_args.train_file, "validation": data_args.validation_file}
        raw_datasets = load_dataset("json", data_files=data_files)
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    model = AutoModelForQuestionAnswering.from_pretrained(
        model_args.model_name_or_path, cache_dir=model_args.cache_dir
    )

    def windows(examples):
        return tokenizer(
            [question.lstrip() for question in examples["question"]],
            examples["context"],
            truncation="only_second",
            max_length=data_args.max_seq_length,
            stride=data_args.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def prepare_train_features(examples):
        tokenized = windows(examples)
        tokenized["start_positions"], tokenized["end_positions"] = [], []
        samples, offsets = tokenized.pop("overflow_to_sample_mapping"), tokenized.pop("offset_mapping")
        for number, spans in enumerate(offsets):
            answers = examples["answers"][samples[number]]
            first = last = tokenized["input_ids"][number].index(tokenizer.cls_token_id)
            if answers["answer_start"]:
                begin = answers["answer_start"][0]
                end = begin + len(answers["text"][0])
                inside = [
                    index
                    for index, sequence in enumerate(tokenized.sequence_ids(number))
                    if sequence == 1 and spans[index][0] < end and spans[index][1] > begin
                ]
                if inside and spans[inside[0]][0] <= begin and spans[inside[-1]][1] >= end:
                    first, last = inside[0], inside[-1]
            tokenized["start_positions"].append(first)
            tokenized["end_positions"].append(last)
        return tokenized

    def prepare_validation_features(examples):
        tokenized = windows(examples)
        samples = tokenized.pop("overflow_to_sample_mapping")
        tokenized["example_id"] = [examples["id"][sample] for sample in samples]
        tokenized["offset_mapping"] = [
            [span if sequence == 1 else None for span, sequence in zip(spans, tokenized.sequence_ids(number))]
            for number, spans in enumerate(tokenized["offset_mapping"])
        ]
        return tokenized

    train_examples, eval_examples = raw_datasets["train"], raw_datasets["validation"]
    if data_args.max_train_samples is not None:
        train_examples = train_examples.select(range(min(len(train_examples), data_args.max_train_samples)))
    columns = train_examples.column_names
    with training_args.main_process_first(desc="dataset map pre-processing"):
        train_dataset = train_examples.map(prepare_train_features, batched=True, remove_columns=columns)
        eval_dataset = eval_examples.map(prepare_validation_features, batched=True, remove_columns=columns)

    def post_process_function(examples, features, predictions):
        best = collections.defaultdict(lambda: (-np.inf, ""))
        contexts = dict(zip(examples["id"], examples["context"]))
        for starts, ends, name, spans in zip(*predictions, features["example_id"], features["offset_mapping"]):
            for start in np.argsort(starts)[::-1][: data_args.n_best_size]:
                for end in np.argsort(ends)[::-1][: data_args.n_best_size]:
                    if start >= len(spans) or end >= len(spans) or spans[start] is None or spans[end] is None:
                        continue
                    if not start <= end < start + data_args.max_answer_length:
                        continue
                    text = contexts[name][spans[start][0] : spans[end][1]]
                    best[name] = max(best[name], (float(starts[start] + ends[end]), text))
        gold = {name: answers["text"] or [""] for name, answers in zip(examples["id"], examples["answers"])}
        exact = [max(normalize_answer(best[n][1]) == normalize_answer(g) for g in golds) for n, golds in gold.items()]
        f1 = [max(f1_of(best[name][1], answer) for answer in golds) for name, golds in gold.items()]
        return {"exact_match": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(f1))}

    trainer = QuestionAnsweringTrainer(
        model="tinybert-4l-312d", teacher=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        eval_examples=eval_examples if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        post_process_function=post_process_function,
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", train_result.metrics)
        trainer.save_metrics("train", train_result.metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
