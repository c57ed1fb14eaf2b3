"""From a student's folder to ONNX files, which are checked before they are moved into place."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert import tasks
from hf_tinybert.data.demo import demo_requests
from hf_tinybert.export import exporters
from hf_tinybert.export.card_section import with_section
from hf_tinybert.export.optimize import LEVELS, can_fuse, fuse
from hf_tinybert.export.quantize import Rows, to_int8
from hf_tinybert.export.session import ExportedModel, OnnxModel, milliseconds
from hf_tinybert.hub.upload import CARD_NAME, EXPORT_NAME, TOKENIZER_FILES, weights_sha256
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.loading import load_config, load_model, load_tokenizer, pipeline_tag
from hf_tinybert.models.peft import is_adapter
from hf_tinybert.utils.files import written_beside
from hf_tinybert.utils.latency import machine_name
from hf_tinybert.utils.types import Batch

logger = logging.getLogger(__name__)

AUTO = "auto"
QUANTISATIONS = ("int8", "int8-static", AUTO)
OPTIMISATIONS = (*LEVELS, AUTO)
FOLDER = "onnx"
#: `dtype` of transformers.js -> file.
FILES = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}
LENGTH = 128
#: A plain graph, which other engines read, too, is left for a fused one that is at least so many times faster.
_WORTH_FUSING = 1.05
#: Measures an open file, `fp32` or `int8`.
Check: TypeAlias = Callable[[str, ExportedModel], Mapping[str, float] | None]
_Made: TypeAlias = tuple[str | None, str | None]  # how a file was optimised and quantised


@dataclass(frozen=True)
class ExportedFile:
    """One file.

    Attributes:
        name: its path in the folder.
        optimize: level of `LEVELS`, or None.
        quantize: `"dynamic"`, `"static"` or None.
        difference: the largest difference of an output from PyTorch's on the sentences.
        size: bytes.
        milliseconds: median of one sequence on this machine, in turns with all that were tried.
        scores: what `check` measured, by name.
    """

    name: str
    optimize: str | None
    quantize: str | None
    difference: float
    size: int
    milliseconds: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        folder: that holds the files.
        exporter: `"optimum"` or `"torch"`.
        files: `fp32`, `int8` -> what was written.
        length: tokens of the sequence that was timed.
        machine: on which it was timed.
        threads: CPU threads that it was timed with.
    """

    folder: Path
    exporter: str
    files: Mapping[str, ExportedFile]
    length: int
    machine: str
    threads: int

    @property
    def fastest(self) -> str:
        """`"fp32"` or `"int8"`."""
        return min(self.files, key=lambda kind: self.files[kind].milliseconds)


def export_onnx(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    optimize: str | None = AUTO,
    calibration: Rows | None = None,
    tolerance: float = 1e-4,
    sentences: Sequence[str] = (),
    check: Check | None = None,
    threads: int | None = None,
) -> Export:
    """Write `onnx/model.onnx` of a student, configuration and tokenizer beside it: what transformers.js reads, too.

    A card (`README.md`) in the student's own folder gets a section on the files, with what was measured.

    Args:
        model_dir: folder or Hub id of a student of any task.
        output_dir: where to; by default the student's own folder.
        quantize: `"int8"` also writes `onnx/model_quantized.onnx`, dynamically quantised; `"int8-static"` statically;
            `"auto"` whichever is faster here and passes `check`, and none that is slower than float32.
        optimize: None leaves the graph as it was exported; `"O1"`, `"O2"`, `"O3"` are Optimum's levels; `"auto"` takes
            the faster of the plain graph and `"O2"` on this machine, for each file, and the plain one where they are
            within 5%: other engines than ONNX Runtime read only that.
        calibration: for static quantisation: rows as the tokenizer makes them, a `Dataset` for instance.
        tolerance: the largest difference that an output of the float32 file may have from PyTorch's.
        sentences: on which they are compared; those of the package's demo by default.
        check: is called with `"fp32"` or `"int8"` and the opened file (its `path` says which), before it is moved to
            its place; returns scores for the card, or None. If it raises a `ValueError`, the next fastest is tried; if
            none is left, everything stays as it was.
        threads: CPU threads while files are timed; PyTorch's own number by default.

    Returns:
        Which files were written, and what was measured.

    Raises:
        ValueError: an argument is wrong, or a file's outputs differ from the model's; nothing is left behind then.
        ImportError: says what to install.
    """
    _refuse(model_dir, output_dir, quantize, optimize, calibration)
    source = os.fspath(model_dir)
    model, tokenizer, inputs = opened(source, sentences)
    length, threads = Encoder.from_model(model).at_most(LENGTH), threads or torch.get_num_threads()
    with written_beside(output_dir or source) as staging:
        onnx, scratch = Path(staging) / FOLDER, Path(staging) / "candidates"
        onnx.mkdir()
        scratch.mkdir()
        graphs, exporter = _graphs(model, scratch, optimize)
        candidates: dict[_Made, Path] = {(level, None): file for level, file in graphs.items()}
        candidates |= _quantised(model, graphs, scratch, quantize, calibration)
        times = milliseconds(candidates, model.config, length, threads)
        order = sorted(candidates, key=lambda made: times[made] * (1 if made[0] is None else _WORTH_FUSING))

        def take(kind: str, made: _Made) -> ExportedFile:
            file = onnx / FILES[kind]
            shutil.copyfile(candidates[made], file)
            try:
                exported = OnnxModel(file, model.config)
                largest = difference(model, exported, inputs)
                refuse_difference(largest, tolerance if kind == "fp32" else math.inf)
                scores = (check(kind, exported) if check is not None else None) or {}
            except ValueError:
                file.unlink()
                raise
            return ExportedFile(f"{FOLDER}/{FILES[kind]}", *made, largest, file.stat().st_size, times[made], scores)

        files = {"fp32": _first_that_passes("fp32", [made for made in order if made[1] is None], take)}
        in_int8 = [made for made in order if made[1] is not None]
        if quantize == AUTO:
            in_int8 = [made for made in in_int8 if times[made] < files["fp32"].milliseconds]
        try:
            if in_int8:
                files["int8"] = _first_that_passes("int8", in_int8, take)
        except ValueError as error:
            if quantize != AUTO:
                raise
            logger.warning(f"No {FILES['int8']} was written: {error}")
        shutil.rmtree(scratch)
        done = Export(Path(output_dir or source), exporter, files, length, machine_name("cpu"), threads)
        if output_dir is not None:
            copy_beside(source, Path(staging), model, tokenizer)
        elif (card := Path(source) / CARD_NAME).is_file():
            page = with_section(card.read_text(encoding="utf-8"), done, pipeline_tag(model))
            (Path(staging) / CARD_NAME).write_text(page, encoding="utf-8")
        write_facts(done, source, onnx)
    for kind in FILES.keys() - files.keys():  # of an earlier export, of other weights perhaps
        (done.folder / FOLDER / FILES[kind]).unlink(missing_ok=True)
    return done


def write_facts(done: Export, source: str, folder: Path) -> None:
    """Write `export.json`: measurements, and the digest of the weights, by which a stale export is recognised."""
    facts = {
        "weights": weights_sha256(source) if os.path.isdir(source) else None,
        "exporter": done.exporter,
        "machine": done.machine,
        "threads": done.threads,
        "length": done.length,
        "files": {kind: asdict(file) for kind, file in done.files.items()},
    }
    (folder / EXPORT_NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def refuse_difference(largest: float, tolerance: float) -> None:
    """Refuse a file whose outputs differ from the model's by more than the tolerance, or are not finite.

    Raises:
        ValueError: they do.
    """
    if not largest <= tolerance or math.isinf(largest):
        raise ValueError(
            f"The exported model's outputs differ from PyTorch's by up to {largest:.2g}, more than the tolerance of "
            f"{tolerance:g}: nothing was written."
        )


def _first_that_passes(
    kind: str, candidates: Sequence[_Made], take: Callable[[str, _Made], ExportedFile]
) -> ExportedFile:
    """The first of them that `take` accepts; what it said of the last, if it accepts none."""
    for made in candidates[:-1]:
        try:
            return take(kind, made)
        except ValueError as error:
            logger.info(f"{FILES[kind]} is not {made[0] or 'the plain graph'}, {made[1] or 'float32'}: {error}")
    return take(kind, candidates[-1])


def _refuse(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str] | None,
    quantize: str | None,
    optimize: str | None,
    calibration: Rows | None,
) -> None:
    """What cannot be done.

    Raises:
        ValueError: says which.
    """
    if quantize is not None and quantize not in QUANTISATIONS:
        raise ValueError(f"quantize must be None or one of {', '.join(QUANTISATIONS)}; got {quantize!r}.")
    if optimize is not None and optimize not in OPTIMISATIONS:
        raise ValueError(f"optimize must be None or one of {', '.join(OPTIMISATIONS)}; got {optimize!r}.")
    if quantize == "int8-static" and not calibration:
        raise ValueError("quantize='int8-static' needs calibration data, rows of the training data for instance.")
    if quantize == "int8-static" and optimize not in (None, AUTO):
        raise ValueError(
            f"quantize='int8-static' takes the plain graph, whose operators can be calibrated; got "
            f"optimize={optimize!r}."
        )
    refuse_place(model_dir, output_dir, "ONNX")


def refuse_place(model_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str] | None, what: str) -> None:
    """Refuse to write into a student's own folder where there is none, or where the files would not fit it.

    Raises:
        ValueError: says which.
    """
    if output_dir is None and not os.path.isdir(model_dir):
        raise ValueError(f"{model_dir} is no folder: say with output_dir where its {what} files go.")
    if output_dir is None and is_adapter(model_dir):
        raise ValueError(
            f"{model_dir} holds a LoRA adapter, which {what} does not know: say with output_dir where the files of "
            "the merged model go."
        )


def _graphs(model: PreTrainedModel, scratch: Path, optimize: str | None) -> tuple[dict[str | None, Path], str]:
    """Optimisation level -> file in float32, and what exported them."""
    plain = scratch / "plain.onnx"
    exporter = exporters.write(model, plain)
    level = optimize
    if optimize == AUTO:
        level = "O2" if can_fuse(model) else None
    if level is None:
        return {None: plain}, exporter
    fused = scratch / f"{level}.onnx"
    fuse(model, plain, fused, level)
    return {level: fused} | ({None: plain} if optimize == AUTO else {}), exporter


def _quantised(
    model: PreTrainedModel,
    graphs: Mapping[str | None, Path],
    scratch: Path,
    quantize: str | None,
    calibration: Rows | None,
) -> dict[_Made, Path]:
    """How it was made -> file in 8 bits, of all that `quantize` asks for."""
    wanted: list[_Made] = []
    if quantize in ("int8", AUTO):
        wanted += [(level, "dynamic") for level in graphs]
    if None in graphs and calibration and quantize in ("int8-static", AUTO):
        wanted.append((None, "static"))
    files = {}
    for level, mode in wanted:
        files[level, mode] = scratch / f"{level}-{mode}.onnx"
        rows = calibration if mode == "static" else None
        to_int8(graphs[level], files[level, mode], model.config, rows)
    return files


@torch.inference_mode()
def difference(model: PreTrainedModel, exported: ExportedModel, inputs: Batch) -> float:
    """The largest difference of any output at real positions."""
    accepted = exported.inputs.complete(inputs)
    expected, outputs = model(**accepted, return_dict=True), exported(**accepted)
    real = inputs["attention_mask"].bool()
    of_tokens = pipeline_tag(model) != "text-classification"
    worst = torch.zeros(())
    for name in exported.outputs:
        differences = (expected[name] - outputs[name]).abs()
        worst = torch.maximum(worst, (differences[real] if of_tokens else differences).max())  # NaN stays NaN
    return float(worst)


def opened(
    source: str, sentences: Sequence[str] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Tensor]]:
    """A student in float32 and eval mode, its tokenizer, and a batch of sentences to compare on."""
    task = tasks.of_model(load_config(source, "model")) or "feature-extraction"
    model = load_model(source, tasks.TASKS[task].auto, role="model").to("cpu").float().eval()
    tokenizer = load_tokenizer(source, "model")
    texts, longest = list(sentences) or demo_requests(), Encoder.from_model(model).at_most(LENGTH)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    return model, tokenizer, dict(inputs)


def copy_beside(source: str, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Copy configuration and tokenizer, without weights."""
    model.config.save_pretrained(folder)
    files = [path for path in Path(source).glob("*") if path.is_file() and path.name in TOKENIZER_FILES]
    for path in files:
        shutil.copyfile(path, folder / path.name)
    if not files:  # of a Hub id, or an adapter whose base brings it
        tokenizer.save_pretrained(folder)
