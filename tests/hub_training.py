"""Train and push, with each strategy or "adapter": `python hub_training.py TEACHER FOLDER STRATEGY...`"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import workbench
from peft import LoraConfig

teacher_folder, folder, *strategies = sys.argv[1:]
for strategy in strategies:
    teacher = workbench.load(teacher_folder)
    args = workbench.arguments(
        Path(folder) / strategy,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        logging_steps=1,
        push_to_hub=True,
        hub_model_id=f"me/{strategy}",
        hub_strategy="every_save" if strategy == "adapter" else strategy,
        hub_token=os.environ.get("TRAINING_TOKEN", "hf_writer"),
        hub_always_push=True,
    )
    trainer = workbench.trainer(
        workbench.small_student(teacher, init="teacher"),
        teacher,
        args,
        peft_config=LoraConfig(task_type="SEQ_CLS") if strategy == "adapter" else None,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    measured = trainer.evaluate() | trainer.evaluate_teacher()
    trainer.push_to_hub(commit_message="Done", language="en", license="apache-2.0", tags="requests")
    print("MEASURED", json.dumps({"strategy": strategy} | measured), flush=True)
