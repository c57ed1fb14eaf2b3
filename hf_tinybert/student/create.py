"""Creates a student: from a preset, initialised from the teacher's weights or at random, or from a checkpoint."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, BertConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.utils import cached_file, logging

from hf_tinybert.configuration import TinyBertConfig, longest_matters
from hf_tinybert.data import sampler
from hf_tinybert.models import head_init, sentence_transformers_files
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import auto_class, check_folder, check_tokenizer, check_vocabularies
from hf_tinybert.models.output_types import MULTI_LABEL
from hf_tinybert.presets import PRESETS
from hf_tinybert.student import projection_init, provenance
from hf_tinybert.student.calibration import sample_calibration_batch
from hf_tinybert.student.start import Start
from hf_tinybert.training_args import DistillationTrainingArguments, StudentInit
from hf_tinybert.utils.types import AnyDataset

logger = logging.get_logger(__name__)


def create_student(
    teacher: PreTrainedModel,
    config: str | os.PathLike[str] | BertConfig = "tinybert-4l-312d",
    init: StudentInit = "teacher",
    layer_mapping: str | Mapping[int, int] = "uniform",
    calibration: Mapping[str, Tensor] | None = None,
    separate_vocabulary: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """Make a student of the same Auto class as the teacher, in eval mode, on the CPU, in float32.

    Args:
        teacher: the fine-tuned (or pretrained) teacher.
        config: a preset's name, a `TinyBertConfig` (see `TinyBertConfig.from_teacher`), or the folder or Hub
            id of an existing small checkpoint, whose weights are then used in place of `init`. The authors'
            checkpoints work, too: their `fit_dense` layers initialise the projections. A folder with a
            configuration and no weights counts as that configuration, with the teacher's labels.
        init: `"teacher"` initialises the student from the teacher's weights, whatever its architecture: the maps of
            its mapped layers, projected onto the principal components of its hidden states where the student is
            narrower, and fitted to its states (see `hf_tinybert.student.teacher_init`). The folder or Hub id of
            another encoder takes embeddings and layers from there, and the head from the teacher. `"random"` is BERT's
            own initialisation. Of several in a list, that is taken which follows the teacher most closely.
        layer_mapping: the teacher layers from which the student's layers are initialised.
        calibration: a tokenised batch (`input_ids`, `attention_mask`, ...) of typical text, to which the student is
            fitted. Without it random tokens are used, and the initial accuracy is much lower (`docs/results.md`).
            `DistillationTrainer(model="tinybert-4l-312d", ...)` uses the training data.
        separate_vocabulary: the student has another vocabulary than the teacher (see `teacher_processing_class` of
            `DistillationTrainer`): `config` then specifies its size, and `init` must be `"random"`.
        tokenizer: the teacher's, for the start from another encoder; by default it is read from the teacher's folder.

    Raises:
        ValueError: an unknown preset, a configuration that cannot read the teacher's inputs or has other
            labels, or an architecture or encoder that `init` does not support.
    """
    inits = [init] if isinstance(init, str | os.PathLike) else list(init)
    if not inits:
        raise ValueError("init is 'teacher', 'random', a folder or Hub id, or a list of these; the list is empty.")
    student_config = config_of_student(teacher, config, separate_vocabulary)
    if is_checkpoint(config):
        return _from_checkpoint(teacher, str(config), student_config)
    if separate_vocabulary and inits != ["random"]:
        raise ValueError(
            f"init={init!r} needs the teacher's vocabulary: use create_student(teacher, ..., init='random') "
            "(--student-init random), or a small checkpoint."
        )
    if calibration is None and inits != ["random"]:
        logger.warning_once(
            "No calibration data was given: the student's initial accuracy will be much lower. Pass a "
            "`calibration` batch to create_student, or the name of the student, a `processing_class` and a "
            "`train_dataset` of tokenised examples to DistillationTrainer."
        )
    start = Start(teacher, student_config, layer_mapping, tokenizer)
    if len(inits) == 1:
        return start.make(str(inits[0]), calibration)
    if calibration is None:
        raise ValueError(f"init={init!r} compares starts on texts: pass a `calibration` batch.")
    return start.best([str(each) for each in inits], calibration)


def create_student_from_data(
    teacher: PreTrainedModel,
    config: str | os.PathLike[str] | PretrainedConfig,
    dataset: AnyDataset | None,
    tokenizer: object,
    args: DistillationTrainingArguments,
    separate_vocabulary: bool = False,
) -> PreTrainedModel:
    """The student of a run: initialised as the arguments say, with a sample of the training data.

    Args:
        teacher: a model without an adapter.
        config: for `create_student`.
        dataset: the training data, tokenised, or None.
        tokenizer: that pads them, or None. Without one of both, there is no calibration batch.
        args: `student_init`, `layer_mapping` and `seed`.
        separate_vocabulary: for `create_student`.

    Raises:
        ValueError: as for `create_student`; or `student_init` is set for a checkpoint, which has its weights.
    """
    init: StudentInit = args.student_init or ["teacher"]
    ready_made, known = is_checkpoint(config), isinstance(tokenizer, PreTrainedTokenizerBase)
    if ready_made:
        refuse_init(args)
    is_preset = not isinstance(config, PretrainedConfig) and str(config) in PRESETS
    if is_preset and longest_matters(teacher.config) and isinstance(dataset, Dataset):
        config = config_of_student(teacher, config, separate_vocabulary, max(sampler.token_counts(dataset) or [0]))
    sample = None if ready_made or init == ["random"] else sample_calibration_batch(dataset, tokenizer)
    set_seed(args.seed)
    student = create_student(
        teacher,
        config,
        init=init,
        layer_mapping=args.layer_mapping,
        calibration=sample,
        separate_vocabulary=separate_vocabulary,
        tokenizer=tokenizer if known else None,
    )
    if ready_made and known:
        check_tokenizer(tokenizer, str(config), "student")
    return student


def config_of_student(
    teacher: PreTrainedModel,
    config: str | os.PathLike[str] | PretrainedConfig,
    separate_vocabulary: bool = False,
    longest: int | None = None,
) -> PretrainedConfig:
    """The configuration of the student that `create_student` makes; its labels are the teacher's, in any order.

    Args:
        teacher: for `create_student`.
        config: for `create_student`.
        separate_vocabulary: for `create_student`.
        longest: the longest input in tokens, which a preset's student reads as well if its teacher does.

    Raises:
        ValueError: an unknown preset, a folder without a model, another vocabulary or other labels.
    """
    student_config: PretrainedConfig
    if isinstance(config, PretrainedConfig):
        student_config = config.to_bert_config() if isinstance(config, TinyBertConfig) else copy.deepcopy(config)
        student_config.problem_type = student_config.problem_type or teacher.config.problem_type
    elif _is_shape(config):
        student_config = _config(str(config))
        _take_labels(student_config, teacher)
    elif is_checkpoint(config):
        student_config = _config_of_checkpoint(teacher, str(config))
    else:
        sizes = TinyBertConfig.from_teacher(teacher.config, str(config))
        if longest is not None and longest_matters(teacher.config):
            sizes.max_position_embeddings = max(sizes.max_position_embeddings, longest)
        student_config = sizes.to_bert_config()
    if not separate_vocabulary:
        check_vocabularies(student_config, teacher.config)
    LabelAlignment.from_configs(student_config, teacher.config)
    return student_config


def refuse_init(args: DistillationTrainingArguments) -> None:
    """Refuse `student_init` for a student that already has weights.

    Raises:
        ValueError: it is set.
    """
    if args.student_init:
        given = args.student_init[0] if len(args.student_init) == 1 else args.student_init
        raise ValueError(
            f"student_init={given!r} sets how a new student is initialised, and this one already has "
            "weights: leave it out, or pass a preset's name or a TinyBertConfig as the student."
        )


def is_checkpoint(config: str | os.PathLike[str] | PretrainedConfig) -> bool:
    """Whether a student given so has weights: it is a folder that holds some, or a Hub id."""
    if isinstance(config, PretrainedConfig) or str(config) in PRESETS or _is_shape(config):
        return False
    return Path(config).is_dir() or "/" in str(config)


def _is_shape(name: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a configuration alone: no weights, and no class from which they were saved."""
    folder = Path(name)
    if not (folder / "config.json").is_file() or any((*folder.glob("*.safetensors*"), *folder.glob("*.bin*"))):
        return False
    return "architectures" not in PretrainedConfig.get_config_dict(folder)[0]


def _take_labels(config: PretrainedConfig, teacher: PreTrainedModel) -> None:
    config.id2label, config.label2id = dict(teacher.config.id2label), dict(teacher.config.label2id)
    config.problem_type = teacher.config.problem_type


def _config_of_checkpoint(teacher: PreTrainedModel, name: str) -> PretrainedConfig:
    check_folder(name, "student")
    config, auto = _config(name), auto_class(teacher)
    model_class = auto._model_mapping.get(type(config), None)
    if model_class is None:
        raise ValueError(f"The student {name} is a {config.model_type} model, which {auto.__name__} does not support.")
    if model_class.__name__ in (config.architectures or []):
        config.problem_type = config.problem_type or teacher.config.problem_type
    else:
        _take_labels(config, teacher)
    return config


def _from_checkpoint(teacher: PreTrainedModel, name: str, config: PretrainedConfig) -> PreTrainedModel:
    auto = auto_class(teacher)
    student: PreTrainedModel
    student, info = auto.from_pretrained(name, config=config, output_loading_info=True, dtype=torch.float32)
    if config.problem_type == MULTI_LABEL:
        head_init.start_at_teachers(student, info["missing_keys"], teacher)
    offers = {
        f"{projection_init.VECTORS}.{part}": value
        for part, value in sentence_transformers_files.dense_of(name).items()
    }
    if any("fit_dense" in key for key in info["unexpected_keys"]):
        offers |= _authors_projections(name)
    projection_init.offer(student, offers)
    provenance.record(student, teacher, init="checkpoint")
    return student.eval()


def _config(name: str) -> PretrainedConfig:
    """The configuration of a checkpoint; the authors' own lack `model_type`, and are BERTs."""
    config: PretrainedConfig
    stored, _ = PretrainedConfig.get_config_dict(name)
    if "model_type" not in stored and "num_hidden_layers" in stored:
        config = BertConfig.from_pretrained(name)
    else:
        config = AutoConfig.from_pretrained(name)
    return config


def _authors_projections(name: str) -> dict[str, Tensor]:
    """Read `fit_dense.*` (one for all levels) or `fit_denses.N.*` (one for each) of an authors' checkpoint."""
    state = _raw_state(name)
    projections: dict[str, Tensor] = {}
    for key, value in state.items():
        pieces = key.split(".")
        if "fit_dense" in pieces:
            projections[f"{projection_init.SHARED}.{pieces[-1]}"] = value.float()
        elif "fit_denses" in pieces:
            projections[f"{pieces[pieces.index('fit_denses') + 1]}.{pieces[-1]}"] = value.float()
    return projections


def _raw_state(name: str) -> dict[str, Tensor]:
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if path is None:
            continue
        if file.endswith(".safetensors"):
            return load_file(path)
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    return {}
