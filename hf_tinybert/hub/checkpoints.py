"""The distillation's part of a checkpoint, and which checkpoints are complete."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.phases import PhasePlan
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.distillation.run_start import RunStart
from hf_tinybert.models import peft
from hf_tinybert.student.start_fidelity import StartFidelity
from hf_tinybert.training_args import DistillationTrainingArguments

PROJECTIONS_NAME = "distillation_projections.safetensors"
STATE_NAME = "distillation_state.json"
_TRAINING_STATE, _DISTILLATION_STATE = ("scheduler.pt",), (PROJECTIONS_NAME, STATE_NAME)
#: The optimiser's file or folder, of the Trainer and of FSDP.
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0")


@dataclass(frozen=True)
class DistillationState:
    """The settings that must not change between a checkpoint and its resumption.

    Attributes:
        intermediate_steps: the boundary between the phases; changing the number of epochs does not move it.
        joint: whether all levels are matched in every step.
        layer_mapping: as on the command line.
        projection: `"per_layer"` or `"shared"`.
        variances: level name -> the teacher's variance, by which losses are divided.
        attention: the relative loss of its attention scores before the first step, or None.
        fidelity: of the student before the first step, or None.
    """

    intermediate_steps: int
    joint: bool
    layer_mapping: str
    projection: str
    variances: Mapping[str, float] = field(default_factory=dict)
    attention: float | None = None
    fidelity: Mapping[str, float | None] | None = None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write into a checkpoint folder."""
        (Path(folder) / STATE_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_run(
        cls,
        objective: DistillationObjective,
        projection: str,
        plan: PhasePlan,
        start: RunStart,
    ) -> DistillationState:
        """The state of a run under way."""
        mapping, fidelity = objective.settings.mapping.to_string(), None
        if start.fidelity is not None:
            fidelity = asdict(start.fidelity)
        measured = objective.variances, start.attention, fidelity
        return cls(plan.intermediate_steps, plan.joint, mapping, projection, *measured)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> DistillationState:
        """Read from a checkpoint folder."""
        return cls(**json.loads((Path(folder) / STATE_NAME).read_text(encoding="utf-8")))

    @property
    def start(self) -> RunStart:
        """What was measured before the first step."""
        fidelity = None if self.fidelity is None else StartFidelity.from_saved(self.fidelity)
        return RunStart(self.variances, self.attention, fidelity=fidelity)

    def resume(
        self,
        folder: str | os.PathLike[str],
        settings: ObjectiveConfig,
        args: DistillationTrainingArguments,
        projections: Projections,
    ) -> None:
        """Read the projections of a checkpoint with this state.

        Raises:
            ValueError: the checkpoint was made with another mapping, projection, scaling or order of phases.
        """
        current = (settings.mapping.to_string(), args.projection)
        if (self.layer_mapping, self.projection) != current:
            raise ValueError(
                f"The checkpoint {folder} was made with layer_mapping {self.layer_mapping!r} and projection "
                f"{self.projection!r}; the arguments are now {current[0]!r} and {current[1]!r}."
            )
        if self.joint != (args.phases == "joint"):
            raise ValueError(f"The checkpoint {folder} was made with other phases than {args.phases!r}.")
        load_projections(projections, folder)


def is_checkpoint_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is named as the Trainer names checkpoints."""
    return Path(folder).name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")


def save_projections(state: Mapping[str, Tensor], folder: str | os.PathLike[str]) -> None:
    """Write the projections' state into a file of their own, beside the student."""
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(state, Path(folder) / PROJECTIONS_NAME)


def has_projections(folder: str | os.PathLike[str]) -> bool:
    """Whether `save_projections` wrote into a folder."""
    return (Path(folder) / PROJECTIONS_NAME).is_file()


def load_projections(projections: Projections, folder: str | os.PathLike[str]) -> None:
    """Read what `save_projections` wrote."""
    projections.load_state_dict(load_file(Path(folder) / PROJECTIONS_NAME))


def missing_parts(folder: str | os.PathLike[str], distilled: bool = True) -> list[str]:
    """The files that a checkpoint lacks to be resumed from; empty if it is complete.

    The Trainer writes `trainer_state.json` last, so a checkpoint whose writing was interrupted has none, or a
    truncated one.

    Args:
        folder: the checkpoint.
        distilled: it is a `DistillationTrainer`'s, which holds more than a `Trainer`'s.
    """
    path = Path(folder)
    # DeepSpeed saves the optimiser in a folder of its own, whose name is in a file.
    sharded = _named_in(path / "latest")
    wanted = [*_TRAINING_STATE, *(_DISTILLATION_STATE if distilled else ())]
    missing = [name for name in wanted if not (path / name).is_file()]
    if sharded is None and not any((path / name).exists() for name in _OPTIMIZERS):
        missing.insert(0, _OPTIMIZERS[0])
    if sharded is not None and not any((path / sharded).glob("*optim_states.pt")):
        missing.append(f"{sharded}/*optim_states.pt")
    missing += [name for name in _weight_files(path) if not (path / name).is_file()]
    if not any(path.glob("rng_state*.pth")):
        missing.append("rng_state.pth")
    try:
        json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        missing.append(TRAINER_STATE_NAME)
    return missing


def newest_complete(output_dir: str | os.PathLike[str], distilled: bool = True) -> str | None:
    """The checkpoint folder with the highest step that can be resumed from, or None.

    Args:
        output_dir: of the run.
        distilled: as in `missing_parts`.
    """
    folders: list[tuple[int, Path]] = []
    if Path(output_dir).is_dir():
        for folder in Path(output_dir).iterdir():
            step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
            if folder.is_dir() and is_checkpoint_folder(folder) and step.isdigit():
                folders.append((int(step), folder))
    for _, folder in sorted(folders, reverse=True):
        if not missing_parts(folder, distilled):
            return str(folder)
    return None


def check_whole(folder: str | os.PathLike[str]) -> None:
    """Refuse a checkpoint that is incomplete.

    Raises:
        ValueError: the message names what is missing.
    """
    missing = missing_parts(folder)
    if missing:
        raise ValueError(f"The checkpoint {folder} cannot be resumed: it lacks {', '.join(missing)}.")


def to_resume_from(output_dir: str | os.PathLike[str], distilled: bool = True) -> str:
    """The newest complete checkpoint.

    Args:
        output_dir: of the run.
        distilled: as in `missing_parts`.

    Raises:
        ValueError: there is none.
    """
    checkpoint = newest_complete(output_dir, distilled)
    if checkpoint is None:
        raise ValueError(f"There is no complete checkpoint in {output_dir} to resume from.")
    return checkpoint


def mark_incomplete(folder: str | os.PathLike[str]) -> None:
    """Mark a checkpoint as incomplete before it is overwritten by one of the same step."""
    (Path(folder) / TRAINER_STATE_NAME).unlink(missing_ok=True)


def _named_in(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _weight_files(folder: Path) -> list[str]:
    """The weight files that a checkpoint should have: one, the shards in its index, or an adapter's."""
    if peft.is_adapter(folder):
        return [peft.WEIGHTS_NAME]
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        return [SAFE_WEIGHTS_NAME]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
