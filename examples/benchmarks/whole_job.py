"""A whole distillation on SST-2, both phases, several epochs: the authors' protocol, and ours without and with caches.

    python examples/benchmarks/whole_job.py --teacher runs/results/sst2/teacher --data ../shared/data

Every job runs in a process of its own, one after the other, from the same random student, over the same sentences
in batches of 32, for the same number of epochs, with the same learning rates; teacher and data as in results.py,
which makes the teacher. The seconds are those of training, building a cache included, loading and evaluation not.

- authors: as in the authors' code: every sentence padded to 64 tokens, eager attention with the score maps of all
  layers, the teacher in every step of both phases; GELU as an expression of Python and BERT's Adam (no bias
  correction, each parameter clipped and updated by itself), as in their modules; the student drops attention maps, as
  their configuration says.
- modernised: the same with PyTorch's fused GELU, fused AdamW and clipping of the whole gradient.
- none, logits, features: `DistillationTrainer` with this `teacher_cache`, starting from an empty folder. Its collator
  pads to the longest sentence of a batch: the default, a multiple of 8, is for GPUs.
- features-float32: features kept in float32, which give the live teacher's losses, and not in float16.
- bf16: as features, with `bf16=True`, the Trainer's own mixed precision.
- tuned: as features, with what makes a step of short sentences cheaper on a CPU with AMX: matrix products in bf16
  (`torch.set_float32_matmul_precision("medium")`), attention without its fused kernel, whose backward pass is slow
  then, a student without dropout, and no clipping of the gradient.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import glue
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from training_step import keep_scores, machine, with_eager_attention, write
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    get_scheduler,
    set_seed,
)

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments, TinyBertConfig, create_student
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.utils import compat

BASELINES = ("authors", "modernised")
JOBS = (*BASELINES, "none", "logits", "features", "features-float32", "bf16", "tuned")
LENGTH, BATCH, SUBSET_SEED = 64, 32, 0
INTERMEDIATE_RATE, PREDICTION_RATE, WARMUP, WEIGHT_DECAY = 3e-4, 1e-4, 0.06, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="fine-tuned on SST-2")
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/SST-2")
    parser.add_argument("--output", type=Path, default=Path("runs/whole_job"))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--intermediate-epochs", type=int, default=4)
    parser.add_argument("--prediction-epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--one", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_job(options)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    for job in [] if options.table else options.jobs:
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        with (options.output / f"{job}.log").open("w", encoding="utf-8") as log:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", job]
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
        print(f"{job}: {json.loads((options.output / f'{job}.json').read_text())}", flush=True)
    print(table(options.output))


def run_job(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    teacher = AutoModelForSequenceClassification.from_pretrained(options.teacher)
    train, dev = (read(glue.rows(options.data, "SST-2", split), tokenizer) for split in ("train", "dev"))
    train = train.select(random.Random(SUBSET_SEED).sample(range(len(train)), options.sentences))
    set_seed(options.seed)
    baseline = options.one in BASELINES
    dropout = {"attention_probs_dropout_prob": 0.1} if baseline else {}
    if options.one == "tuned":
        dropout = {"hidden_dropout_prob": 0.0}
    config = TinyBertConfig.from_teacher(teacher.config, **dropout)
    student = create_student(teacher, config, init="random")
    seconds = (authors if baseline else ours)(student, teacher, tokenizer, train, options)
    result = {
        "job": options.one,
        "seconds": round(seconds, 1),
        "accuracy": accuracy(student, tokenizer, dev),
        "sentences": len(train),
        "epochs": [options.intermediate_epochs, options.prediction_epochs],
        "seed": options.seed,
        "machine": machine("cpu"),
    }
    write(options.output / f"{options.one}.json", (json.dumps(result, indent=2) + "\n").encode())


def read(rows: list[dict[str, str]], tokenizer: object) -> Dataset:
    encoded = tokenizer([row["sentence"] for row in rows], truncation=True, max_length=LENGTH)
    return Dataset.from_dict({**encoded, "labels": [int(row["label"]) for row in rows]})


def ours(student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: object, train: Dataset, options) -> float:
    epochs = options.intermediate_epochs + options.prediction_epochs
    tuned = options.one == "tuned"
    if tuned:
        torch.set_float32_matmul_precision("medium")
    with tempfile.TemporaryDirectory() as folder, sdpa_kernel(SDPBackend.MATH) if tuned else nullcontext():
        args = DistillationTrainingArguments(
            output_dir=folder,
            phases="two_phase",
            num_train_epochs=epochs,
            num_intermediate_epochs=options.intermediate_epochs,
            intermediate_learning_rate=INTERMEDIATE_RATE,
            learning_rate=PREDICTION_RATE,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            weight_decay=WEIGHT_DECAY,
            teacher_cache="features" if options.one in ("bf16", "tuned") else options.one.partition("-")[0],
            bf16=options.one == "bf16",
            teacher_cache_dtype="float32" if options.one.endswith("float32") else "float16",
            teacher_cache_dir=folder,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=options.seed,
            **compat.warmup_argument(WARMUP),
            max_grad_norm=0.0 if tuned else 1.0,
        )
        trainer = DistillationTrainer(
            student,
            args,
            teacher=teacher,
            train_dataset=train,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def authors(student: PreTrainedModel, teacher: PreTrainedModel, tokenizer: object, train: Dataset, options) -> float:
    modern = options.one == "modernised"
    for model in (student, teacher):
        model.config.hidden_act = "gelu" if modern else "gelu_python"
    # The twins share the weights: what is trained here is the student that was given.
    student, teacher = with_eager_attention(student), with_eager_attention(teacher.eval())
    mapping = LayerMapping.uniform(Encoder.from_model(student).num_layers, Encoder.from_model(teacher).num_layers)
    projection = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
    below, above = keep_scores(student), keep_scores(teacher)
    batches = tokenizer.pad(train.to_dict(), padding="max_length", max_length=LENGTH, return_tensors="pt")

    def intermediate(inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            targets = teacher(**inputs, output_hidden_states=True).hidden_states
        hidden = student(**inputs, output_hidden_states=True).hidden_states
        loss = sum(F.mse_loss(projection(hidden[m]), targets[g]) for m, g in mapping.items())
        for m, g in mapping.layers.items():
            maps = [torch.where(scores <= -100, 0.0, scores) for scores in (below[m - 1], above[g - 1])]
            loss = loss + F.mse_loss(*maps)
        below.clear()
        above.clear()
        return loss

    def prediction(inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            targets = teacher(**inputs).logits.softmax(-1)
        loss = -(targets * student(**inputs).logits.log_softmax(-1)).mean()
        below.clear()
        above.clear()
        return loss

    start = time.perf_counter()
    student.train()
    for loss_of, epochs, rate, schedule in (
        (intermediate, options.intermediate_epochs, INTERMEDIATE_RATE, "constant"),
        (prediction, options.prediction_epochs, PREDICTION_RATE, "linear"),
    ):
        parameters = [*student.parameters(), *projection.parameters()]
        make = partial(torch.optim.AdamW, fused=True) if modern else BertAdam
        optimizer = make(parameters, lr=rate, weight_decay=WEIGHT_DECAY)
        steps = epochs * (len(train) // BATCH)
        scheduler = get_scheduler(schedule, optimizer, int(WARMUP * steps), steps)
        for _ in range(epochs):
            order = torch.randperm(len(train))
            for first in range(0, len(train) - BATCH + 1, BATCH):
                rows = order[first : first + BATCH]
                loss = loss_of({name: batches[name][rows] for name in batches if name != "labels"})
                loss.backward()
                if modern:
                    nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return time.perf_counter() - start


class BertAdam(torch.optim.Optimizer):
    """BERT's Adam: no bias correction, decoupled weight decay, each parameter's gradient clipped to norm 1."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                nn.utils.clip_grad_norm_(parameter, 1.0)
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["mean"].mul_(0.9).add_(gradient, alpha=0.1)
                state["square"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                update = state["mean"] / (state["square"].sqrt() + 1e-6) + group["weight_decay"] * parameter
                parameter.add_(-group["lr"] * update)


@torch.inference_mode()
def accuracy(student: PreTrainedModel, tokenizer: object, dev: Dataset) -> float:
    student.eval()
    collate, right = DataCollatorWithPadding(tokenizer), 0
    for first in range(0, len(dev), 64):
        batch = collate([dev[row] for row in range(first, min(first + 64, len(dev)))])
        labels = batch.pop("labels")
        right += int((student(**batch).logits.argmax(-1) == labels).sum())
    return round(right / len(dev), 4)


def table(folder: Path) -> str:
    found = {
        job: json.loads((folder / f"{job}.json").read_text()) for job in JOBS if (folder / f"{job}.json").is_file()
    }
    bases = [job for job in BASELINES if job in found]
    heads = ["job", "seconds", *(f"times faster than {base}" for base in bases), "dev accuracy"]
    lines = [heads, ["---"] * len(heads)]
    for job, row in found.items():
        faster = [f"{found[base]['seconds'] / row['seconds']:.1f}" for base in bases]
        lines.append([job, f"{row['seconds']:.0f}", *faster, f"{100 * row['accuracy']:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
