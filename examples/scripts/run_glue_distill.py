"""Sequence classification: a GLUE task by its name, or files of your own (CSV, TSV or JSON lines).

    python SCRIPT --model_name_or_path MODEL --task_name sst2 --do_train --do_eval --output_dir FOLDER
"""

from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
    set_seed,
)
from hf_tinybert import DistillationTrainer as Trainer, DistillationTrainingArguments as TrainingArguments

task_to_keys = {
    "cola": ("sentence", None),
    "mnli": ("premise", "hypothesis"),
    "mrpc": ("sentence1", "sentence2"),
    "qnli": ("question", "sentence"),
    "qqp": ("question1", "question2"),
    "rte": ("sentence1", "sentence2"),
    "sst2": ("sentence", None),
    "stsb": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the model to fine-tune."})
    cache_dir: str | None = None


@dataclass
class DataTrainingArguments:
    task_name: str | None = field(default=None, metadata={"help": f"One of {', '.join(task_to_keys)}."})
    train_file: str | None = None
    validation_file: str | None = None
    sentence1_key: str = "sentence"
    sentence2_key: str | None = None
    max_seq_length: int = 128
    max_train_samples: int | None = None


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    if data_args.task_name is not None:
        raw_datasets = load_dataset("nyu-mll/glue", data_args.task_name, cache_dir=model_args.cache_dir)
        sentence1_key, sentence2_key = task_to_keys[data_args.task_name]
    else:
        data_files = {"train": data_args.train_file, "validation": data_args.validation_file}
        if data_args.train_file.endswith((".csv", ".tsv")):
            options = {"delimiter": "\t", "quoting": 3} if data_args.train_file.endswith(".tsv") else {}
            raw_datasets = load_dataset("csv", data_files=data_files, keep_default_na=False, **options)
        else:
            raw_datasets = load_dataset("json", data_files=data_files)
        sentence1_key, sentence2_key = data_args.sentence1_key, data_args.sentence2_key

    labels = raw_datasets["train"].features["label"]
    is_regression = labels.dtype.startswith("float")
    label_list = None if is_regression else getattr(labels, "names", None) or sorted(set(raw_datasets["train"]["label"]))

    config = AutoConfig.from_pretrained(
        model_args.model_name_or_path,
        num_labels=1 if is_regression else len(label_list),
        finetuning_task=data_args.task_name,
        cache_dir=model_args.cache_dir,
    )
    names = {} if is_regression else dict(enumerate(map(str, label_list)))
    if sorted(config.id2label.values()) == sorted(names.values()):  # the model knows them, in an order of its own
        names = {int(number): name for number, name in config.id2label.items()}
    label_to_id = {name: number for number, name in names.items()}
    if not is_regression:
        config.id2label, config.label2id = names, label_to_id
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path, config=config, cache_dir=model_args.cache_dir
    )

    def preprocess_function(examples):
        texts = (examples[sentence1_key],) if sentence2_key is None else (examples[sentence1_key], examples[sentence2_key])
        result = tokenizer(*texts, max_length=data_args.max_seq_length, truncation=True)
        if is_regression:
            result["labels"] = examples["label"]
        else:
            known = [labels.names[label] if hasattr(labels, "names") else str(label) for label in examples["label"]]
            result["labels"] = [label_to_id[label] for label in known]
        return result

    with training_args.main_process_first(desc="dataset map pre-processing"):
        raw_datasets = raw_datasets.map(
            preprocess_function, batched=True, remove_columns="label", desc="Running tokenizer on dataset"
        )
    train_dataset = raw_datasets["train"]
    eval_dataset = raw_datasets["validation_matched" if data_args.task_name == "mnli" else "validation"]
    if data_args.max_train_samples is not None:
        train_dataset = train_dataset.select(range(min(len(train_dataset), data_args.max_train_samples)))

    def compute_metrics(p):
        preds = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        if is_regression:
            preds = np.squeeze(preds)
            return {"pearson": pearsonr(preds, p.label_ids)[0], "spearmanr": spearmanr(preds, p.label_ids)[0]}
        preds = np.argmax(preds, axis=1)
        metrics = {"accuracy": accuracy_score(p.label_ids, preds)}
        if data_args.task_name in ("mrpc", "qqp"):
            metrics["f1"] = f1_score(p.label_ids, preds)
        if data_args.task_name == "cola":
            metrics["matthews_correlation"] = matthews_corrcoef(p.label_ids, preds)
        return metrics

    trainer = Trainer(
        model="tinybert-4l-312d", teacher=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", train_result.metrics)
        trainer.save_metrics("train", train_result.metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
