"""`hf-tinybert finetune`: an ordinary fine-tuning run with transformers' own Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, TrainingArguments, set_seed

from hf_tinybert import tasks
from hf_tinybert.cli import arguments
from hf_tinybert.data import loading
from hf_tinybert.hub import checkpoints
from hf_tinybert.hub.trainer import HubTrainer
from hf_tinybert.models.loading import check_folder, load_tokenizer


@dataclass
class FinetuneArguments:
    """Which model to fine-tune."""

    model: str = field(metadata={"help": "Hub id or folder of a pretrained encoder."})
    task: str = field(
        default="text-classification",
        metadata={"help": "What to fine-tune it for.", "choices": list(tasks.WITH_LABELS)},
    )


def run(argv: Sequence[str]) -> None:
    """Fine-tune `--model` on the training data and leave it, with its tokenizer, in `--output-dir`."""
    model_args, data_args, training_args = arguments.parse(
        "finetune",
        "Fine-tune an encoder for a task.",
        (FinetuneArguments, loading.DataArguments, TrainingArguments),
        argv,
        save_strategy="no",
        **arguments.TRAINING_DEFAULTS,
    )
    task = tasks.start(model_args.task, None, data_args, training=True)
    check_folder(model_args.model, "model")
    set_seed(training_args.seed)
    model = _load(model_args.model, task)
    loading.check_max_length(data_args.max_length, model.config.max_position_embeddings, "the model")
    tokenizer = load_tokenizer(model_args.model, "model", task.single_words)
    encoded = task.encode(tokenizer, model.config)
    trainer = HubTrainer(model=model, args=training_args, processing_class=tokenizer, **encoded.trainer_arguments())
    resumed = arguments.resume(training_args)
    if resumed is True:
        resumed = checkpoints.to_resume_from(training_args.output_dir, distilled=False)
    trainer.train(resume_from_checkpoint=resumed)
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise FloatingPointError(
            f"The weights are not numbers any more after {trainer.state.global_step} steps, and are not saved: lower "
            f"--learning-rate ({training_args.learning_rate}), or use --bf16 or float32 instead of --fp16."
        )
    trainer.save_model()
    trainer.save_state()
    for split in ("eval", "test"):
        if split in encoded.splits:
            trainer.compute_metrics = encoded.metrics[split]
            measured = trainer.evaluate(encoded.splits[split], metric_key_prefix=split)
            trainer.save_metrics(split, measured)
            print(f"{split} {encoded.leading}: {measured[f'{split}_{encoded.leading}']:.4f}")


def _load(name: str, task: tasks.Task) -> PreTrainedModel:
    """A model with a head for the task; a head for another number of labels is refused.

    It is float32, whatever the checkpoint is: transformers 5 would train one of half precision as it is, into NaN.
    """
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"The model folder {name} holds no model: there is no config.json in it.")
    kwargs = task.config_kwargs()
    try:
        model: PreTrainedModel
        model, info = task.auto.from_pretrained(name, output_loading_info=True, dtype=torch.float32, **kwargs)
        task.start_head(model, info["missing_keys"])
        return model
    except (SafetensorError, RuntimeError) as error:
        wanted = f"{kwargs['num_labels']} label(s)" if "num_labels" in kwargs else "this task"
        raise ValueError(
            f"The model {name} cannot be loaded with a head for {wanted}: {str(error).splitlines()[0]} Was "
            "it fine-tuned for other labels? Start from a pretrained encoder."
        ) from None
