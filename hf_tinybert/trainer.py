"""`DistillationTrainer`: glue between transformers' Trainer and the distillation objective.

While `train()` runs, `trainer.model` is a `DistillationObjective` around the student, so that projections are
trained, clipped and synchronised like any parameter; before and after it, `trainer.model` is the student.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Unpack

import datasets
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import EvalPrediction, TrainOutput
from transformers.utils import ModelOutput, logging

from hf_tinybert import model_card
from hf_tinybert.data import sampler
from hf_tinybert.distillation import validation
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.loss_series import check_finite
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.output_matching import LabelLoss
from hf_tinybert.distillation.phases import PhasePlan, learning_rate_function
from hf_tinybert.distillation.run import DistillationRun, check_optimizer, join_optimizer, open_source
from hf_tinybert.distillation.start_watch import StartWatch
from hf_tinybert.evaluation.fidelity_evaluation import FidelityEvaluation
from hf_tinybert.evaluation.fidelity_trainer import FidelityTrainer
from hf_tinybert.hub import checkpoints
from hf_tinybert.hub.saving import StudentFiles
from hf_tinybert.models import peft
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.student import provenance
from hf_tinybert.student.create import create_student_from_data, refuse_init
from hf_tinybert.teacher import inputs as teacher_inputs
from hf_tinybert.teacher.cache import rows
from hf_tinybert.teacher.ensemble import Teacher, Teachers, as_list, load_teachers
from hf_tinybert.training_args import DistillationTrainingArguments
from hf_tinybert.utils import compat
from hf_tinybert.utils.types import AnyDataset, Batch, Collator

if TYPE_CHECKING:
    from peft import PeftConfig

    from hf_tinybert.benchmark.comparison import Comparison

logger = logging.get_logger(__name__)


class DistillationTrainer(FidelityTrainer):
    """A `Trainer` that distils a teacher into `model` as TinyBERT does.

    `train()` matches all levels in every step, or in the paper's two phases (`phases="two_phase"`); everything else
    (`evaluate`, `predict`, `compute_metrics`, callbacks, checkpoints, resume, `push_to_hub`,
    `hyperparameter_search`) is the Trainer's. Evaluation uses the student's ordinary loss. `Trainer` describes the
    arguments that are not listed here; an optimizer must hold parameters of the student.

    Args:
        model: the student (see `create_student`), or from what `create_student` makes one: a preset's name or a
            `TinyBertConfig`, which is then initialised from the weights of the `teacher` and a sample of the
            `train_dataset` (or at random, with `args.student_init="random"`), or the name of a checkpoint. Or use
            `model_init`.
        args: the arguments; `DistillationTrainingArguments("tmp_trainer")` by default.
        compute_loss_func: replaces the hard-label loss.
        teacher: a model, a folder, or a Hub id; with a LoRA adapter (a `PeftModel`, or its folder), the adapter is
            merged into a copy, which acts as the teacher. Of a list of teachers, logits are averaged, and the first
            one's layers are matched.
        teacher_weights: relative shares of several teachers; equal by default.
        teacher_init_kwargs: further arguments of `from_pretrained`, for a teacher given by name.
        teacher_processing_class: the teacher's tokenizer, where it is not the student's: the data then hold inputs for
            both (see `hf_tinybert.tokenize_for_teacher`), and sequence-level outputs are compared
            (`phases="prediction"`).
        peft_config: peft's configuration of an adapter (`LoraConfig(task_type="SEQ_CLS", ...)`), which is then trained
            in place of the student's own weights. A student may also be a `PeftModel`. The adapter is saved, and its
            base model beside it, in `base`; `hf_tinybert.merge_adapter` makes one model of both.
        tokenizer: the older name of `processing_class`.

    Raises:
        ValueError: teacher and student do not fit each other or the arguments.
    """

    args: DistillationTrainingArguments
    optimizer: Optimizer | None
    lr_scheduler: LRScheduler | None
    train_dataset: AnyDataset
    data_collator: Collator

    def __init__(
        self,
        model: PreTrainedModel | PretrainedConfig | str | os.PathLike[str] | None = None,
        args: DistillationTrainingArguments | None = None,
        data_collator: Collator | None = None,
        train_dataset: AnyDataset | None = None,
        eval_dataset: validation.EvaluationData | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init: Callable[[], PreTrainedModel] | Callable[[object], PreTrainedModel] | None = None,
        compute_loss_func: LabelLoss | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, object]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        teacher: Teacher | Sequence[Teacher] | None = None,
        teacher_weights: Sequence[float] | None = None,
        teacher_init_kwargs: Mapping[str, object] | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Check that everything fits, and set the Trainer up around the student."""
        args = DistillationTrainingArguments(output_dir="tmp_trainer") if args is None else args
        validation.check_arguments(args)
        teachers = as_list(teacher)
        processing_class = processing_class or tokenizer
        # Collators that pad have a tokenizer.
        tokenizer = processing_class or getattr(data_collator, "tokenizer", None)
        if isinstance(model, str | os.PathLike | PretrainedConfig):
            teachers = load_teachers(teachers, None, teacher_processing_class or tokenizer, teacher_init_kwargs)
            teacher_init_kwargs = None
            separate = teacher_processing_class is not None
            model = create_student_from_data(teachers[0], model, train_dataset, tokenizer, args, separate)
        else:
            refuse_init(args)
        if peft_config is not None:
            if model is None:
                raise ValueError("peft_config needs model=...; a model_init must return a PeftModel itself.")
            model = peft.add_adapter(model, peft_config)
        self._objective: DistillationObjective | None = None
        self._run: DistillationRun | None = None
        self._files = StudentFiles()
        self.recorder = model_card.Recorder()
        # Streams have no lengths to group by, and transformers 4.57 raises an error.
        streams = isinstance(train_dataset, torch.utils.data.IterableDataset)
        with compat.without_grouping(args) if streams else nullcontext():
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                model_init=model_init,
                compute_metrics=compute_metrics,
                callbacks=[self.recorder, *(callbacks or ())],
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            )
        validation.check_fsdp(args, self.is_fsdp_enabled, getattr(self.accelerator, "is_fsdp2", False))
        check_optimizer(self.optimizer, self.student)
        # The loss is a share of the global batch's mean; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._hard_label_function = compute_loss_func
        tokenizer = teacher_processing_class or self.processing_class
        models = load_teachers(teachers, self.student, tokenizer, teacher_init_kwargs)
        self._teachers = Teachers(models, teacher_weights, args, self.accelerator.autocast, teacher_processing_class)
        self._fidelity = FidelityEvaluation(self._teachers, args, self.accelerator)
        self.teachers, self.teacher_weights = self._teachers.models, self._teachers.weights
        self.teacher, self.teacher_processing_class = self._teachers.first, teacher_processing_class
        longest = self._check()[1]
        divisible = (longest or 0) % 8 == 0
        if data_collator is None and divisible and isinstance(self.data_collator, DataCollatorWithPadding):
            self.data_collator.pad_to_multiple_of = 8
        if teacher_processing_class is not None:
            tokenizers = self.processing_class, teacher_processing_class
            self.data_collator = validation.collator_for_both(args, self.student, self.data_collator, *tokenizers)

    # Student, teacher and matched levels

    @property
    def student(self) -> PreTrainedModel:
        """The student, also while `trainer.model` is the objective around it."""
        return self.model if self._run is None else self._run.objective.student

    @property
    def _saved(self) -> PreTrainedModel:
        return self.student

    def _check(self) -> tuple[ObjectiveConfig, int | None]:
        """The matched levels and the longest input; called whenever training starts, because arguments can change."""
        self.args.check()
        settings = self._settings_of(self.student)
        validation.check_further_teachers(self.args, self.teachers)
        self._teachers.label_alignment = settings.label_alignment
        tokenizers = self.processing_class, self.teacher_processing_class
        longest = validation.check_datasets(
            self.args, self.student, self.teachers, self.train_dataset, self.eval_dataset, tokenizers
        )
        return settings, longest

    def _settings_of(self, student: PreTrainedModel) -> ObjectiveConfig:
        separate = self.teacher_processing_class is not None
        return validation.build_objective_config(self.args, student, self.teacher, self._hard_label_function, separate)

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: object) -> TrainOutput:
        """Distil; `resume_from_checkpoint=True` resumes from the newest complete checkpoint.

        Raises:
            ValueError: there is no complete checkpoint to resume from.
            FloatingPointError: the loss became NaN.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoints.to_resume_from(self.args.output_dir)
            logger.info(f"Resuming from {resume_from_checkpoint}.")
        elif resume_from_checkpoint:
            checkpoints.check_whole(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: DistillationTrainingArguments | None = None,
        resume_from_checkpoint: str | None = None,
        trial: object = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        if resume_from_checkpoint is not None and not self.args.auto_find_batch_size:
            # transformers 4.57 uses the checkpoint's batch size per process, also with another number of processes.
            batch_size = self._train_batch_size = self.args.train_batch_size
        student = self.student
        run = self._start_run(student, resume_from_checkpoint, batch_size or self.args.train_batch_size)
        self._run, self.model, self.model_wrapped = run, run.objective, run.objective
        self.callback_handler.callbacks.insert(0, run)
        try:
            return super()._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._run, self.model, self.model_wrapped = None, student, student
            self.callback_handler.callbacks.remove(run)
            run.close()

    def _start_run(self, student: PreTrainedModel, resume: str | None, batch_size: int) -> DistillationRun:
        """Measure the start, open the source of the teacher's features, and put the objective around the student."""
        args, before = self.args, self._objective
        settings, longest = self._check()
        state = None if resume is None else checkpoints.DistillationState.load(resume)
        data, measured = self._training_data(), None if state is None else state.start
        autocast = self.accelerator.autocast
        watch = StartWatch(self._teachers, settings, args, autocast, data, measured, batch_size, longest)
        projections = watch.begin(student, before)
        settings = watch.settings
        if before is not None and projections is not before.projections and self.optimizer is not None:
            self.optimizer = self.lr_scheduler = None
        if state is not None:
            state.resume(str(resume), settings, args, projections)
        # First: a cache that is refused must leave no hooks on the student, and the optimiser as it is.
        source = open_source(self._teachers, settings, args, *data, self.accelerator.mixed_precision)
        objective = DistillationObjective(student, Encoder.from_model(student), projections, settings, watch.variances)
        join_optimizer(self.optimizer, projections)
        mapping, start = settings.mapping, watch.metrics
        provenance.record(student, self.teachers, mapping, args.phases, start=start, unmatched=watch.unmatched)
        self._objective = objective
        boundary = None if state is None else state.intermediate_steps
        return DistillationRun(objective, source, self._teachers, args, watch, boundary, longest, self.accelerator)

    def _training_data(self) -> tuple[AnyDataset, Collator]:
        """Training data and collator without the columns that no model reads."""
        dataset, collator = self.train_dataset, self.data_collator
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description="training"), collator
        return dataset, self._get_collator_with_removed_columns(collator, description="training")

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler | None:
        """One schedule for both phases, each counting from its own first step."""
        optimizer = optimizer or self.optimizer
        if self.lr_scheduler is None and optimizer is not None:
            steps, run = num_training_steps, self._run
            plan = PhasePlan.from_arguments(self.args, steps) if run is None else run.plan(steps)
            self.lr_scheduler = LambdaLR(optimizer, learning_rate_function(self.args, plan))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], BatchCounts | None]:
        """Fetch the micro-batches of a step, and count what they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, None if self._run is None or not batches else self._run.counts(batches, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: object = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The distillation loss in training; the student's ordinary loss in evaluation."""
        if self._run is not None and model.training and isinstance(num_items_in_batch, BatchCounts):
            return self._run.loss(model, inputs, num_items_in_batch)
        return super().compute_loss(model, inputs, return_outputs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses of every level and layer to the training log, and stop at a NaN loss.

        Raises:
            FloatingPointError: the training loss is not a number.
        """
        loss = logs.get("loss", logs.get("train_loss"))  # the latter is the mean, logged at the end
        if self._run is not None and loss is not None:
            if "loss" in logs:
                logs = logs | self._run.drain()
            check_finite(loss, self.state.global_step, logs)
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        """Ignore metrics of the intermediate phase: they neither select a checkpoint nor stop a run early."""
        if self._run is not None and self._run.phase == "intermediate":
            return False
        return super()._determine_best_metric(metrics, trial)

    # Saving and loading

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student, as the Trainer does."""
        if not self.is_deepspeed_enabled or self._run is not None:
            super().save_model(output_dir, _internal_call)
            return
        # The engine was the objective's; up to ZeRO stage 2 the student's own weights are complete.
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if self._run is not None and state_dict is not None:
            state_dict = self._files.split(state_dict)
        super()._save(output_dir, state_dict)
        self._files.forget()

    def _save_more(self, output_dir: str, staging: str) -> None:
        run, state = self._run, None
        if run is not None:
            plan, start = run.plan(self.state.max_steps), run.watch.measured
            state = checkpoints.DistillationState.from_run(run.objective, self.args.projection, plan, start)
        self._files.write(output_dir, staging, self.student, self.processing_class, self._objective, state)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = str(self.state.best_model_checkpoint)
        # A sentence encoder's last layer is one of these. Sharded weights cannot be loaded from a file.
        if self._objective is not None and not self.is_fsdp_enabled and checkpoints.has_projections(best):
            checkpoints.load_projections(self._objective.projections, best)

    def create_model_card(
        self,
        *,
        model_name: str | None = None,
        comparison: Comparison | None = None,
        sentence: str = model_card.SENTENCE,
        **metadata: Unpack[model_card.CardMetadata],
    ) -> None:
        """Write the student's model card and its pictures into the output folder.

        Args:
            model_name: title; by default the name of the repository or of the output folder.
            comparison: of teacher and student; by default it is measured now.
            sentence: input of both models for the picture of attention maps.
            **metadata: `language`, `license`, `tags`, `dataset_tags`, `dataset`, as for `Trainer.create_model_card`;
                its other arguments are ignored, because the trainer has these facts.
        """
        if self.is_world_process_zero():
            settings = self._settings_of(self.student)
            model_card.make(self, model_name or self._title, settings, comparison, sentence, **metadata)

    # Data

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The Trainer's data loader; with a teacher cache, its batches hold their rows' numbers."""
        if self._run is None:
            return super().get_train_dataloader()
        dataset, collator = self.train_dataset, self.data_collator
        self.train_dataset, self.data_collator = self._run.source.data(dataset, collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        further = [rows.ROW, *(teacher_inputs.COLUMNS if self.teacher_processing_class is not None else ())]
        self._signature_columns += [name for name in further if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: AnyDataset | None = None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        grouped = sampler.grouped_by_length(dataset, self.args)
        if grouped is not None:
            return grouped
        with compat.without_grouping(self.args):
            return super()._get_train_sampler(*(() if train_dataset is None else (train_dataset,)))
