"""Train and push, with a strategy of the Trainer or with an adapter."""

from __future__ import annotations

from pathlib import Path

import factories
from peft import LoraConfig

#: What they send is sent while training runs.
ONLY_TRAINED = ("every_save", "checkpoint", "all_checkpoints")


def train(teacher_folder, folder, strategy, token="hf_writer"):
    """Four steps, two checkpoints and, mostly, a last push with its card; returns what was measured."""
    teacher = factories.load(teacher_folder)
    args = factories.arguments(
        Path(folder) / strategy,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        logging_steps=1,
        push_to_hub=True,
        hub_model_id=f"me/{strategy}",
        hub_strategy="every_save" if strategy == "adapter" else strategy,
        hub_token=token,
        hub_always_push=True,
    )
    trainer = factories.trainer(
        factories.small_student(teacher, init="teacher"),
        teacher,
        args,
        peft_config=LoraConfig(task_type="SEQ_CLS", init_lora_weights=False) if strategy == "adapter" else None,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    if strategy in ONLY_TRAINED:
        return {}
    measured = trainer.evaluate() | trainer.evaluate_teacher()
    trainer.push_to_hub(commit_message="Done", language="en", license="apache-2.0", tags="requests")
    return measured
