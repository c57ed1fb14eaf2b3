"""Build a run's settings from arguments and models, and refuse invalid combinations before training starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tinybert.data import sampler
from hf_tinybert.distillation.attention_matching import HeadMatching
from hf_tinybert.distillation.levels import Level
from hf_tinybert.distillation.objective import ObjectiveConfig, Weights
from hf_tinybert.distillation.output_matching import LabelLoss, OutputLoss
from hf_tinybert.distillation.phases import INTERMEDIATE_LEVELS
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import check_vocabularies
from hf_tinybert.models.output_types import (
    MULTI_LABEL,
    OF_ROWS,
    REGRESSION,
    SINGLE_LABEL,
    TOKENS,
    VECTORS,
    output_type,
)
from hf_tinybert.teacher import inputs
from hf_tinybert.teacher.ensemble import pooling_of
from hf_tinybert.teacher.positions import boundary_ids
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils.types import AnyDataset, Collator

#: Rows on which two tokenizers are compared.
_CHECKED_ROWS = 1000
#: One data set, or several by name, as the Trainer's `eval_dataset`.
EvaluationData: TypeAlias = "AnyDataset | Mapping[str, AnyDataset]"


def build_objective_config(
    args: DistillationTrainingArguments,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    hard_label_function: LabelLoss | None = None,
    separate_vocabulary: bool = False,
) -> ObjectiveConfig:
    """The settings of the objective, checked against both models.

    Args:
        args: the arguments of the run.
        student: the model to be trained.
        teacher: the model it learns from.
        hard_label_function: a user's `compute_loss_func`, which replaces the hard-label loss.
        separate_vocabulary: the teacher has another tokenizer than the student.

    Raises:
        ValueError: arguments and models do not fit each other; the message says what to do.
    """
    student_encoder, teacher_encoder = Encoder.from_model(student), Encoder.from_model(teacher)
    student_type, predicts = output_type(student), args.phases != "intermediate"
    if predicts:
        _check_problem(student, teacher)
    if separate_vocabulary:
        _check_separate_vocabulary(args, student_type)
    else:
        check_vocabularies(student.config, teacher.config)
    levels = args.level_weights()
    if args.phases == "prediction":
        levels |= dict.fromkeys(INTERMEDIATE_LEVELS, 0.0)
    weights = Weights(levels, args.parsed_layer_weights())
    beyond = [layer for layer in weights.layers if layer > student_encoder.num_layers]
    if beyond:
        raise ValueError(
            f"layer_weights names layer {beyond[0]}; the student has layers 1..{student_encoder.num_layers}."
        )
    mapping = LayerMapping.from_spec(args.layer_mapping, student_encoder.num_layers, teacher_encoder.num_layers)
    relative = args.loss_scaling == "variance" and args.loss_reduction != "paper"
    matches_attention = any(weights.of(Level("attention", m)) for m in mapping.layers)
    matches_others = any(weights.of(Level.of_states(m)) for m in mapping)
    settings = ObjectiveConfig(
        mapping=mapping,
        weights=weights,
        heads=HeadMatching.from_encoders(args.head_matching, student_encoder, teacher_encoder, mapping, relative)
        if matches_attention
        else None,
        prediction=OutputLoss(
            kind=student_type,
            temperature=args.temperature,
            reduction=args.loss_reduction,
            label_smoothing=args.label_smoothing_factor,
            hard_label_function=hard_label_function,
            pooling=pooling_of(args, teacher) if predicts and student_type == VECTORS else None,
        ),
        label_alignment=LabelAlignment.from_configs(student.config, teacher.config)
        if predicts and student_type != VECTORS
        else LabelAlignment(),
        matches_predictions=predicts,
        relative=relative,
        judges_attention=relative and args.attention_weight is None and matches_others,
    )
    if predicts and student_type == VECTORS and weights["hard_label"]:
        raise ValueError("hard_label_weight is above 0, and a model without a head has no labels: set it to 0.")
    if predicts and hard_label_function is not None and not weights["hard_label"]:
        raise ValueError("compute_loss_func replaces the hard-label loss, and hard_label_weight is 0: set it above 0.")
    return settings


def check_arguments(args: object) -> None:
    """Refuse arguments of another class, and `nn.DataParallel`.

    Raises:
        ValueError: the class is not `DistillationTrainingArguments`, or several GPUs are visible to one process.
    """
    if not isinstance(args, DistillationTrainingArguments):
        raise ValueError(
            f"DistillationTrainer needs DistillationTrainingArguments, got {type(args).__name__}: change the "
            "class, its other arguments stay."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, which means nn.DataParallel, and that drops the "
            "hooks. Start the script with `torchrun --nproc-per-node N` or `accelerate launch`, or select one GPU "
            "with CUDA_VISIBLE_DEVICES=0."
        )


def check_fsdp(args: DistillationTrainingArguments, enabled: bool, second_version: bool) -> None:
    """Refuse FSDP that was requested and is not active, and version 1, which cannot gather the student's weights.

    Args:
        args: of the run.
        enabled: the Trainer shards the model.
        second_version: it uses FSDP2.

    Raises:
        ValueError: FSDP is inactive or of version 1; the message says what to do.
    """
    if (args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")) and not enabled:
        raise ValueError(
            "FSDP was requested and is not active: accelerate shards models only on accelerators and in a launched "
            "run. Use DDP (`torchrun --nproc-per-node N` or `accelerate launch --multi_gpu`)."
        )
    if enabled and not second_version:
        raise ValueError(
            "FSDP version 1 cannot gather the student's weights at the end of training: use version 2 "
            "(`fsdp_version: 2` in accelerate's configuration file, see examples/accelerate/fsdp.yaml)."
        )


def check_datasets(
    args: DistillationTrainingArguments,
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    train: AnyDataset | None,
    evaluation: EvaluationData | None,
    tokenizers: tuple[object, PreTrainedTokenizerBase | None],
) -> int | None:
    """Check that the data fit both models.

    Args:
        args: `report_fidelity`.
        student: the model to be trained.
        teachers: the models it learns from.
        train: the training data.
        evaluation: one data set, several by name, or None.
        tokenizers: the student's, and the teachers', where they read columns of their own.

    Returns:
        The longest input in tokens that a batch may have, or None.

    Raises:
        ValueError: a column is missing, or an example is too long.
    """
    own, teachers_own = tokenizers
    if teachers_own is None:
        longest = longest_input(student, teachers[0])
    else:
        longest = Encoder.from_model(student).max_length
        check_teacher_inputs(train, teachers[0], "training")
        if needs_positions(args, student) and isinstance(own, PreTrainedTokenizerBase):
            check_cut_alike(train, own, teachers_own)
        if args.report_fidelity:
            for dataset in evaluation.values() if isinstance(evaluation, Mapping) else [evaluation]:
                check_teacher_inputs(dataset, teachers[0], "evaluation")
    check_data(train, longest)
    return longest


def _check_problem(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Refuse a student whose problem type differs from the one in the teacher's configuration."""
    student_type, teacher_type = output_type(student), teacher.config.problem_type
    is_classifier = student_type in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)
    if teacher_type is not None and is_classifier and student_type != teacher_type:
        raise ValueError(
            f"The teacher's problem_type is {teacher_type!r}, and the student's {student_type!r} (if none is set: "
            "single-label, or regression with one output): set student.config.problem_type = "
            f"{teacher_type!r}, or use `create_student`."
        )


def needs_positions(args: DistillationTrainingArguments, student: PreTrainedModel) -> bool:
    """Whether the positions of teacher and student are compared: of layers, or of outputs that belong to tokens."""
    return args.phases != "prediction" or output_type(student) not in OF_ROWS


def _check_separate_vocabulary(args: DistillationTrainingArguments, student_type: str) -> None:
    """Refuse what cannot be compared where teacher and student have tokenizers of their own."""
    why = "teacher_processing_class gives the teacher another tokenizer than the student's"
    if args.phases != "prediction" and args.teacher_cache in ("features", "auto"):
        raise ValueError(
            f"{why}, and a cache of features knows the teacher's positions alone: use teacher_cache='none', got "
            f"{args.teacher_cache!r}."
        )
    if student_type not in OF_ROWS and student_type != TOKENS:
        raise ValueError(
            f"{why}, and spans are positions of one of them. Use a teacher with the student's tokenizer; "
            "classification, regression and sentence vectors work with any."
        )


def collator_for_both(
    args: DistillationTrainingArguments,
    student: PreTrainedModel,
    collator: Collator,
    tokenizer: object,
    teacher_tokenizer: PreTrainedTokenizerBase,
) -> inputs.TeacherInputsCollator:
    """The collator of data that hold inputs for a teacher with a tokenizer of its own.

    Raises:
        ValueError: positions are compared, and the student's tokenizer is not known.
    """
    if not needs_positions(args, student):
        return inputs.TeacherInputsCollator(collator, teacher_tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            "teacher_processing_class gives the teacher another tokenizer than the student's, and layers are compared "
            "position by position: pass the student's tokenizer as processing_class, or use phases='prediction'."
        )
    return inputs.TeacherInputsCollator(collator, teacher_tokenizer, tokenizer)


def check_cut_alike(
    dataset: AnyDataset | None, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> None:
    """Refuse two tokenizers that cut the first training texts into other tokens, special tokens apart.

    Args:
        dataset: the training data, with the inputs of both.
        student: the student's tokenizer.
        teacher: the teacher's.

    Raises:
        ValueError: the message shows a text.
    """
    if not isinstance(dataset, Dataset):
        return  # each batch is checked when it is made
    for row in dataset.select(range(min(len(dataset), _CHECKED_ROWS))):
        pairs = ((student, row["input_ids"]), (teacher, row[inputs.IDS]))
        tokens = [_words(tokenizer, ids) for tokenizer, ids in pairs]
        if tokens[0] != tokens[1]:
            raise ValueError(
                "teacher_processing_class gives the teacher another tokenizer, which cuts texts into other tokens "
                f"than the student's: {' '.join(tokens[1][:9])} ... and {' '.join(tokens[0][:9])} ... Layers have no "
                "positions in common: use phases='prediction', which compares sequence-level outputs."
            )


def _words(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The tokens of a row without those around texts; unknown ones are alike in every vocabulary."""
    around = boundary_ids(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens([index for index in ids if index not in around])
    return ["" if token == tokenizer.unk_token else token for token in tokens]


def check_teacher_inputs(dataset: AnyDataset | None, teacher: PreTrainedModel, what: str) -> None:
    """Refuse data without the teacher's own inputs, or with inputs too long for it.

    Args:
        dataset: the data.
        teacher: the model that reads them.
        what: `"training"` or `"evaluation"`, for the message.

    Raises:
        ValueError: a column is missing, or an example is too long.
    """
    inputs.check_columns(dataset, what)
    check_data(dataset, Encoder.from_model(teacher).max_length, inputs.IDS)


def check_further_teachers(args: DistillationTrainingArguments, teachers: Sequence[PreTrainedModel]) -> None:
    """Check that the logits of several teachers can be averaged.

    Raises:
        ValueError: vocabularies, labels or tasks differ, or there are no logits to average.
    """
    first = teachers[0]
    for number, teacher in enumerate(teachers[1:], start=2):
        if args.phases == "intermediate":
            raise ValueError(
                "The logits of several teachers are averaged, and phases='intermediate' matches no logits. Give one "
                "teacher."
            )
        if output_type(first) == VECTORS:
            raise ValueError(
                "The logits of several teachers are averaged; the vector spaces of several sentence encoders differ, "
                "so the mean of their vectors has no meaning. Give one teacher."
            )
        if output_type(teacher) != output_type(first):
            raise ValueError(
                f"Teacher {number} is a {type(teacher).__name__} and the first a {type(first).__name__}: their logits "
                "cannot be averaged. Give teachers of one task."
            )
        if teacher.config.vocab_size != first.config.vocab_size:
            raise ValueError(
                f"Teacher {number} has a vocabulary of {teacher.config.vocab_size} tokens and the first of "
                f"{first.config.vocab_size}: all teachers read the same input ids, so they need one tokenizer."
            )
        try:
            LabelAlignment.from_configs(first.config, teacher.config)
        except ValueError as error:
            raise ValueError(f"Teacher {number} and the first teacher, called student here: {error}") from None


def longest_input(student: PreTrainedModel, teacher: PreTrainedModel) -> int | None:
    """The longest input in tokens that both models take."""
    limits = (Encoder.from_model(student).max_length, Encoder.from_model(teacher).max_length)
    return min((limit for limit in limits if limit is not None), default=None)


def check_data(dataset: AnyDataset | None, longest: int | None, column: str = "input_ids") -> None:
    """Refuse an already tokenised map-style data set with an example that is too long.

    Raises:
        ValueError: an example is longer than `longest` tokens.
    """
    if longest is None or not isinstance(dataset, Dataset):
        return
    length = max(sampler.token_counts(dataset, column) or [0])
    if length > longest:
        raise ValueError(
            f"An example of {length} tokens is longer than the {longest} positions of the student or the teacher: "
            "truncate when tokenising (`truncation=True, max_length=...`)."
        )
