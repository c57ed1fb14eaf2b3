# %% [markdown]
# # From a fine-tuned encoder to a TinyBERT
#
# Cells as a notebook has them: open this file in VS Code or Jupyter (`jupytext --to ipynb walkthrough.py`), or run it,
# `python walkthrough.py`. On two cores it takes about three minutes. It needs `pip install "hf-tinybert[plots]"`, and
# downloads one model.

# %%
import csv
from importlib import resources

import matplotlib.pyplot as plt
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments, TinyBertConfig, create_student

NAME = "sentence-transformers/all-MiniLM-L6-v2"
set_seed(0)

# %% [markdown]
# ## Data
# Household requests that come with the package: what was said, and what is wanted.


# %%
def split(name: str) -> list[dict[str, str]]:
    text = (resources.files("hf_tinybert.data") / "demo_data" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


train_rows, test_rows = split("train"), split("test")
intents = sorted({row["intent"] for row in train_rows})
print(len(train_rows), "requests,", len(intents), "intents, such as", train_rows[0])

tokenizer = AutoTokenizer.from_pretrained(NAME)


def encoded(rows: list[dict[str, str]]) -> Dataset:
    columns = dict(tokenizer([row["text"] for row in rows], truncation=True, max_length=64))
    return Dataset.from_dict(columns | {"labels": [intents.index(row["intent"]) for row in rows]})


train, test = encoded(train_rows), encoded(test_rows)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


# %% [markdown]
# ## The teacher
# Ordinary fine-tuning. If you have a fine-tuned model, begin below.

# %%
teacher = AutoModelForSequenceClassification.from_pretrained(
    NAME,
    num_labels=len(intents),
    id2label=dict(enumerate(intents)),
    label2id={name: i for i, name in enumerate(intents)},
)
trainer = Trainer(
    model=teacher,
    args=TrainingArguments(
        "walkthrough/teacher",
        num_train_epochs=3,
        learning_rate=3e-4,
        per_device_train_batch_size=32,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=train,
    eval_dataset=test,
    processing_class=tokenizer,
    compute_metrics=accuracy,
)
trainer.train()
print("teacher", trainer.evaluate()["eval_accuracy"])

# %% [markdown]
# ## A student, before it has learnt anything
# `create_student` starts from the teacher's own weights: the principal components of its hidden states are the
# student's narrower hidden space. Even untrained it answers far better than chance.

# %%
config = TinyBertConfig.from_teacher(teacher.config, "tinybert-4l-312d")
some = tokenizer([row["text"] for row in train_rows[:1024]], padding=True, return_tensors="pt")
student = create_student(teacher, config, calibration=some)
print(f"{teacher.num_parameters():,} parameters in the teacher, {student.num_parameters():,} in the student")

# %% [markdown]
# ## Distillation
# Every step matches all levels: embeddings, hidden states, attention scores before the softmax, and predictions.

# %%
distiller = DistillationTrainer(
    model=student,
    teacher=teacher,
    args=DistillationTrainingArguments(
        "walkthrough/student",
        num_train_epochs=5,
        per_device_train_batch_size=32,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=train,
    eval_dataset=test,
    processing_class=tokenizer,
    compute_metrics=accuracy,
)
print("untrained", distiller.evaluate()["eval_accuracy"])
distiller.train()
measured = distiller.evaluate()
print("student", measured["eval_accuracy"], "agrees with the teacher on", measured["eval_agreement"])

# %% [markdown]
# ## What happened
# Every level has a series of its own in the log.

# %%
history = distiller.state.log_history
figure, axes = plt.subplots(1, 3, figsize=(12, 3.5))
for axis, level in zip(axes, ("hidden", "attention", "prediction"), strict=True):
    for name in sorted({key for entry in history for key in entry if key.startswith(f"loss_{level}")}):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        axis.plot(*zip(*points, strict=True), label=name.removeprefix("loss_"))
    axis.set(title=level, xlabel="step", yscale="log")
    axis.legend()
figure.tight_layout()
figure.savefig("walkthrough/losses.png")

# %% [markdown]
# ## Anywhere
# What is saved is a plain BERT.

# %%
distiller.save_model()
distiller.save_state()  # the log, for `hf-tinybert report`
answer = pipeline("text-classification", model="walkthrough/student")
for question in ("please switch the lamp in the kitchen off", "wake me at seven"):
    print(question, answer(question))

# %% [markdown]
# Next: `distiller.push_to_hub()`, `hf-tinybert export walkthrough/student --quantize int8`, or
# `hf-tinybert report walkthrough/student`.
