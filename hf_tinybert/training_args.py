"""`DistillationTrainingArguments`: every `TrainingArguments` field, and what distillation adds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_tinybert.models.pooling import POOLINGS
from hf_tinybert.utils import compat

HEAD_MATCHINGS = ("auto", "heads", "mean", "mixing", "relations")
#: `"teacher"`, `"random"`, the folder or Hub id of an encoder, or several of them.
StudentInit: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
PHASES = ("joint", "two_phase", "intermediate", "prediction")
#: Default learning rates: of runs that match layers in every step, and of predictions alone.
JOINT_RATE, PREDICTION_RATE = 3e-4, 1e-4
#: Share of the steps in which the learning rate rises.
WARMUP = 0.06
TEACHER_CACHES = ("none", "logits", "features", "auto")
CACHE_DTYPES = ("float16", "bfloat16", "float32")
MIXED_PRECISIONS = ("no", "bf16", "fp16")
_CHOICES: dict[str, tuple[str, ...]] = {
    "phases": PHASES,
    "projection": ("per_layer", "shared"),
    "head_matching": HEAD_MATCHINGS,
    "loss_reduction": ("mean", "paper"),
    "loss_scaling": ("variance", "none"),
    "pooling": POOLINGS,
    "teacher_cache": TEACHER_CACHES,
    "teacher_mixed_precision": MIXED_PRECISIONS,
    "teacher_cache_dtype": CACHE_DTYPES,
}
#: The arguments of `_CHOICES` that may be None.
_OPTIONAL = ("pooling", "teacher_mixed_precision")


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """Arguments of a distillation run.

    By default every step matches all levels; `phases="two_phase"` is the paper's order, first the layers, then the
    prediction. `num_train_epochs` (or `max_steps`) covers both phases; `learning_rate`, warm-up and
    `lr_scheduler_type` are then those of the prediction phase. Defaults that differ from `TrainingArguments`:
    `num_train_epochs` is 10; `learning_rate` is 3e-4, or 1e-4 with `phases="two_phase"` and `"prediction"`, where 3e-4
    gave lower scores (`docs/results.md`); it warms up over 6% of the steps, without which the first steps undo what a
    student starts with; batches hold sequences of similar length
    (`group_by_length`, in transformers 5 `train_sampling_strategy`), if the training data are a tokenised
    `datasets.Dataset`; `logging_nan_inf_filter` is off (it synchronises with the device in every step and hides NaN;
    the run stops at a NaN instead); and `ddp_find_unused_parameters` is on (each phase leaves some parameters unused).
    """

    phases: str = field(
        default="joint",
        metadata={
            "help": "'joint': all levels in every step. 'two_phase': intermediate layers, then prediction (the "
            "paper's task distillation). 'intermediate' or 'prediction': one of them alone.",
            "choices": list(PHASES),
        },
    )
    student_init: list[str] | None = field(
        default=None,
        metadata={
            "help": "Initialisation of a student given by a preset's name or a configuration: from the teacher's "
            "weights ('teacher', the default), those of another encoder (its folder or Hub id), or at 'random'. Of "
            "several, that which follows the teacher most closely. In Python also one name, not in a list."
        },
    )
    intermediate_share: float = field(
        default=0.6,
        metadata={"help": "Share of all steps in the intermediate phase of a two-phase run."},
    )
    num_intermediate_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs, of num_train_epochs, for the intermediate phase; replaces intermediate_share."},
    )
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the data, in all phases together."})
    learning_rate: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Learning rate of the run; with 'two_phase', of the prediction phase; 'intermediate' has its own. "
            "Default: 3e-4, and 1e-4 with 'two_phase' and 'prediction'."
        },
    )
    intermediate_learning_rate: float = field(
        default=3e-4,
        metadata={"help": "Learning rate of the intermediate phase, with 'two_phase' and 'intermediate'."},
    )
    intermediate_lr_scheduler_type: str = field(
        default="constant", metadata={"help": "Schedule of the intermediate phase; constant in the paper."}
    )
    intermediate_warmup_ratio: float = field(
        default=0.0,
        metadata={"help": "Share of the intermediate phase for warm-up, if its schedule has one."},
    )
    layer_mapping: str = field(
        default="uniform",
        metadata={"help": "'uniform', 'first', 'last', or pairs student:teacher such as '0:0,1:3,2:6'."},
    )
    projection: str = field(
        default="per_layer",
        metadata={
            "help": "'per_layer': a learnt projection for each matched level; 'shared': one for all.",
            "choices": ["per_layer", "shared"],
        },
    )
    head_matching: str = field(
        default="auto",
        metadata={
            "help": "How attention is compared. 'heads': head by head. For different numbers of heads: 'mixing', with "
            "learnt mixtures of the student's heads; 'mean', the means over heads; 'relations', MiniLMv2's relations "
            "of queries, keys and values. 'auto': 'heads' if the numbers are equal, else 'mixing'.",
            "choices": list(HEAD_MATCHINGS),
        },
    )
    embedding_weight: float = field(default=1.0, metadata={"help": "Weight of the embedding loss; 0: not computed."})
    hidden_weight: float = field(default=1.0, metadata={"help": "Weight of the hidden-state losses; 0: not computed."})
    attention_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the attention-score losses; 0: not computed. Default: 1; 0 where the student's heads "
            "are others than the teacher's (loss_scaling='variance' measures it before the first step)."
        },
    )
    prediction_weight: float = field(
        default=1.0, metadata={"help": "Weight of the loss against the teacher's logits; 0: not computed."}
    )
    hard_label_weight: float = field(
        default=0.0, metadata={"help": "Weight of the task loss on gold labels, in the steps that match predictions."}
    )
    layer_weights: dict | str | None = field(
        default=None,
        metadata={"help": "Factor on the hidden and attention loss of a student layer, such as '1:0.5,4:2'."},
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "Pooling of token vectors in models without a head (sentence encoders): 'mean' or 'cls'. "
            "Default: the pooling in the teacher's folder, else 'mean'.",
            "choices": list(POOLINGS),
        },
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Temperature of the soft cross-entropy; 1 in the paper."}
    )
    loss_reduction: str = field(
        default="mean",
        metadata={
            "help": "'mean': over real positions of the global batch. 'paper': as in the authors' code, over each "
            "micro-batch, padding included.",
            "choices": ["mean", "paper"],
        },
    )
    loss_scaling: str = field(
        default="variance",
        metadata={
            "help": "'variance': the losses of embeddings, hidden states, attention and regression are divided by the "
            "teacher's variance, and attention scores compared less the mean of each row, which a softmax ignores; so "
            "weights mean the same for every teacher (not with loss_reduction='paper'). 'none': losses are added as "
            "they are, as in the paper.",
            "choices": ["variance", "none"],
        },
    )
    teacher_mixed_precision: str | None = field(
        default=None,
        metadata={
            "help": "Mixed precision of the teacher alone: 'bf16', 'fp16' or 'no'. Default: that of the training. "
            "'bf16' makes it several times faster on a CPU with AMX.",
            "choices": list(MIXED_PRECISIONS),
        },
    )
    teacher_cache: str = field(
        default="none",
        metadata={
            "help": "'none': the teacher runs in every step. 'logits': its logits are stored in the first pass over "
            "the data, for steps that match predictions alone. 'features': all features that the losses need are "
            "computed once and read from disk. 'auto': the fastest of these on this machine.",
            "choices": list(TEACHER_CACHES),
        },
    )
    teacher_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of the cache. Default: hf_tinybert/teacher_cache in HF_HOME."}
    )
    teacher_cache_dtype: str = field(
        default="float16",
        metadata={"help": "Type of cached features; logits are float32.", "choices": list(CACHE_DTYPES)},
    )
    report_fidelity: bool = field(
        default=True,
        metadata={"help": "Evaluation also reports the student's fidelity to the teacher; this runs the teacher."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "The Trainer's filter of NaN losses; if it is off, a NaN loss ends the run."}
    )

    if compat.HAS_SAMPLING_STRATEGY:
        train_sampling_strategy: str = field(
            default="group_by_length",
            metadata={
                "help": "Order of the training data. 'group_by_length': batches of similar length, little padding.",
                "choices": ["random", "sequential", "group_by_length", "batch_rebalance"],
            },
        )
    else:
        group_by_length: bool = field(
            default=True, metadata={"help": "Batches of similar length, with little padding."}
        )
    if compat.HAS_WARMUP_RATIO:
        warmup_ratio: float = field(
            default=WARMUP, metadata={"help": "Share of the steps in which the learning rate rises from 0."}
        )
    else:
        warmup_steps: float = field(
            default=WARMUP,
            metadata={"help": "Steps in which the learning rate rises from 0; below 1 their share of all steps."},
        )
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "On: each phase leaves some parameters without a gradient."}
    )

    def __post_init__(self) -> None:
        """Check the arguments as far as that is possible without models and data."""
        if isinstance(self.student_init, str):
            self.student_init = [self.student_init]
        if self.learning_rate is None:
            self.learning_rate = PREDICTION_RATE if self.phases in ("two_phase", "prediction") else JOINT_RATE
        for name in ("gradient_checkpointing", "activation_checkpointing"):
            if getattr(self, name, False):
                self._forbid_reentrant(f"{name}_kwargs")
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Refuse invalid values.

        Raises:
            ValueError: the message has the argument, its value and what is allowed.
        """
        for name, choices in _CHOICES.items():
            if getattr(self, name) is not None or name not in _OPTIONAL:
                self._check_choice(name, choices)
        self._check_phases()
        self._check_weights()
        self._check_trainers()

    def _check_phases(self) -> None:
        """Refuse invalid phases and schedules."""
        if not 0.0 < self.intermediate_share < 1.0:
            raise ValueError(
                f"intermediate_share must lie between 0 and 1, got {self.intermediate_share}. For one phase alone "
                "use phases='intermediate' or phases='prediction'."
            )
        if self.num_intermediate_epochs is not None:
            if self.phases != "two_phase":
                raise ValueError(
                    f"num_intermediate_epochs goes with phases='two_phase', got {self.phases!r}: leave it out, or set "
                    "phases='two_phase'."
                )
            if self.max_steps > 0:
                raise ValueError(
                    "num_intermediate_epochs goes with num_train_epochs; with max_steps use intermediate_share."
                )
            if not 0 < self.num_intermediate_epochs < self.num_train_epochs:
                raise ValueError(
                    f"num_intermediate_epochs must lie between 0 and num_train_epochs ({self.num_train_epochs}), "
                    f"which counts both phases; got {self.num_intermediate_epochs}."
                )
        rate = self.intermediate_learning_rate
        if self.phases in ("two_phase", "intermediate") and not (rate > 0 and self.learning_rate > 0):
            raise ValueError(
                f"intermediate_learning_rate and learning_rate must be positive, got {rate} and {self.learning_rate}."
            )
        if not 0 <= self.intermediate_warmup_ratio <= 1:
            raise ValueError(f"intermediate_warmup_ratio is a share, 0 to 1, got {self.intermediate_warmup_ratio}.")
        SchedulerType(self.intermediate_lr_scheduler_type)  # raises, listing the schedules

    def _check_weights(self) -> None:
        """Refuse losses without a weight, and weights without a loss."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        for level, weight in self.level_weights().items():
            if not weight >= 0:
                raise ValueError(f"{level}_weight must not be negative, got {weight}.")
        self.parsed_layer_weights()
        weights = self.level_weights()
        if self.phases != "prediction" and not any(weights[k] for k in ("embedding", "hidden", "attention")):
            raise ValueError(
                "No level of the layers (embedding, hidden, attention) has a weight above 0; use phases='prediction'."
            )
        if self.phases != "intermediate" and not (weights["prediction"] or weights["hard_label"]):
            raise ValueError("Neither prediction_weight nor hard_label_weight is above 0; use phases='intermediate'.")
        if self.label_smoothing_factor and not self.hard_label_weight:
            raise ValueError("label_smoothing_factor smooths gold labels, and hard_label_weight is 0: set it above 0.")

    def _check_trainers(self) -> None:
        """Refuse arguments of the Trainer that distillation or the teacher cache does not support."""
        if self.loss_reduction == "paper" and self.teacher_cache != "none":
            raise ValueError(
                "loss_reduction='paper' averages over padding too, which a teacher cache does not store: use "
                "teacher_cache='none'."
            )
        if getattr(self.accelerator_config, "dispatch_batches", None) and self.teacher_cache != "none":
            raise ValueError(
                "accelerator_config's dispatch_batches cuts batches after they are collated, which a teacher cache "
                "does not support: use dispatch_batches=False or teacher_cache='none'."
            )
        if self.neftune_noise_alpha is not None:
            raise ValueError(
                "neftune_noise_alpha is not supported: the embedding loss would measure its noise on the student's "
                "embeddings. Leave it out."
            )
        plugin = getattr(self, "deepspeed_plugin", None)  # of `deepspeed=`, or of `accelerate launch`
        if plugin is not None and plugin.hf_ds_config.is_zero3():
            raise ValueError(
                "DeepSpeed's ZeRO stage 3 is not supported: it partitions weights, and the hooks then capture partial "
                "features. A student is small: use stage 1 or 2, or FSDP."
            )
        if self.ddp_find_unused_parameters is False:
            raise ValueError(
                "ddp_find_unused_parameters=False cannot work: each phase leaves some parameters unused. Leave it out."
            )
        if self.load_best_model_at_end and self.phases == "intermediate":
            raise ValueError(
                "load_best_model_at_end has nothing to choose from with phases='intermediate': task metrics have no "
                "meaning before the prediction level is trained. Set it to False."
            )

    def level_weights(self) -> dict[str, float]:
        """Level -> weight."""
        levels = ("embedding", "hidden", "attention", "prediction", "hard_label")
        given = {level: getattr(self, f"{level}_weight") for level in levels}
        return {level: 1.0 if weight is None else float(weight) for level, weight in given.items()}

    def parsed_layer_weights(self) -> dict[int, float]:
        """Student layer -> factor.

        Raises:
            ValueError: the text is not a list of `layer:factor` pairs, or a factor is negative.
        """
        given = self.layer_weights
        if given is None or given == "":
            return {}
        try:
            pairs = _read_pairs(given) if isinstance(given, str) else given
            factors = {int(layer): float(factor) for layer, factor in pairs.items()}
        except (ValueError, TypeError, AttributeError):
            raise ValueError(
                "layer_weights: expected pairs layer:factor such as '1:0.5,4:2', each layer once, "
                f"got {self.layer_weights!r}."
            ) from None
        if any(layer < 1 or not factor >= 0 for layer, factor in factors.items()):
            raise ValueError(f"layer_weights: layers count from 1 and factors from 0, got {self.layer_weights!r}.")
        return factors

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")

    def _forbid_reentrant(self, name: str) -> None:
        given = getattr(self, name, None)
        kwargs = dict(json.loads(given) if isinstance(given, str) else given or {})
        if kwargs.get("use_reentrant"):
            raise ValueError(
                f"{name}: re-entrant checkpointing hides the layers' gradients from the losses; drop use_reentrant."
            )
        setattr(self, name, kwargs | {"use_reentrant": False})


def _read_pairs(text: str) -> dict:
    """Read `"1:0.5,4:2"`, or a JSON object.

    Raises:
        ValueError: it is neither, or a key occurs twice.
    """
    parts = [part.split(":") for part in text.split(",")]
    pairs = json.loads(text) if text.lstrip().startswith("{") else dict(parts)
    if not isinstance(pairs, dict) or len(pairs) < len(parts):
        raise ValueError
    return pairs
