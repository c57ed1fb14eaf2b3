"""What an untrained student answers rightly that started from its teacher's weights, with and without seen texts.

    python examples/benchmarks/starts.py --data ../shared/data

Teachers and texts are those of results.py (10,000 training sentences each), which trains the teachers where they are
not there yet. Without texts, `create_student` looks at random tokens while it reduces the teacher. Two minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import results
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hf_tinybert import DistillationTrainer, DistillationTrainingArguments, create_student
from hf_tinybert.evaluation.metrics import accuracy

TEXT = {"sst2": "sentence", "clinc150": "text"}
STUDENTS = ("tinybert-4l-312d", "tinybert-6l-168d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/ and clinc150/")
    parser.add_argument("--results", type=Path, default=Path("runs/results"), help="where results.py keeps its runs")
    options = parser.parse_args()
    print("| task | student | random tokens | texts |\n| --- | --- | ---: | ---: |")
    for name, task in results.TASKS.items():
        folder = options.results / name
        files = results.prepare(task, options.data, folder)
        results.train_teacher(task, files, folder)
        for student in STUDENTS:
            blind, seeing = (
                measure(name, files, task.score_file, folder / "teacher", student, seen) for seen in (0, 1)
            )
            print(f"| {name} | `{student}` | {100 * blind:.2f} | {100 * seeing:.2f} |", flush=True)


def measure(name: str, files: dict[str, Path], split: str, folder: Path, student: str, seen: int) -> float:
    """The accuracy of an untrained student."""
    teacher = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenised(path: Path):
        if path.suffix == ".tsv":
            rows = load_dataset("csv", data_files=str(path), delimiter="\t", quoting=3, split="train")
        else:
            rows = load_dataset("json", data_files=str(path), split="train")
        rows = rows.map(lambda row: {"labels": teacher.config.label2id[str(row["label"])]}, remove_columns="label")
        return rows.map(lambda batch: tokenizer(batch[TEXT[name]], truncation=True, max_length=128), batched=True)

    set_seed(0)
    trainer = DistillationTrainer(
        model=student if seen else create_student(teacher, student),
        teacher=teacher,
        args=DistillationTrainingArguments(
            str(folder.parent / "untrained"),
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            report_fidelity=False,
            per_device_eval_batch_size=64,
        ),
        train_dataset=tokenised(files["train"]),
        eval_dataset=tokenised(files[split]),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    return trainer.evaluate()["eval_accuracy"]


if __name__ == "__main__":
    main()
