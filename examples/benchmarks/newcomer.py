"""The README's way from a CSV file to answers, in an empty folder, with a stopwatch.

    python examples/benchmarks/newcomer.py --csv mine.csv --repository https://...

Runs the block of README.md that names `mine.csv`, each command as written, in one shell, and prints how long each took
and how large the folder became. `--csv` is copied to `mine.csv`; without it, 500 household requests that come with the
package. `--held-out` measures teacher and student afterwards on a file that neither has seen (by default 300 more
requests). Models come from the Hub, or from wherever HF_ENDPOINT says.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "hf_tinybert" / "data" / "demo_data"
ROWS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", type=Path, help="rows with a text and a label")
    parser.add_argument("--held-out", type=Path, help="more such rows")
    parser.add_argument("--repository", default=ROOT.as_uri(), help="what git clones; by default this folder")
    parser.add_argument("--folder", type=Path, help="where; by default a new temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="newcomer-"))
    folder.mkdir(parents=True, exist_ok=True)
    if options.csv:
        shutil.copy(options.csv, folder / "mine.csv")
    else:
        write(folder / "mine.csv", "train", ROWS)
    commands = [line.replace("<this repository>", options.repository) for line in block()]
    timed = [f"echo '$' {shlex.quote(line)}; SECONDS=0; {line}; echo \"[$SECONDS s]\"" for line in commands]
    subprocess.run(["bash", "-euc", "\n".join(timed)], cwd=folder, check=True)
    if not options.held_out:
        write(folder / "held-out.csv", "test", None)
    held_out = options.held_out or Path("held-out.csv")
    for model in ("teacher", "student"):
        evaluate = ["env/bin/hf-tinybert", "evaluate", "--model", model, "--test-file", str(held_out)]
        subprocess.run(evaluate, cwd=folder, check=True)
    print(", ".join(f"{name}: {megabytes(folder / name):.0f} MB" for name in ("env", "student")), "in", folder)


def block() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = (found for found in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "mine.csv" in found)
    return [line for line in found.replace("\\\n", " ").splitlines() if line.strip()]


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def write(path: Path, split: str, count: int | None) -> None:
    with (DEMO / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"text": row["text"], "label": row["intent"]} for row in csv.DictReader(file)][:count]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
