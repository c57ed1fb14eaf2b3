"""Text classification on CSV files.

    python SCRIPT --model NAME --train_file train.csv --eval_file eval.csv --output_dir FOLDER
"""

from dataclasses import dataclass

import numpy as np
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    HfArgumentParser,
)
from transformers import Trainer, TrainingArguments


@dataclass
class ScriptArguments:
    model: str
    train_file: str
    eval_file: str
    text_column: str = "text"
    label_column: str = "intent"


def main():
    script, args = HfArgumentParser((ScriptArguments, TrainingArguments)).parse_args_into_dataclasses()
    files = {"train": script.train_file, "eval": script.eval_file}
    data = load_dataset("csv", data_files=files, keep_default_na=False)
    names = sorted(set(data["train"][script.label_column]))
    tokenizer = AutoTokenizer.from_pretrained(script.model)

    def encode(batch):
        encoded = tokenizer(batch[script.text_column], truncation=True, max_length=64)
        encoded["labels"] = [names.index(label) for label in batch[script.label_column]]
        return encoded

    data = data.map(encode, batched=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        script.model,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=data["train"],
        eval_dataset=data["eval"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda p: {"accuracy": float(np.mean(p.predictions.argmax(-1) == p.label_ids))},
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())


if __name__ == "__main__":
    main()
