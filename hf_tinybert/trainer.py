"""`DistillationTrainer`: glue between transformers' Trainer and the distillation objective.

While `train()` runs, `trainer.model` is a `DistillationObjective` around the student, so that projections are
trained, clipped and synchronised like any parameter; before and after it, `trainer.model` is the student.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.utils import logging

from hf_tinybert import model_card
from hf_tinybert.benchmark.comparison import Comparison
from hf_tinybert.data import sampler
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig, Step
from hf_tinybert.distillation.output_matching import OutputLoss
from hf_tinybert.distillation.phases import INTERMEDIATE_LEVELS, LEVELS, Phase, PhasePlan, learning_rate_function
from hf_tinybert.distillation.projections import Projections
from hf_tinybert.distillation.validation import (
    build_objective_config,
    check_data,
    check_further_teachers,
    check_teacher_inputs,
    longest_input,
    pooling_of,
)
from hf_tinybert.evaluation.layer_fidelity import LayerFidelity
from hf_tinybert.evaluation.prediction_fidelity import PredictionFidelity
from hf_tinybert.hub import checkpoints
from hf_tinybert.hub.trainer import HubTrainer
from hf_tinybert.models import peft, sentence_transformers_files
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import auto_class, check_tokenizer, freeze, load_model, saved_class
from hf_tinybert.models.output_types import LABELS, VECTORS, logits_of, output_type
from hf_tinybert.student import provenance
from hf_tinybert.student.create import student_of_data
from hf_tinybert.student.projection_init import offered
from hf_tinybert.teacher import inputs as teacher_inputs
from hf_tinybert.teacher.cache import policy, rows
from hf_tinybert.teacher.source import OnlineTeacher, TeacherEnsemble, TeacherSource
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils import compat
from hf_tinybert.utils.work_sharing import default_folder

logger = logging.get_logger(__name__)

Teacher: TypeAlias = PreTrainedModel | str | os.PathLike


class _KeepTeacher(TrainerCallback):
    """Has the signal write down what it has learnt: after each pass over the data, and with each checkpoint."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self._flush()

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self._flush()

    def _flush(self) -> None:
        if self.trainer._signal is not None:
            several = self.trainer.args.world_size > 1
            self.trainer._signal.flush(self.trainer.accelerator.wait_for_everyone if several else None)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Shares of so many teachers, which add up to 1."""
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count or any(not weight >= 0 for weight in weights) or not sum(weights) > 0:
        raise ValueError(
            f"teacher_weights are a number of at least 0 for each of {count} teachers, not all 0, got {list(weights)}."
        )
    return [weight / sum(weights) for weight in weights]


def _loaded(teacher: Teacher, auto: Any, reads: Any, init_kwargs: Mapping[str, Any] | None) -> PreTrainedModel:
    """A teacher, with its adapter worked in, or loaded where it is a name.

    Args:
        teacher: a model or a name.
        auto: the Auto class of a name.
        reads: its tokenizer, if there is any.
        init_kwargs: of `from_pretrained`, for a name.
    """
    if isinstance(teacher, str | os.PathLike):
        if isinstance(reads, PreTrainedTokenizerBase):
            check_tokenizer(reads, teacher, "teacher")
        loaded: PreTrainedModel = load_model(teacher, auto, init_kwargs)
        return loaded
    if init_kwargs:
        raise ValueError("teacher_init_kwargs goes with a teacher given by name; this one is already loaded.")
    return peft.merge_adapter(teacher)


def _trains(optimizer: torch.optim.Optimizer, student: torch.nn.Module) -> bool:
    """Whether an optimizer holds any trainable parameter of the student."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return any(id(parameter) in held for parameter in student.parameters() if parameter.requires_grad)


def _asks_for_fsdp(args: DistillationTrainingArguments) -> bool:
    """Whether the arguments or accelerate's launcher ask for FSDP."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")


class DistillationTrainer(HubTrainer):
    """A `Trainer` that distils a teacher into `model` as TinyBERT does.

    `train()` matches all levels in every step, or in the paper's two phases (`phases="two_phase"`); everything else
    (`evaluate`, `predict`, `compute_metrics`, callbacks, checkpoints, resume, `push_to_hub`,
    `hyperparameter_search`) is the Trainer's. A custom `compute_loss_func` takes the place of the hard-label loss.
    Evaluation uses the student's ordinary loss.

    Args:
        model: the student (see `create_student`), or what `create_student` makes one of: a preset's name or a
            `TinyBertConfig`, which then starts from the weights of the `teacher` and texts of the `train_dataset`, or
            the name of a checkpoint. Or use `model_init`.
        teacher: a model, a folder, or a Hub id; with a LoRA adapter (a `PeftModel`, or its folder), a copy with the
            adapter worked into its weights teaches. Of a list of teachers, logits are averaged, and the first one's
            layers are matched.
        teacher_weights: shares of several teachers, in proportion; equal by default.
        teacher_processing_class: the teacher's tokenizer, where it is another than the student's: the data then carry
            the teacher's own inputs (see `hf_tinybert.tokenize_for_teacher`), and what both say of a whole text is
            matched (`phases="prediction"`).
        args: the arguments; `DistillationTrainingArguments("tmp_trainer")` by default.
        teacher_init_kwargs: for a teacher given by name: further arguments of `from_pretrained`.
        peft_config: peft's configuration of an adapter (`LoraConfig(task_type="SEQ_CLS", ...)`), which is then trained
            in place of the student's own weights. A student may also come as a `PeftModel`. The adapter is saved, and
            beside it, in `base`, the model that it belongs to; `hf_tinybert.merge_adapter` makes one model of both.
        **kwargs: everything `Trainer` takes.

    Raises:
        ValueError: teacher and student do not fit each other or the arguments; nothing has been trained then.
    """

    args: DistillationTrainingArguments
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any
    data_collator: Any
    compute_loss_func: Any

    def __init__(
        self,
        model: PreTrainedModel | PretrainedConfig | str | os.PathLike[str] | None = None,
        args: DistillationTrainingArguments | None = None,
        *positional: Any,
        teacher: Teacher | Sequence[Teacher] | None = None,
        teacher_weights: Sequence[float] | None = None,
        teacher_init_kwargs: Mapping[str, Any] | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        """Check that everything fits, and set the Trainer up around the student."""
        if args is None:
            args = DistillationTrainingArguments(output_dir="tmp_trainer")
        if not isinstance(args, DistillationTrainingArguments):
            raise ValueError(
                f"DistillationTrainer needs DistillationTrainingArguments, got {type(args).__name__}: change the "
                "class, its other arguments stay."
            )
        if teacher is None or (isinstance(teacher, Sequence) and not len(teacher)):
            raise ValueError("DistillationTrainer needs a teacher: a model, a folder or a Hub id.")
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs are visible to one process, which means nn.DataParallel, and that drops the "
                "hooks. Start the script with `torchrun --nproc-per-node N` or `accelerate launch`, or show it one "
                "GPU with CUDA_VISIBLE_DEVICES=0."
            )
        collator, dataset, _, tokenizer = (
            positional[place] if len(positional) > place else kwargs.get(name)
            for place, name in enumerate(("data_collator", "train_dataset", "eval_dataset", "processing_class"))
        )
        # `tokenizer` was its name before transformers 5; collators that pad have one too.
        tokenizer = tokenizer or kwargs.get("tokenizer") or getattr(collator, "tokenizer", None)
        given = [teacher] if isinstance(teacher, Teacher) or peft.has_adapter(teacher) else list(teacher)
        if isinstance(model, str | os.PathLike | PretrainedConfig):
            # The teacher comes first then: by name, it is loaded as what it was saved from.
            first, reads = given[0], teacher_processing_class or tokenizer
            auto = (
                saved_class(first, teacher_init_kwargs) if isinstance(first, str | os.PathLike) else auto_class(first)
            )
            given = [_loaded(each, auto, reads, teacher_init_kwargs) for each in given]
            set_seed(args.seed)
            own, teacher_init_kwargs = teacher_processing_class is not None, None
            model = student_of_data(given[0], model, args.layer_mapping, dataset, tokenizer, own)
        if peft_config is not None:
            if model is None:
                raise ValueError("peft_config goes with model; with model_init, let that return a PeftModel.")
            model = peft.add_adapter(model, peft_config)
        self._objective: DistillationObjective | None = None
        self._signal: TeacherSource | None = None
        self._for_evaluation: TeacherSource | None = None
        self._plan: PhasePlan | None = None
        self._resumed: checkpoints.DistillationState | None = None
        self._phase: Phase | None = None
        self._agreement: PredictionFidelity | None = None
        self._fidelity: LayerFidelity | None = None
        self.recorder = model_card.Recorder()
        self._gathered: dict[str, Tensor] | None = None
        self._bases: set[str] = set()
        self.teacher_processing_class = teacher_processing_class
        self._teachers_inputs: dict[str, Any] = {}
        self._teacher_answers = False
        self._parts: dict[str, Tensor] = {}
        self._phase_of_part: dict[str, Phase] = {}
        self._steps_in_phase: Counter[Phase] = Counter()
        # Streams have no lengths to group by, and transformers 4.57 refuses to try.
        streams = isinstance(dataset, torch.utils.data.IterableDataset)
        with compat.without_grouping(args) if streams else nullcontext():
            super().__init__(model, args, *positional, **kwargs)
        if _asks_for_fsdp(args) and not self.is_fsdp_enabled:
            raise ValueError(
                "FSDP was asked for and is not on: accelerate shards models on accelerators, in a launched run, only. "
                "Use DDP (`torchrun --nproc-per-node N` or `accelerate launch --multi_gpu`)."
            )
        if self.is_fsdp_enabled and not getattr(self.accelerator, "is_fsdp2", False):
            raise ValueError(
                "FSDP of version 1 cannot give the student's weights back whole once training is over: use version 2 "
                "(`fsdp_version: 2` in accelerate's file, see examples/accelerate/fsdp.yaml)."
            )
        if self.optimizer is not None and not _trains(self.optimizer, self.student):
            raise ValueError(
                "The optimizer that was given (optimizers=...) holds none of the student's trainable parameters, so "
                "nothing would be learnt: a script's `model.parameters()` are the teacher's now. Make the student "
                "first (`create_student`) and the optimizer of its parameters, or give "
                "optimizer_cls_and_kwargs=(torch.optim.AdamW, {...})."
            )
        # Our loss is a share of the global batch's mean; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._hard_label_function, self.compute_loss_func = self.compute_loss_func, None
        self.teachers = [self._take_teacher(each, teacher_init_kwargs) for each in given]
        self.teacher = self.teachers[0]
        self.teacher_weights = _shares(teacher_weights, len(self.teachers))
        self.add_callback(_KeepTeacher(self))
        self.add_callback(self.recorder)
        self._label_alignment = LabelAlignment()
        self._settings()
        ours = collator is None and isinstance(self.data_collator, DataCollatorWithPadding)
        if ours and (self._max_length or 0) % 8 == 0:
            self.data_collator.pad_to_multiple_of = 8
        if teacher_processing_class is not None:
            self.data_collator = teacher_inputs.TeacherInputsCollator(self.data_collator, teacher_processing_class)

    # Teacher, student and settings

    @property
    def student(self) -> PreTrainedModel:
        """The student, also while `trainer.model` is the objective around it."""
        return self._objective.student if self._attached and self._objective is not None else self.model

    @property
    def _saved(self) -> PreTrainedModel:
        return self.student

    @property
    def _attached(self) -> bool:
        """Whether training is under way; the model may then be wrapped in more than the objective."""
        return self._signal is not None

    def _take_teacher(self, teacher: Teacher, init_kwargs: Mapping[str, Any] | None) -> PreTrainedModel:
        reads = self.teacher_processing_class or self.processing_class
        teacher = _loaded(teacher, auto_class(self.student), reads, init_kwargs)
        if teacher is self.student:
            raise ValueError("Teacher and student are the same object.")
        if getattr(teacher, "hf_device_map", None) is None and not getattr(teacher, "is_quantized", False):
            teacher = teacher.to(self.args.device)
        return freeze(teacher)

    def _settings(self) -> ObjectiveConfig:
        """Derive the settings from arguments and models, checking that they fit; done whenever training starts."""
        self.args.check()
        settings = self._settings_of(self.student)
        check_further_teachers(self.args, self.teachers)
        self._label_alignment = settings.label_alignment
        if self.teacher_processing_class is None:
            self._max_length = longest_input(self.student, self.teacher)
        else:
            self._max_length = Encoder.from_model(self.student).max_length
            check_teacher_inputs(self.train_dataset, self.teacher, "training")
            if self.args.report_fidelity:
                evaluated = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {"": self.eval_dataset}
                for dataset in evaluated.values():
                    check_teacher_inputs(dataset, self.teacher, "evaluation")
        check_data(self.train_dataset, self._max_length)
        return settings

    def _settings_of(self, student: PreTrainedModel) -> ObjectiveConfig:
        separate_vocabulary = self.teacher_processing_class is not None
        return build_objective_config(self.args, student, self.teacher, self._hard_label_function, separate_vocabulary)

    def _read_by_teacher(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """A batch, checked to hold the teacher's own token ids where the student's mean nothing to it."""
        if self.teacher_processing_class is not None and teacher_inputs.IDS not in inputs:
            raise ValueError(
                f"A batch has no {teacher_inputs.IDS!r}, and teacher_processing_class says that the teacher reads "
                "other tokens than the student: see `tokenize_for_teacher`; for evaluation, report_agreement=False "
                "does without the teacher."
            )
        return inputs

    # Attaching the objective for the time of training

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        resume = kwargs.get("resume_from_checkpoint", args[1] if len(args) > 1 else None)
        if resume is not None and not self.args.auto_find_batch_size:
            # transformers 4.57 takes the checkpoint's batch size of a process, whatever the processes are now.
            batch_size = self._train_batch_size = self.args.train_batch_size
        student = self.student
        objective = self._attach(student, resume)
        self.model = self.model_wrapped = objective
        try:
            return super()._inner_training_loop(batch_size, *args, **kwargs)
        finally:
            objective.detach()
            if self.args.torch_compile:
                torch._dynamo.reset()
            self.model = self.model_wrapped = student
            signal, self._signal = self._signal, None
            self._plan = self._resumed = self._phase = None
            if signal is not None:
                signal.close()

    def _attach(self, student: PreTrainedModel, resume: str | None) -> DistillationObjective:
        settings, before = self._settings(), self._objective
        projections = self._projections_of(student, settings)
        if before is not None and projections is not before.projections and self.optimizer is not None:
            self.optimizer = self.lr_scheduler = None
        if resume is not None:
            self._resume_from(resume, settings, projections)
        self._objective = DistillationObjective(
            student, Encoder.from_model(student), projections.to(self.args.device), settings
        )
        self._signal = self._open_source(settings)
        self._join_user_optimizer(projections)
        provenance.record(student, self.teachers, settings.mapping, self.args.phases)
        logger.info(f"Layer mapping:\n{settings.mapping}")
        settings.say_heads()
        return self._objective

    def _projections_of(self, student: PreTrainedModel, settings: ObjectiveConfig) -> Projections:
        """Those that this student was last trained with, or new ones."""
        before = self._objective
        if (
            before is not None
            and before.student is student
            and before.settings.hidden_layers == settings.hidden_layers
            and before.settings.prediction.pooling == settings.prediction.pooling
            and before.settings.mixing().keys() == settings.mixing().keys()
        ):
            return before.projections
        projections = Projections(
            Encoder.from_model(student).hidden_size,
            Encoder.from_model(self.teacher).hidden_size,
            set(settings.hidden_layers),
            shared=self.args.projection == "shared",
            seed=self.args.seed,
            mixing=settings.mixing(),
            vectors=settings.prediction.pooling is not None,
        )
        projections.start_from(offered(student))
        return projections

    def _open_source(self, settings: ObjectiveConfig) -> TeacherSource:
        """The live teacher, or one that keeps what it said (`teacher_cache`)."""
        args = self.args
        live = self._live_teacher(
            [settings.mapping[m] for m in settings.hidden_layers],
            [settings.mapping[m] for m in settings.attention_layers],
            kinds=settings.attention_kinds,
            compile_kwargs=compat.compile_arguments(args),
        )
        if args.teacher_cache == "none":
            return live
        dataset = self.train_dataset
        if rows.why_not(dataset) is None:
            dataset = self._remove_unused_columns(dataset, description="training")
        intermediate, prediction = PhasePlan.passes(args, len(dataset) if hasattr(dataset, "__len__") else 0)
        request = policy.Request(
            choice=args.teacher_cache,
            folder=Path(args.teacher_cache_dir or default_folder("teacher_cache")),
            dtype=args.teacher_cache_dtype,
            dataset=dataset,
            collator=self.data_collator,
            intermediate_passes=intermediate,
            prediction_passes=prediction,
            joint=args.phases == "joint",
            batch_size=args.per_device_eval_batch_size,
            device=args.device,
            autocast=args.teacher_mixed_precision or self.accelerator.mixed_precision,
            rank=args.process_index,
            processes=args.world_size,
            agree=lambda value: broadcast_object_list([value])[0],
        )
        try:
            return policy.open_source(live, request)
        except BaseException:
            live.close()
            raise

    def _live_teacher(self, hidden: Sequence[int], attention: Sequence[int], **kwargs: Any) -> OnlineTeacher:
        kwargs["autocast"] = self._teacher_autocast()
        says_vectors = self.args.phases != "intermediate" and output_type(self.teacher) == VECTORS
        kwargs["pooling"] = pooling_of(self.args, self.teacher) if says_vectors else None
        if len(self.teachers) == 1:
            return OnlineTeacher(self.teacher, hidden, attention, **kwargs)
        return TeacherEnsemble(self.teachers, self.teacher_weights, hidden, attention, **kwargs)

    def _asked(self) -> TeacherSource:
        """The teacher in an evaluation: that of the training under way, or one for this evaluation."""
        if self._signal is not None:
            return self._signal
        if self._for_evaluation is None:
            self._for_evaluation = self._live_teacher((), ())
        return self._for_evaluation

    def _teacher_autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        precision = self.args.teacher_mixed_precision
        if precision is None:
            return self.accelerator.autocast
        dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        return partial(torch.autocast, self.args.device.type, dtype=dtype, enabled=dtype is not None)

    def _join_user_optimizer(self, projections: Projections) -> None:
        """An optimiser that was passed in knows the student's parameters only: give it the projections too."""
        if self.optimizer is None:
            return
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        new = [p for p in projections.parameters() if id(p) not in known]
        if new:
            self.optimizer.add_param_group({"params": new})

    def _resume_from(self, folder: str, settings: ObjectiveConfig, projections: Projections) -> None:
        state = checkpoints.DistillationState.load(folder)
        now = (settings.mapping.to_string(), self.args.projection)
        if (state.layer_mapping, state.projection) != now:
            raise ValueError(
                f"The checkpoint {folder} was made with layer_mapping {state.layer_mapping!r} and projection "
                f"{state.projection!r}; the arguments now say {now[0]!r} and {now[1]!r}."
            )
        if state.joint != (self.args.phases == "joint"):
            raise ValueError(f"The checkpoint {folder} was made with other phases than {self.args.phases!r}.")
        checkpoints.load_projections(projections, folder)
        self._resumed = state

    # Phases, learning rates and counts

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """One schedule for both phases, each counting from its own first step."""
        resumed = None if self._resumed is None else self._resumed.intermediate_steps
        self._plan = PhasePlan.from_arguments(self.args, num_training_steps, resumed)
        if self.lr_scheduler is None:
            function = learning_rate_function(self.args, self._plan)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, function)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Fetch the micro-batches of a step, and count what they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self._attached or not batches:
            return batches, None
        assert self._plan is not None
        assert self._objective is not None
        step = self.state.global_step
        phase = self._plan.phase(step)
        self._enter(phase)
        self._steps_in_phase[phase] += 1
        if self._plan.begins_prediction(step):
            # A fresh optimiser, as each phase of the paper is a run of its own.
            getattr(self.optimizer, "optimizer", self.optimizer).state.clear()
        counts = BatchCounts.from_batches(
            batches,
            device,
            longest=self._max_length,
            reduce=self.accelerator.reduce if self.args.world_size > 1 else None,
            processes=max(self.args.world_size, 1),
            count_rows=self._objective.settings.prediction.counts_rows,
            windows=self._objective.settings.windows,
        )
        return batches, counts

    def _enter(self, phase: Phase) -> None:
        if phase == self._phase:
            return
        assert self._signal is not None
        assert self._objective is not None
        intermediate = bool(LEVELS[phase] & INTERMEDIATE_LEVELS)
        self._objective.begin(intermediate)
        self._signal.begin(intermediate)
        if self.args.torch_compile:
            # Compiled code does not notice that hooks have come or gone.
            torch._dynamo.reset()
        self._phase = phase

    # One step

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The distillation loss in training; the student's ordinary loss in evaluation."""
        if not model.training or not self._attached:
            loss, outputs = self._ordinary_loss(model, dict(inputs))  # the Trainer takes labels that it smooths out
            if self._agreement is not None and isinstance(outputs, Mapping):
                self._compare(inputs, logits_of(outputs))
            return (loss, outputs) if return_outputs else loss
        assert self._phase is not None
        assert self._signal is not None
        assert isinstance(num_items_in_batch, BatchCounts)
        levels = LEVELS[self._phase]
        if rows.ROW not in inputs and not isinstance(self._signal, OnlineTeacher):
            logger.warning_once(
                "The training batches carry no row numbers, which the default get_train_dataloader gives them: the "
                "teacher cache is of no use, and the teacher runs in every step."
            )
        read = self._read_by_teacher(inputs)
        teacher = self._signal.features(read, intermediate="hidden" in levels, prediction="prediction" in levels)
        if teacher.logits is not None:
            teacher.logits = self._label_alignment.logits(teacher.logits)
        loss, parts = model(**inputs, step=Step(teacher, levels, num_items_in_batch))
        for name, value in parts.items():
            self._parts[name] = self._parts[name] + value if name in self._parts else value
            self._phase_of_part[name] = self._phase
        return loss

    def _ordinary_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """A model's own loss and outputs; the teacher's in the student's order of labels, the mean of several."""
        is_teacher = self.accelerator.unwrap_model(model) is self.teacher
        plain = (
            self._label_alignment.indices is None and len(self.teachers) == 1 and self.teacher_processing_class is None
        )
        if not is_teacher or plain:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            return loss, outputs
        logits = self._asked().features(self._for_teacher(inputs), intermediate=False, prediction=True).logits
        assert logits is not None
        logits = self._label_alignment.logits(logits)
        prediction = OutputLoss(output_type(self.student))
        counts = BatchCounts.from_batches([inputs], logits.device, count_rows=prediction.counts_rows)
        labelled = any(inputs.get(name) is not None for name in LABELS)
        loss = prediction.hard(logits, inputs, counts) if labelled else logits.new_zeros(())
        return loss, prediction.output_of(logits, loss)

    def _for_teacher(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """A batch of an evaluation, with the teacher's own inputs, which were kept from the student."""
        return self._read_by_teacher({**inputs, **self._teachers_inputs})

    def _compare(self, inputs: Mapping[str, Any], logits: Tensor | None) -> None:
        assert self._agreement is not None
        teacher_logits = self._asked().features(self._for_teacher(inputs), False, prediction=True).logits
        if logits is not None and teacher_logits is not None:
            self._agreement.update(logits, self._label_alignment.logits(teacher_logits), inputs)

    # Logging

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the series of every level and layer to the training log, and stop at a NaN loss.

        Raises:
            FloatingPointError: the training loss is not a number.
        """
        loss = logs.get("loss", logs.get("train_loss"))  # the latter is the mean, said at the end
        if self._attached and loss is not None:
            if "loss" in logs:
                logs = logs | self._drain_parts()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"The loss is {loss} at step {self.state.global_step}: lower the learning rate, clip the "
                    "gradient (max_grad_norm), or use bf16 or float32 instead of fp16. "
                    f"Last values: { {k: v for k, v in logs.items() if k.startswith('loss_')} }"
                )
        super().log(logs, *args, **kwargs)

    def _drain_parts(self) -> dict[str, float]:
        """Means over the steps since the last log in which a level was matched, by level and layer.

        This is the one place where the parts are read from the device.
        """
        if not self._parts:
            return {}
        names = sorted(self._parts)
        sums = torch.stack([self._parts[name] for name in names])
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        steps = {name: self._steps_in_phase[self._phase_of_part[name]] for name in names}
        values = sums.tolist()
        self._forget_parts()
        return {f"loss_{name}": value / steps[name] for name, value in zip(names, values, strict=True)}

    def _forget_parts(self) -> None:
        self._parts = {}
        self._steps_in_phase = Counter()

    # Evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's loop, with the agreement of student and teacher among the metrics.

        A student without a head has no loss of its own: its evaluation measures how closely its layers and vectors
        follow the teacher's (see `hf_tinybert.evaluation.layer_fidelity`). `compute_metrics` is given its vectors as
        predictions and the teacher's as labels.
        """
        student, wanted = self.student, self.args.report_fidelity
        headless = peft.unwrapped(student).base_model is peft.unwrapped(student)
        vectors = headless and self.args.phases != "intermediate"
        loss_only = kwargs.get("prediction_loss_only", args[2] if len(args) > 2 else None)
        prefix = kwargs.get("metric_key_prefix", args[4] if len(args) > 4 else "eval")
        if vectors or (wanted and headless and loss_only):
            self._fidelity = self._open_fidelity(student)
        elif wanted and not headless:
            self._agreement = PredictionFidelity(output_type(student))
        try:
            output = super().evaluation_loop(*args, **kwargs)
            measure = self._fidelity or self._agreement
            if measure is not None and not self._teacher_answers:
                output.metrics.update(measure.compute(prefix, self.accelerator))
            return output
        finally:
            if self._fidelity is not None:
                self._fidelity.close()
            self._fidelity = self._agreement = None
            if self._for_evaluation is not None:
                self._for_evaluation.close()
                self._for_evaluation = None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The student's metrics, as of any Trainer."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        dataset = self._evaluated(eval_dataset)
        if not isinstance(dataset, Mapping):  # of several data sets, each was evaluated by itself
            self.recorder.note_student(metrics, metric_key_prefix, dataset)
        return metrics

    def _evaluated(self, eval_dataset: Any) -> Any:
        """The data set, or the mapping of them, that an argument of `evaluate` means."""
        if isinstance(eval_dataset, str):
            return self.eval_dataset[eval_dataset]
        return self.eval_dataset if eval_dataset is None else eval_dataset

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The Trainer's step, or that of a student without a head; what is the teacher's is kept from the student."""
        inputs = self._prepare_inputs(inputs)
        if self._fidelity is None:
            self._teachers_inputs = {name: inputs[name] for name in teacher_inputs.COLUMNS if name in inputs}
            is_teacher = self.accelerator.unwrap_model(model) is self.teacher
            own = dict(teacher_inputs.of_teacher(inputs)) if is_teacher else teacher_inputs.of_student(inputs)
            return super().prediction_step(model, own, prediction_loss_only, ignore_keys)
        loss, vectors, teachers = self._fidelity.update(self._read_by_teacher(inputs))
        if prediction_loss_only or vectors is None:
            return loss, None, None
        return (torch.zeros_like(loss), teachers, teachers) if self._teacher_answers else (loss, vectors, teachers)

    def _open_fidelity(self, student: PreTrainedModel) -> LayerFidelity:
        settings = self._settings_of(student)
        projections = self._projections_of(student, settings).to(self.args.device)
        return LayerFidelity(
            student, self.teacher, projections, settings, self.accelerator.autocast, self._teacher_autocast()
        )

    def evaluate_teacher(self, eval_dataset: Any = None, metric_key_prefix: str = "teacher") -> dict[str, float]:
        """The teacher's own metrics on a data set, computed as the student's are.

        Args:
            eval_dataset: tokenised examples; the trainer's `eval_dataset` by default. Of several, by name, or of the
                name of one in the trainer's `eval_dataset`, as in `evaluate`.
            metric_key_prefix: prefix of the metrics' names.

        Raises:
            ValueError: there are no data, or the models have no head, and their vectors are not compared.
        """
        if output_type(self.teacher) == VECTORS and self.args.phases == "intermediate":
            raise ValueError("A teacher without a head has no metrics of its own where only layers are matched.")
        dataset = self._evaluated(eval_dataset)
        if dataset is None:
            raise ValueError("evaluate_teacher() needs data: give eval_dataset, here or to the trainer.")
        if isinstance(dataset, Mapping):
            each = [self.evaluate_teacher(data, f"{metric_key_prefix}_{name}") for name, data in dataset.items()]
            return {name: value for found in each for name, value in found.items()}
        student, reports = self.model, self.args.report_fidelity
        self._teacher_answers = output_type(self.teacher) == VECTORS
        if not self._teacher_answers:
            self.model = self.model_wrapped = self.teacher
        self.args.report_fidelity = False
        try:
            loader = self.get_test_dataloader(dataset)
            output = self.evaluation_loop(
                loader, description="Evaluation of the teacher", metric_key_prefix=metric_key_prefix
            )
            metrics: dict[str, float] = output.metrics
            self.recorder.note_teacher(metrics, metric_key_prefix, dataset)
            return metrics
        finally:
            self.model = self.model_wrapped = student
            self.args.report_fidelity = reports
            self._teacher_answers = False

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Metrics of the intermediate phase mean nothing: they neither win nor, through patience, stop a run."""
        if self._phase == "intermediate":
            return False
        better: bool = super()._determine_best_metric(metrics, trial)
        return better

    # Saving and resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Distil; `resume_from_checkpoint=True` continues from the newest checkpoint that is whole.

        Raises:
            ValueError: there is no whole checkpoint to continue from.
            FloatingPointError: the loss became NaN.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoints.to_resume_from(self.args.output_dir)
            logger.info(f"Resuming from {resume_from_checkpoint}.")
        elif resume_from_checkpoint:
            missing = checkpoints.missing_parts(resume_from_checkpoint)
            if missing:
                raise ValueError(
                    f"The checkpoint {resume_from_checkpoint} cannot be resumed: it lacks {', '.join(missing)}."
                )
        self._forget_parts()
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student, as the Trainer does."""
        if self.is_deepspeed_enabled and not self._attached:
            # The engine was the objective's; up to ZeRO stage 2 the student's own weights are whole.
            if self.args.should_save:
                self._save(output_dir or self.args.output_dir)
            if self.args.push_to_hub and not _internal_call:
                self.push_to_hub(commit_message="Model save")
            return
        super().save_model(output_dir, _internal_call)

    def create_model_card(
        self,
        language: str | Sequence[str] | None = None,
        license: str | None = None,
        tags: str | Sequence[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: Any = None,
        dataset_tags: str | Sequence[str] | None = None,
        dataset: str | Sequence[str] | None = None,
        dataset_args: Any = None,
        comparison: Comparison | None = None,
        sentence: str = model_card.SENTENCE,
    ) -> None:
        """Write the student's model card and its pictures into the output folder.

        The card says what was measured: metrics of the last evaluation of these weights, the teacher's where
        `evaluate_teacher()` was called, sizes, latencies (taken here, unless `comparison` brings them).

        Args:
            language: two-letter codes; by default those of the teacher's card.
            license: by default that of the teacher's card.
            tags: further tags.
            model_name: title; by default the name of the repository or of the output folder.
            finetuned_from: not used; the teacher is known.
            tasks: not used; the student's head is known.
            dataset_tags: Hub ids of the data.
            dataset: what the data is called.
            dataset_args: not used.
            comparison: of teacher and student, if it was made before.
            sentence: what both models read in the picture of attention.
        """
        if self.is_world_process_zero():
            model_card.make(
                self,
                model_name or self._title,
                self._settings_of(self.student),
                comparison,
                sentence,
                language=language,
                license=license,
                tags=tags,
                dataset_tags=dataset_tags,
                dataset=dataset,
            )

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        compat.let_cpus_have_numbers()
        super()._load_optimizer_and_scheduler(checkpoint)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.args.should_save:
            run_dir = self._get_output_dir(trial=kwargs.get("trial", args[1] if len(args) > 1 else None))
            checkpoints.mark_incomplete(os.path.join(run_dir, f"checkpoint-{self.state.global_step}"))
        super()._save_checkpoint(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        whole = state_dict if self._attached else None  # gathered from the shards of student and projections
        if whole is not None:
            state_dict, self._gathered = (
                {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}
                for prefix in ("student.", "projections.")
            )
        with self._as_student():
            super()._save(output_dir, state_dict)
        self._gathered = None

    def _save_more(self, output_dir: str, staging: str) -> None:
        if peft.has_adapter(self.student) and not checkpoints.is_checkpoint_folder(output_dir):
            again = output_dir in self._bases
            peft.save_base(self.student, self.processing_class, output_dir, staging, again)
            self._bases.add(output_dir)
        pooling = None if self._objective is None else self._objective.settings.prediction.pooling
        if self._objective is not None and pooling is not None and not peft.has_adapter(self.student):
            encoder, dense = Encoder.from_model(self.student), self._objective.projections.of_vectors
            sentence_transformers_files.write(staging, encoder.hidden_size, pooling, encoder.max_length, dense)
        if self._objective is not None and self._plan is not None and checkpoints.is_checkpoint_folder(output_dir):
            checkpoints.save_projections(self._gathered or self._objective.projections.state_dict(), staging)
            self._distillation_state(self._objective).save(staging)

    def _distillation_state(self, objective: DistillationObjective) -> checkpoints.DistillationState:
        assert self._plan is not None
        return checkpoints.DistillationState(
            intermediate_steps=self._plan.intermediate_steps,
            joint=self._plan.joint,
            layer_mapping=objective.settings.mapping.to_string(),
            projection=self.args.projection,
        )

    def _load_best_model(self) -> None:
        with self._as_student():
            super()._load_best_model()
        best = str(self.state.best_model_checkpoint)
        # A sentence encoder's last layer is one of these. Sharded weights do not take a file's.
        if self._objective is not None and not self.is_fsdp_enabled and checkpoints.has_projections(best):
            checkpoints.load_projections(self._objective.projections, best)

    @contextmanager
    def _as_student(self) -> Iterator[None]:
        """For the Trainer's own saving and loading, `self.model` is the student."""
        model = self.model
        self.model = self.student
        try:
            yield
        finally:
            self.model = model

    # Data

    def get_train_dataloader(self) -> Any:
        """The Trainer's data loader; with a teacher cache, its batches know their rows."""
        if self._signal is None:
            return super().get_train_dataloader()
        dataset, collator = self.train_dataset, self.data_collator
        self.train_dataset, self.data_collator = self._signal.data(dataset, collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _set_signature_columns_if_needed(self) -> None:
        with self._as_student():
            super()._set_signature_columns_if_needed()
        beside = [rows.ROW, *(teacher_inputs.COLUMNS if self.teacher_processing_class is not None else ())]
        self._signature_columns += [name for name in beside if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset, args = train_dataset if train_dataset is not None else self.train_dataset, self.args
        lengths = sampler.lengths_of(dataset, args.length_column_name) if compat.groups_by_length(args) else None
        if lengths is None:
            with compat.without_grouping(args):
                return super()._get_train_sampler(*(() if train_dataset is None else (train_dataset,)))
        seed = args.data_seed if args.data_seed is not None else args.seed
        batch = args.train_batch_size * args.gradient_accumulation_steps * max(args.world_size, 1)
        return sampler.SeededLengthGroupedSampler(batch, lengths, seed)
