"""What a teacher of BERT-base's size teaches: starts, levels and losses compared on SST-2.

    python examples/benchmarks/base_teacher.py --data ../shared/data

The teacher is all-mpnet-base-v2 (12 layers, 768 wide; mpnet.py), fine-tuned for one epoch on the 10,000 sentences of
results.py; the student `tinybert-4l-312d`, 1,100 steps of 32 on the same sentences, seed 0, default arguments (the
teacher's features are cached in float32, which saves time and changes nothing). A row is a start and what is learnt
from it:

- teacher, minilm, minilm-tuned, random: `--student-init teacher`, all-MiniLM-L6-v2's folder, that of a MiniLM
  fine-tuned on the same sentences (two epochs), `random`;
- whole: all levels; plain: the paper's sums (`--loss-scaling none`); logits: `--phases prediction`; gold: labels.

Every row is an ordinary `hf-tinybert` command, printed before it runs. A finished run is not repeated, and an
interrupted one goes on from its last checkpoint. `--table` only prints what is there. On two cores a run in which the
teacher's layers are compared takes about twenty minutes, another one five to ten, the teachers half an hour.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import mpnet
import results

STARTS = ("teacher", "minilm", "minilm-tuned", "random")
OUTPUTS = ["--phases", "prediction", "--learning-rate", "3e-4"]
WAYS = {
    "whole": [],
    "plain": ["--loss-scaling", "none"],
    "logits": [*OUTPUTS, "--teacher-cache", "logits"],
    "gold": [*OUTPUTS, "--prediction-weight", "0", "--hard-label-weight", "1"],
}
ROWS = [f"{start} {way}" for way in WAYS for start in (STARTS if way == "whole" else STARTS[:3])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with glue/")
    parser.add_argument("--output", type=Path, default=Path("runs/base-teacher"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help="such as 'teacher whole'")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    if not options.table:
        files = results.prepare(results.TASKS["sst2"], options.data, options.output)
        finetune(str(mpnet.fetch(options.output / "pretrained")), "teacher", 1, "3e-5", files, options.output)
        if any(row.startswith("minilm-tuned") for row in options.rows):
            finetune(results.body(), "minilm-tuned", 2, "5e-5", files, options.output)
        for row in options.rows:
            for steps in (0, options.steps):
                distil(row, steps, files, options.output)
    print(table(options))


def finetune(model: str, name: str, epochs: int, rate: str, files: dict[str, Path], folder: Path) -> None:
    output = folder / name
    if (output / "eval_results.json").is_file():
        return
    command = ["finetune", "--model", model, *results.data_flags(files, "train"), "--output-dir", str(output)]
    command += ["--num-train-epochs", str(epochs), "--learning-rate", rate, *results.warmup_flags(), *common()]
    results.run_on(command, output, folder / f"{name}.log", threads=os.cpu_count() or 1)


def common() -> list[str]:
    flags = ["--per-device-train-batch-size", "32", "--logging-steps", "100", "--disable-tqdm", "True"]
    return [*flags, "--save-steps", "200", "--save-total-limit", "1", "--use-cpu", "--seed", "0"]


def distil(row: str, steps: int, files: dict[str, Path], folder: Path) -> None:
    """One run; of no steps, one at a rate of 0, which leaves the start as it is. All rows of a start share that."""
    start, way = row.split()
    output = run_folder(row, steps, folder)
    if (output / "eval_results.json").is_file():
        return
    init = {"minilm": results.body(), "minilm-tuned": str(folder / "minilm-tuned")}.get(start, start)
    command = ["distill", "--teacher", str(folder / "teacher"), "--student", "tinybert-4l-312d"]
    command += ["--student-init", init, *results.data_flags(files, "train"), "--output-dir", str(output), *common()]
    nothing = ["--max-steps", "1", "--learning-rate", "0", "--phases", "prediction"]
    command += [*WAYS[way], "--max-steps", str(steps)] if steps else nothing
    if steps and way in ("whole", "plain"):
        command += ["--teacher-cache", "features", "--teacher-cache-dtype", "float32"]
    command += ["--teacher-cache-dir", str(folder / "teacher_cache")]
    results.run_on(command, output, output.with_suffix(".log"), threads=os.cpu_count() or 1)


def run_folder(row: str, steps: int, folder: Path) -> Path:
    start, way = row.split()
    return folder / (f"{start}-{way}-{steps}" if steps else f"{start}-start")


def table(options: argparse.Namespace) -> str:
    """Markdown: accuracy, agreement with the teacher and KL divergence, before and after."""
    teacher = results.measured(options.output / "teacher", "eval").get("eval_accuracy")
    lines = [f"\nteacher {100 * teacher:.2f}\n" if teacher else "\nno teacher yet\n"]
    lines += ["| start | what is learnt | before | after | agreement | divergence |", "| --- | --- |" + " ---: |" * 4]
    for row in ROWS:
        before, after = (
            results.measured(run_folder(row, steps, options.output), "eval") for steps in (0, options.steps)
        )
        if after:
            cells = [f"{100 * m['eval_accuracy']:.2f}" if m else "-" for m in (before, after)]
            cells += [f"{100 * after['eval_agreement']:.1f}%", f"{after['eval_kl']:.3f}"]
            lines.append(f"| {' | '.join([*row.split(), *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
