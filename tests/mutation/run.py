"""What the suite is worth: small faults, put into the package one at a time, that the tests should find.

    python tests/mutation/run.py            # all of it, or what is missing of it
    python tests/mutation/run.py --table    # what has been found so far

The faults ("mutants") are cosmic-ray's, a seeded sample of ten for each module of `MODULES` or all that it has, one at
a place. For each, the tests that cover its line (in child processes too) are run until one fails, the quickest first,
for `--limit` seconds; those that run out of time are then run again without a limit. Faults are put into a copy of the
repository, never into the checkout. Everything is kept in `--folder` as it is found, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    "losses",
    "layer_mapping",
    "distillation/batch_counts",
    "distillation/phases",
    "distillation/projections",
    "distillation/attention_matching",
    "distillation/output_matching",
    "models/label_alignment",
    "student/teacher_init",
    "teacher/cache/key",
    "teacher/cache/rows",
    "teacher/cache/store",
    "hub/checkpoints",
    "augmentation/variants",
    "student/vocabulary",
]
COPIED = ["hf_tinybert", "tests", "examples", "docs", "pyproject.toml", "README.md", "mkdocs.yml", "Makefile"]
#: What tests import beside the package.
PRELOADED = [
    "accelerate",
    "datasets",
    "hypothesis",
    "matplotlib.pyplot",
    "peft",
    "psutil",
    "pytest",
    "scipy.stats",
    "sentence_transformers",
    "sklearn.metrics",
    "torch.utils.flop_counter",
    "torchmetrics",
    "transformers.trainer",
]
#: Seconds for a mutant "without a limit": longer is a hang, or a suite that takes longer; nobody has seen which.
HANG = 1800
COVERAGE = """[run]
source_pkgs = hf_tinybert
data_file = {folder}/coverage/data
parallel = true
context = ${{COVERAGE_CONTEXT-}}
patch = subprocess, fork, _exit
"""


@dataclass(frozen=True)
class Mutant:
    """One fault: what is written instead of a module's text."""

    module: str
    line: int
    operator: str
    occurrence: int
    diff: str

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line}:{self.operator}:{self.occurrence}"

    def text(self) -> str:
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        return str(mutate_code(source(self.module), get_operator(self.operator)(), self.occurrence))


def source(module: str) -> str:
    return (ROOT / "hf_tinybert" / f"{module}.py").read_text(encoding="utf-8")


def meaning(text: str) -> str:
    """A module without its annotations and docstrings: what runs."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def mutants_of(module: str, count: int, seed: int) -> list[Mutant]:
    """A sample of places in a module, with one of the faults that each allows."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    text = source(module)
    tree, places = get_ast(text), {}
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue
        positions = (at for node in ast_nodes(tree) for at, _ in operator().mutation_positions(node))
        for occurrence, at in enumerate(positions):
            places.setdefault(at, []).append((name, occurrence))
    source_of_chance = random.Random(f"{seed} {module}")
    order = sorted(places)
    source_of_chance.shuffle(order)
    chosen, plain = [], meaning(text)
    for at in order:
        name, occurrence = source_of_chance.choice(places[at])
        changed = str(mutate_code(text, get_operator(name)(), occurrence))
        try:
            if meaning(changed) == plain:
                continue
        except SyntaxError:
            continue
        lines = difflib.unified_diff(text.splitlines(), changed.splitlines(), n=0, lineterm="")
        diff = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
        chosen.append(Mutant(module, at[0], name, occurrence, diff))
        if len(chosen) == count:
            break
    return sorted(chosen, key=lambda mutant: mutant.line)


class Study:
    """One suite and the faults that it is to find.

    Args:
        suite: a checkout with the tests and, in `hf_tinybert`, the same modules as here.
        folder: for everything that is kept.
    """

    def __init__(self, suite: Path, folder: Path) -> None:
        self.suite, self.folder = suite.resolve(), folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results_path = self.folder / "results.json"

    def environment(self, **more: object) -> dict[str, str]:
        paths = os.pathsep.join([str(self.suite), str(self.suite / "tests"), str(Path(__file__).parent)])
        settings = {"PYTHONPATH": paths, "OMP_NUM_THREADS": 1, "PYTHONDONTWRITEBYTECODE": 1}
        return os.environ | {name: str(value) for name, value in (settings | more).items()}

    def cover(self) -> None:
        """Run the suite once, to know which tests pass, how long they take, and what they cover."""
        if (self.folder / "tests.json").is_file():
            return
        shutil.rmtree(self.folder / "coverage", ignore_errors=True)
        (self.folder / "coverage").mkdir()
        settings = self.folder / "coveragerc"
        settings.write_text(COVERAGE.format(folder=self.folder), encoding="utf-8")
        command = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-p", "contexts", "-q"]
        environment = self.environment(COVERAGE_RCFILE=settings, COVERAGE_TESTS=self.folder / "tests.part")
        subprocess.run(command, cwd=self.suite, env=environment, check=False)
        combine = [sys.executable, "-m", "coverage", "combine", "-q", f"--rcfile={settings}"]
        subprocess.run(combine, cwd=self.suite, env=environment, check=True)
        (self.folder / "tests.part").rename(self.folder / "tests.json")

    def collected(self) -> set[str]:
        """Names of the tests as they are now: the suite may have changed since it was covered."""
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            command, cwd=self.suite, env=self.environment(), capture_output=True, text=True, check=True
        )
        return {line for line in done.stdout.splitlines() if line.startswith("tests/")}

    def covering(self, mutants: list[Mutant]) -> dict[str, list[str]]:
        """Name of a mutant -> tests that cover its line, the quickest first."""
        from coverage import CoverageData

        data = CoverageData(str(self.folder / "coverage" / "data"))
        data.read()
        seen = json.loads((self.folder / "tests.json").read_text(encoding="utf-8"))
        tests, fixtures, there = seen["tests"], seen["fixtures"], self.collected()
        passing = {name for name, seen in tests.items() if set(seen["outcomes"]) == {"passed"}}
        package = f"{self.suite}/hf_tinybert/"
        lines = {
            path.removeprefix(package).removesuffix(".py"): data.contexts_by_lineno(path)
            for path in data.measured_files()
            if path.startswith(package)
        }
        found = {}
        for mutant in mutants:
            folder, _, module = mutant.module.rpartition("/")
            mirror = "/".join(filter(None, ["tests", folder, f"test_{module}.py::"]))
            own = {name for name in there if name.startswith(mirror)}
            contexts = set(lines[mutant.module].get(mutant.line, ()))
            at_import = not contexts - {""}
            if at_import:  # whoever covers the module may notice, and what a class is shows without its lines
                contexts = {context for every in lines[mutant.module].values() for context in every}
            names = {name for context in contexts for name in self._tests_of(context, tests)} & passing & there
            # Of the module's own file also what was written since the suite was covered.
            names |= own if at_import else own - tests.keys()
            found[mutant.name] = sorted(names, key=lambda name: self._cost(name, tests.get(name, {}), fixtures))
        return found

    @staticmethod
    def _cost(name: str, test: dict, fixtures: dict[str, float]) -> float:
        """Seconds of a test by itself, with the shared fixtures that it needs; 0 if it is not known."""
        if not test:
            return 0.0
        shared = (key.rpartition("::") for key in fixtures)
        needed = (f"{base}::{one}" for base, _, one in shared if name.startswith(base) and one in test["fixtures"])
        return float(test["seconds"]) + sum(fixtures[key] for key in needed)

    @staticmethod
    def _tests_of(context: str, tests: dict) -> list[str]:
        kind, _, name = context.partition(":")
        if kind == "test":
            return [name]
        if kind == "fixture":
            base, _, fixture = name.rpartition("::")
            return [test for test, seen in tests.items() if test.startswith(base) and fixture in seen["fixtures"]]
        return []

    def results(self) -> dict[str, dict]:
        return json.loads(self.results_path.read_text(encoding="utf-8")) if self.results_path.is_file() else {}

    def keep(self, mutant: Mutant, result: dict) -> None:
        results = self.results() | {mutant.name: asdict(mutant) | result}
        beside = self.results_path.with_suffix(".part")
        beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.results_path)

    def kill(self, mutants: list[Mutant], limit: float | None) -> None:
        """Run the tests against every mutant that has no result yet, or, without a limit, that ran out of time."""
        tests, results = self.covering(mutants), self.results()
        for mutant in mutants:
            known = results.get(mutant.name, {}).get("outcome")
            if known not in ((None,) if limit else (None, "out of time")):
                continue
            chosen = tests[mutant.name]
            start = time.monotonic()
            outcome, by = self.try_one(mutant, chosen, limit or HANG) if chosen else ("survived", "")
            if outcome == "out of time" and limit is None:
                outcome = "hung"
            seconds = round(time.monotonic() - start, 1)
            self.keep(mutant, {"outcome": outcome, "by": by, "tests": len(chosen), "seconds": seconds})
            print(f"{mutant.name}: {outcome} in {seconds} s of {len(chosen)} tests {by}", flush=True)

    def try_one(self, mutant: Mutant, tests: list[str], limit: float) -> tuple[str, str]:
        """The outcome of a mutant, and the test that found it."""
        path = self.suite / "hf_tinybert" / f"{mutant.module}.py"
        before = path.read_text(encoding="utf-8")
        assert before == source(mutant.module), f"{path} is another module than the one that was sampled"
        report = self.folder / "report"
        report.unlink(missing_ok=True)
        path.write_text(mutant.text(), encoding="utf-8")
        try:
            child = os.fork()
            if child == 0:
                os._exit(self._tested(tests, report))
            deadline = time.monotonic() + limit
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return "out of time", ""
                time.sleep(0.05)
        finally:
            path.write_text(before, encoding="utf-8")
        by = report.read_text(encoding="utf-8") if report.is_file() else ""
        code = os.waitstatus_to_exitcode(ended[1])
        if code == pytest.ExitCode.USAGE_ERROR:  # the tests' own conftest.py cannot import the package any more
            return "killed", by or "import"
        if code != 0 and not by:
            raise RuntimeError(
                f"{mutant.name}: pytest ended with {code} and no test failed, see {self.folder}/last.log"
            )
        return ("killed" if code else "survived"), by

    def _tested(self, tests: list[str], report: Path) -> int:
        os.setpgid(0, 0)
        os.environ.update(self.environment())
        os.chdir(self.suite)
        sys.path[:0] = [str(self.suite), str(self.suite / "tests")]
        sys.dont_write_bytecode = True
        with open(self.folder / "last.log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        import torch

        torch.set_num_threads(1)

        class Report:
            def pytest_runtest_logreport(self, report: pytest.TestReport, path=report) -> None:
                if report.failed:
                    path.write_text(report.nodeid, encoding="utf-8")

            pytest_collectreport = pytest_runtest_logreport

        folder = tempfile.gettempdir()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-m", ""]
        # A few at a time: most faults are found at once, and collecting every file takes longer than that.
        for start, end in ((0, 10), (10, 60), (60, len(tests))):
            os.environ["TMPDIR"] = tempfile.tempdir = folder
            if tests[start:end] and (code := pytest.main([*options, *tests[start:end]], plugins=[Report()])):
                return int(code)
        return 0


def preload() -> None:
    """Import once what every test imports, but nothing of what is changed."""
    for name in PRELOADED:
        importlib.import_module(name)
    import transformers

    for name in ("AutoModel", "AutoTokenizer", "Trainer", "BertForSequenceClassification", "pipeline"):
        getattr(transformers, name)
    assert "hf_tinybert" not in sys.modules


def table(results: dict[str, dict]) -> str:
    counts = {module: Counter() for module in MODULES}
    for result in results.values():
        counts[result["module"]][result["outcome"]] += 1
    lines = ["| module | mutants | killed | survived | out of time |", "| --- | ---: | ---: | ---: | ---: |"]
    total: Counter = Counter()
    for module, seen in [*counts.items(), ("all", total)]:
        undecided = seen["out of time"] + seen["hung"]
        lines.append(f"| `{module}` | {seen.total()} | {seen['killed']} | {seen['survived']} | {undecided} |")
        total += seen if module != "all" else Counter()
    return "\n".join(lines)


def copy(folder: Path) -> Path:
    """The checkout as it is, for faults to be put into."""
    target = folder / "checkout" / "main"
    shutil.rmtree(target.parent, ignore_errors=True)
    for name in COPIED:
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, target / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(origin, target / name)
    for name in (".venv", ".venv-latest"):
        (target / name).symlink_to(ROOT / name)
    if (ROOT.parent / "shared").is_dir():
        (target.parent / "shared").symlink_to(ROOT.parent / "shared")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "mutation", help="for all that is kept")
    parser.add_argument("--suite", type=Path, help="another checkout, whose tests are to be tried")
    parser.add_argument("--count", type=int, default=10, help="mutants of a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a mutant in the first round")
    parser.add_argument("--modules", nargs="*", default=MODULES, choices=MODULES)
    parser.add_argument("--table", action="store_true", help="print what is known and stop")
    options = parser.parse_args()
    study = Study(options.suite or options.folder / "checkout" / "main", options.folder)
    if not options.table:
        if options.suite is None and not (options.folder / "tests.json").is_file():
            copy(options.folder)
        os.environ["HF_TINYBERT_TEST_CACHE"] = str(options.folder.resolve() / "cache")
        study.cover()
        mutants = [m for module in options.modules for m in mutants_of(module, options.count, options.seed)]
        preload()
        study.kill(mutants, options.limit)
        study.kill(mutants, None)
    print(table(study.results()))


if __name__ == "__main__":
    main()
