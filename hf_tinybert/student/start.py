"""The ways to start a new student, and the choice between several."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import auto_class
from hf_tinybert.models.output_types import VECTORS, output_type
from hf_tinybert.student import projection_init, provenance, teacher_init
from hf_tinybert.student.calibration import HELD_OUT, held_out
from hf_tinybert.student.encoder_init import load_encoder
from hf_tinybert.student.start_fidelity import Logits, StartFidelity, logits_for, measure_fidelity
from hf_tinybert.utils.types import Batch

logger = logging.get_logger(__name__)

#: Fewer calibration rows say nothing.
_LEAST_ROWS = 20
#: Rows of one forward pass.
_ROWS = 32


class Start:
    """Makes students of one configuration.

    Args:
        teacher: the model that they learn from.
        config: of the students.
        layer_mapping: as in `create_student`.
        tokenizer: the teacher's, or None.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        config: PretrainedConfig,
        layer_mapping: str | Mapping[int, int],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """Nothing is made."""
        self._teacher, self._config = teacher, config
        self._layer_mapping, self._tokenizer = layer_mapping, tokenizer

    def make(self, init: str, calibration: Mapping[str, Tensor] | None) -> PreTrainedModel:
        """A student with one initialisation.

        Args:
            init: `"teacher"`, `"random"`, or the folder or Hub id of an encoder.
            calibration: typical texts, or None.

        Raises:
            ValueError: as for `create_student`.
        """
        config = copy.deepcopy(self._config)
        student: PreTrainedModel = student_class(self._teacher, config)(config).eval()
        source, origin = None, init
        if init not in ("teacher", "random"):
            source, origin = load_encoder(init, self._teacher, self._tokenizer)
        if init != "random":
            layers = (Encoder.from_model(model).num_layers for model in (student, self._teacher))
            mapping = LayerMapping.from_spec(self._layer_mapping, *layers)
            offers = teacher_init.start_from_teacher(student, self._teacher, mapping, calibration, source)
            projection_init.offer(student, offers)
        provenance.record(student, self._teacher, init=origin)
        return student

    def best(self, inits: Sequence[str], calibration: Mapping[str, Tensor]) -> PreTrainedModel:
        """The student of several initialisations whose outputs are closest to the teacher's.

        Args:
            inits: as for `make`.
            calibration: typical texts, in no order; a part of them is kept for the comparison.

        Raises:
            ValueError: as for `create_student`; or the models have no head.
        """
        kind = output_type(self._teacher)
        if kind == VECTORS:
            raise ValueError(
                "Several starts are compared by their outputs, and a model without a head has none: give one."
            )
        rows = len(calibration["input_ids"])
        if rows < _LEAST_ROWS:
            raise ValueError(
                f"Several starts are compared on {HELD_OUT:.0%} of the calibration texts: pass at least "
                f"{_LEAST_ROWS} texts, got {rows}."
            )
        kept = held_out(rows)
        fitted = {name: value[: rows - kept] for name, value in calibration.items()}
        batches = [
            {name: value[start : start + _ROWS] for name, value in calibration.items()}
            for start in range(rows - kept, rows, _ROWS)
        ]
        found: list[tuple[StartFidelity, str, PreTrainedModel]] = []
        for init in inits:
            student = self.make(init, fitted)
            fidelity = measure_fidelity(kind, self._logits(student), self._logits(self._teacher), batches)
            logger.info(f"The start {init} follows the teacher with {fidelity.describe(kind)}.")
            found.append((fidelity, init, student))
        fidelity, init, student = min(found, key=lambda each: each[0].divergence)
        logger.warning_once(f"Of the starts {', '.join(inits)}, {init} is taken: {fidelity.describe(kind)}.")
        return student

    def _logits(self, model: PreTrainedModel) -> Logits:
        order = LabelAlignment.from_configs(self._config, self._teacher.config)

        def logits(batch: Batch) -> Tensor:
            found = logits_for(model, {name: value.to(model.device) for name, value in batch.items()}).cpu()
            return order.logits(found) if model is self._teacher else found

        return logits


def student_class(teacher: PreTrainedModel, config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class of a student of a configuration, of the teacher's Auto class.

    Raises:
        ValueError: there is none.
    """
    auto = auto_class(teacher)
    try:
        return auto._model_mapping[type(config)]
    except KeyError:
        raise ValueError(f"There is no {auto.__name__} for a {type(config).__name__}.") from None
