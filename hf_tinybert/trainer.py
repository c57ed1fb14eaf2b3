"""`DistillationTrainer`: glue between transformers' Trainer and the distillation objective.

While `train()` runs, `trainer.model` is a `DistillationObjective` around the student, so that projections are
trained, clipped and synchronised like any parameter; before and after it, `trainer.model` is the student.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.utils import logging

from hf_tinybert import model_card
from hf_tinybert.data import sampler
from hf_tinybert.distillation import validation
from hf_tinybert.distillation.batch_counts import BatchCounts
from hf_tinybert.distillation.loss_series import check_finite
from hf_tinybert.distillation.objective import DistillationObjective, ObjectiveConfig
from hf_tinybert.distillation.phases import PhasePlan, learning_rate_function
from hf_tinybert.distillation.run import DistillationRun, check_optimizer, join_optimizer, open_source, projections_for
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

if TYPE_CHECKING:
    from hf_tinybert.benchmark.comparison import Comparison

logger = logging.get_logger(__name__)


class DistillationTrainer(FidelityTrainer):
    """A `Trainer` that distils a teacher into `model` as TinyBERT does.

    `train()` matches all levels in every step, or in the paper's two phases (`phases="two_phase"`); everything else
    (`evaluate`, `predict`, `compute_metrics`, callbacks, checkpoints, resume, `push_to_hub`,
    `hyperparameter_search`) is the Trainer's. A custom `compute_loss_func` takes the place of the hard-label loss.
    Evaluation uses the student's ordinary loss. `Trainer` describes the arguments that are not listed here; an
    optimizer must hold parameters of the student.

    Args:
        model: the student (see `create_student`), or what `create_student` makes one of: a preset's name or a
            `TinyBertConfig`, which is then initialised from the weights of the `teacher` and a sample of the
            `train_dataset` (or at random, with `args.student_init="random"`), or the name of a checkpoint. Or use
            `model_init`.
        args: the arguments; `DistillationTrainingArguments("tmp_trainer")` by default.
        compute_loss_func: takes the place of the hard-label loss.
        teacher: a model, a folder, or a Hub id; with a LoRA adapter (a `PeftModel`, or its folder), the adapter is
            merged into a copy, which acts as the teacher. Of a list of teachers, logits are averaged, and the first
            one's layers are matched.
        teacher_weights: shares of several teachers, in proportion; equal by default.
        teacher_init_kwargs: for a teacher given by name: further arguments of `from_pretrained`.
        teacher_processing_class: the teacher's tokenizer, where it is another than the student's: the data then carry
            the teacher's own inputs (see `hf_tinybert.tokenize_for_teacher`), and sequence-level outputs are compared
            (`phases="prediction"`).
        peft_config: peft's configuration of an adapter (`LoraConfig(task_type="SEQ_CLS", ...)`), which is then trained
            in place of the student's own weights. A student may also come as a `PeftModel`. The adapter is saved, and
            beside it, in `base`, the model that it belongs to; `hf_tinybert.merge_adapter` makes one model of both.
        tokenizer: the older name of `processing_class`.

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
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        *,
        teacher: Teacher | Sequence[Teacher] | None = None,
        teacher_weights: Sequence[float] | None = None,
        teacher_init_kwargs: Mapping[str, Any] | None = None,
        teacher_processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        tokenizer: Any = None,
    ) -> None:
        """Check that everything fits, and set the Trainer up around the student."""
        args = DistillationTrainingArguments(output_dir="tmp_trainer") if args is None else args
        validation.check_arguments(args)
        teachers = as_list(teacher)
        processing_class = processing_class or tokenizer
        # Collators that pad have a tokenizer, too.
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
                raise ValueError("peft_config goes with model; with model_init, let that return a PeftModel.")
            model = peft.add_adapter(model, peft_config)
        self._objective: DistillationObjective | None = None
        self._run: DistillationRun | None = None
        self._files = StudentFiles()
        self.recorder = model_card.Recorder()
        # Streams have no lengths to group by, and transformers 4.57 refuses to try.
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
        # Our loss is a share of the global batch's mean; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._hard_label_function = compute_loss_func
        reads = teacher_processing_class or self.processing_class
        models = load_teachers(teachers, self.student, reads, teacher_init_kwargs)
        self._teachers = Teachers(models, teacher_weights, args, self.accelerator.autocast, teacher_processing_class)
        self._fidelity = FidelityEvaluation(self._teachers, args, self.accelerator)
        self.teachers, self.teacher_weights = self._teachers.models, self._teachers.weights
        self.teacher, self.teacher_processing_class = self._teachers.first, teacher_processing_class
        longest = self._check()[1]
        if (
            data_collator is None
            and isinstance(self.data_collator, DataCollatorWithPadding)
            and (longest or 0) % 8 == 0
        ):
            self.data_collator.pad_to_multiple_of = 8
        if teacher_processing_class is not None:
            self.data_collator = teacher_inputs.TeacherInputsCollator(self.data_collator, teacher_processing_class)

    # Student, teacher and what is matched

    @property
    def student(self) -> PreTrainedModel:
        """The student, also while `trainer.model` is the objective around it."""
        return self.model if self._run is None else self._run.objective.student

    @property
    def _saved(self) -> PreTrainedModel:
        return self.student

    def _check(self) -> tuple[ObjectiveConfig, int | None]:
        """What is matched, and the longest input; done whenever training starts, because arguments can change."""
        self.args.check()
        settings = self._settings_of(self.student)
        validation.check_further_teachers(self.args, self.teachers)
        self._teachers.label_alignment = settings.label_alignment
        separate = self.teacher_processing_class is not None
        longest = validation.check_datasets(
            self.args, self.student, self.teachers, self.train_dataset, self.eval_dataset, separate
        )
        return settings, longest

    def _settings_of(self, student: PreTrainedModel) -> ObjectiveConfig:
        separate = self.teacher_processing_class is not None
        return validation.build_objective_config(self.args, student, self.teacher, self._hard_label_function, separate)

    # Training

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
            checkpoints.check_whole(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: Any = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        if resume_from_checkpoint is not None and not self.args.auto_find_batch_size:
            # transformers 4.57 takes the checkpoint's batch size of a process, whatever the processes are now.
            batch_size = self._train_batch_size = self.args.train_batch_size
        student = self.student
        run = self._start_run(student, resume_from_checkpoint)
        self._run, self.model, self.model_wrapped = run, run.objective, run.objective
        self.callback_handler.callbacks.insert(0, run)
        try:
            return super()._inner_training_loop(batch_size, args, resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._run, self.model, self.model_wrapped = None, student, student
            self.callback_handler.callbacks.remove(run)
            run.close()

    def _start_run(self, student: PreTrainedModel, resume: str | None) -> DistillationRun:
        """Put the objective around the student, and open the source of the teacher's features."""
        args, before = self.args, self._objective
        settings, longest = self._check()
        projections = projections_for(student, self.teacher, settings, args, before)
        if before is not None and projections is not before.projections and self.optimizer is not None:
            self.optimizer = self.lr_scheduler = None
        resumed = None if resume is None else checkpoints.resume(resume, settings, args, projections)
        encoder = Encoder.from_model(student)
        objective = DistillationObjective(student, encoder, projections.to(args.device), settings)
        join_optimizer(self.optimizer, projections)
        provenance.record(student, self.teachers, settings.mapping, args.phases)
        logger.info(f"Layer mapping:\n{settings.mapping}")
        settings.say_heads()
        self._objective = objective
        dataset = self.train_dataset
        if args.teacher_cache != "none" and rows.why_not(dataset) is None:
            dataset = self._remove_unused_columns(dataset, description="training")
        several = args.world_size > 1
        return DistillationRun(
            objective,
            open_source(self._teachers, settings, args, dataset, self.data_collator, self.accelerator.mixed_precision),
            self._teachers,
            args,
            boundary=None if resumed is None else resumed.intermediate_steps,
            max_length=longest,
            reduce=self.accelerator.reduce if several else None,
            wait=self.accelerator.wait_for_everyone if several else None,
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """One schedule for both phases, each counting from its own first step."""
        if self.lr_scheduler is None:
            boundary = None if self._run is None else self._run.boundary
            plan = PhasePlan.from_arguments(self.args, num_training_steps, boundary)
            function = learning_rate_function(self.args, plan)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, function)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Fetch the micro-batches of a step, and count what they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, None if self._run is None or not batches else self._run.counts(batches, device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distillation loss in training; the student's ordinary loss in evaluation."""
        if self._run is not None and model.training and isinstance(num_items_in_batch, BatchCounts):
            return self._run.loss(model, inputs, num_items_in_batch)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the series of every level and layer to the training log, and stop at a NaN loss.

        Raises:
            FloatingPointError: the training loss is not a number.
        """
        loss = logs.get("loss", logs.get("train_loss"))  # the latter is the mean, said at the end
        if self._run is not None and loss is not None:
            if "loss" in logs:
                logs = logs | self._run.drain()
            check_finite(loss, self.state.global_step, logs)
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Metrics of the intermediate phase mean nothing: they neither win nor, through patience, stop a run."""
        if self._run is not None and self._run.phase == "intermediate":
            return False
        better: bool = super()._determine_best_metric(metrics, trial)
        return better

    # Saving and loading

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student, as the Trainer does."""
        if not self.is_deepspeed_enabled or self._run is not None:
            super().save_model(output_dir, _internal_call)
            return
        # The engine was the objective's; up to ZeRO stage 2 the student's own weights are whole.
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self._run is not None and state_dict is not None:
            state_dict = self._files.split(state_dict)
        super()._save(output_dir, state_dict)
        self._files.forget()

    def _save_more(self, output_dir: str, staging: str) -> None:
        run, state = self._run, None
        if run is not None:
            plan = run.plan(self.state.max_steps)
            state = checkpoints.DistillationState.from_run(run.objective.settings, self.args.projection, plan)
        self._files.write(output_dir, staging, self.student, self.processing_class, self._objective, state)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = str(self.state.best_model_checkpoint)
        # A sentence encoder's last layer is one of these. Sharded weights do not take a file's.
        if self._objective is not None and not self.is_fsdp_enabled and checkpoints.has_projections(best):
            checkpoints.load_projections(self._objective.projections, best)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        compat.let_cpus_have_numbers()
        super()._load_optimizer_and_scheduler(checkpoint)

    def create_model_card(
        self,
        *,
        model_name: str | None = None,
        comparison: Comparison | None = None,
        sentence: str = model_card.SENTENCE,
        **metadata: Any,
    ) -> None:
        """Write the student's model card and its pictures into the output folder.

        Args:
            model_name: title; by default the name of the repository or of the output folder.
            comparison: of teacher and student, if it was made before.
            sentence: what both models read in the picture of attention.
            **metadata: `language`, `license`, `tags`, `dataset_tags`, `dataset`, as for `Trainer.create_model_card`,
                whose other arguments are not used: they are known.
        """
        if self.is_world_process_zero():
            settings = self._settings_of(self.student)
            model_card.make(self, model_name or self._title, settings, comparison, sentence, **metadata)

    # Data

    def get_train_dataloader(self) -> Any:
        """The Trainer's data loader; with a teacher cache, its batches know their rows."""
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
        beside = [rows.ROW, *(teacher_inputs.COLUMNS if self.teacher_processing_class is not None else ())]
        self._signature_columns += [name for name in beside if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        given = () if train_dataset is None else (train_dataset,)
        grouped = sampler.grouped_by_length(*(given or (self.train_dataset,)), self.args)
        if grouped is not None:
            return grouped
        with compat.without_grouping(self.args):
            return super()._get_train_sampler(*given)
