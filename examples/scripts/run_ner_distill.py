"""Token classification: a data set on the Hub, or files of your own (JSON lines with words and tags).

    python SCRIPT --model_name_or_path MODEL --dataset_name wnut_17 --do_train --do_eval --output_dir FOLDER
"""

from dataclasses import dataclass, field

import numpy as np
from datasets import load_dataset
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
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
    text_column_name: str = "tokens"
    label_column_name: str = "ner_tags"
    max_seq_length: int = 128
    label_all_tokens: bool = False
    max_train_samples: int | None = None


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    if data_args.dataset_name is not None:
        raw_datasets = load_dataset(data_args.dataset_name, cache_dir=model_args.cache_dir)
    else:
        data_files = {"train": data_args.train_file, "validation": data_args.validation_file}
        raw_datasets = load_dataset("json", data_files=data_files)
    feature = raw_datasets["train"].features[data_args.label_column_name].feature
    names = getattr(feature, "names", None)
    label_list = names or sorted({tag for row in raw_datasets["train"][data_args.label_column_name] for tag in row})

    config = AutoConfig.from_pretrained(
        model_args.model_name_or_path, num_labels=len(label_list), cache_dir=model_args.cache_dir
    )
    if sorted(config.id2label.values()) == sorted(label_list):  # the model knows them, in an order of its own
        label_list = [config.id2label[number] for number in range(len(label_list))]
    label_to_id = {label: number for number, label in enumerate(label_list)}
    config.id2label, config.label2id = dict(enumerate(label_list)), label_to_id
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path, cache_dir=model_args.cache_dir)
    model = AutoModelForTokenClassification.from_pretrained(
        model_args.model_name_or_path, config=config, cache_dir=model_args.cache_dir
    )

    def tokenize_and_align_labels(examples):
        tokenized_inputs = tokenizer(
            examples[data_args.text_column_name],
            max_length=data_args.max_seq_length,
            truncation=True,
            is_split_into_words=True,
        )
        all_labels = []
        for number, tags in enumerate(examples[data_args.label_column_name]):
            previous, label_ids = None, []
            for word in tokenized_inputs.word_ids(batch_index=number):
                counts = word is not None and (word != previous or data_args.label_all_tokens)
                tag = tags[word] if word is not None else None
                label_ids.append(label_to_id[names[tag] if names else tag] if counts else -100)
                previous = word
            all_labels.append(label_ids)
        tokenized_inputs["labels"] = all_labels
        return tokenized_inputs

    with training_args.main_process_first(desc="dataset map pre-processing"):
        raw_datasets = raw_datasets.map(
            tokenize_and_align_labels,
            batched=True,
            remove_columns=raw_datasets["train"].column_names,
            desc="Running tokenizer on dataset",
        )
    train_dataset, eval_dataset = raw_datasets["train"], raw_datasets["validation"]
    if data_args.max_train_samples is not None:
        train_dataset = train_dataset.select(range(min(len(train_dataset), data_args.max_train_samples)))

    def compute_metrics(p):
        predictions = np.argmax(p.predictions, axis=2)
        kept = [row != -100 for row in p.label_ids]
        predicted = [[label_list[i] for i in row[real]] for row, real in zip(predictions, kept)]
        gold = [[label_list[i] for i in row[real]] for row, real in zip(p.label_ids, kept)]
        return {
            "precision": precision_score(gold, predicted, zero_division=0),
            "recall": recall_score(gold, predicted, zero_division=0),
            "f1": f1_score(gold, predicted, zero_division=0),
            "accuracy": accuracy_score(gold, predicted),
        }

    trainer = Trainer(
        model="tinybert-4l-312d", teacher=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8),
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
