"""Teachers of every family: what is caught of them against their own eager attention, and a short distillation.

    python examples/benchmarks/families.py --data ../shared/data

Teachers are small and randomly initialised, in the form in which their families are published (no weights of theirs
are to be had here); sentences are SST-2's, read by MiniLM's tokenizer. Printed for each family and transformers:

- the largest difference of what is caught to the model's own eager outputs: hidden states, and attention probabilities
  that are made of the caught queries, keys and biases;
- how attention is compared, and the hidden and attention losses (means over layers) of a BERT student of two layers at
  the first and the last report of a short run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import glue
import results
import torch
import transformers
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments, TinyBertConfig, create_student
from hf_tinybert.evaluation.attention_maps import attention_probabilities
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.features import FeatureCapture

DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 256}
DEBERTA |= {"position_biased_input": False, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0}
MODERNBERT = {"local_attention": 16, "global_attn_every_n_layers": 3, "cls_token_id": 101, "sep_token_id": 102}
MODERNBERT |= {"bos_token_id": 101, "eos_token_id": 102}
#: model_type -> what its published checkpoints set beside the sizes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "electra": {"embedding_size": 32},
    "distilbert": {},
    "albert": {"embedding_size": 32},
    "mpnet": {},
    "deberta-v2": DEBERTA,
    "modernbert": MODERNBERT,
}
#: DistilBERT's own names of the sizes.
DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/SST-2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--families", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    rows = glue.rows(options.data, "SST-2")[:2000]
    tokenizer = AutoTokenizer.from_pretrained(results.body())
    texts, labels = [row["sentence"] for row in rows], [int(row["label"]) for row in rows]
    data = Dataset.from_dict({**tokenizer(texts, truncation=True, max_length=64), "labels": labels})
    print(f"transformers {transformers.__version__}, {options.steps} steps of 16 sentences\n")
    print("| teacher | hidden states | attention | compared by | hidden loss | attention loss |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in options.families:
        teacher = teacher_of(family, "eager")
        hidden, attention = differences(teacher, tokenizer(texts[:16], padding=True, return_tensors="pt"))
        kind, log = distil(teacher_of(family, None), data, tokenizer, options.steps)
        falls = " | ".join(
            f"{first:.3f} to {last:.3f}" for first, last in (ends(log, "hidden"), ends(log, "attention"))
        )
        print(f"| {family} | {hidden:.0e} | {attention:.0e} | {kind} | {falls} |", flush=True)


def teacher_of(family: str, attention: str | None) -> Any:
    sizes = {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 192}
    if family == "distilbert":
        sizes = {DISTILBERT[name]: value for name, value in sizes.items()}
    # Larger weights than usual: attention of a random model is close to uniform otherwise, and proves nothing.
    values = {"vocab_size": 30522, "pad_token_id": 0, "initializer_range": 0.1} | sizes | ARCHITECTURES[family]
    set_seed(0)
    kwargs = {} if attention is None else {"attn_implementation": attention}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **values), **kwargs).eval()


@torch.no_grad()
def differences(model: Any, batch: Any) -> tuple[float, float]:
    """The largest absolute difference of hidden states, and of attention probabilities, at real positions."""
    encoder, inputs = Encoder.from_model(model), {name: batch[name] for name in ("input_ids", "attention_mask")}
    layers = range(1, encoder.num_layers + 1)
    capture = FeatureCapture(encoder, [0, *layers], layers)
    with capture.recording() as features:
        output = model.base_model(**inputs, output_hidden_states=True, output_attentions=True)
    capture.remove()
    real = inputs["attention_mask"].bool()
    # transformers 4.57 gives ModernBERT's last hidden state before the final LayerNorm, transformers 5 after it.
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    hidden = max(float((features.hidden[m] - state)[real].abs().max()) for m, state in enumerate(states))
    worst = 0.0
    for m, expected in enumerate(output.attentions, start=1):
        window = encoder.attention[m - 1].window
        found = attention_probabilities(features, m, encoder.num_heads, real, window)
        worst = max(worst, float((found - expected).transpose(1, 2)[real].abs().max()))
    return hidden, worst


def distil(teacher: Any, data: Dataset, tokenizer: Any, steps: int) -> tuple[str, list[dict[str, float]]]:
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96}
    student = create_student(teacher, TinyBertConfig.from_teacher(teacher.config, **sizes), init="random")
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationTrainingArguments(
            output_dir=folder,
            phases="joint",
            max_steps=steps,
            learning_rate=1e-3,
            per_device_train_batch_size=16,
            logging_steps=max(steps // 10, 1),
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = DistillationTrainer(
            model=student, args=args, teacher=teacher, train_dataset=data, processing_class=tokenizer
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    assert trainer._objective is not None
    heads = trainer._objective.settings.heads
    return "" if heads is None else heads.kind, trainer.state.log_history


def ends(log: list[dict[str, float]], kind: str) -> tuple[float, float]:
    """The mean over layers of a loss, at the first and the last report."""
    reports = [[value for name, value in entry.items() if name.startswith(f"loss_{kind}")] for entry in log]
    means = [sum(values) / len(values) for values in reports if values]
    return means[0], means[-1]


if __name__ == "__main__":
    main()
