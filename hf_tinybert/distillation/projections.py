"""The learnt maps from student to teacher: W_e and W_h of equations 8 and 9, and mixtures of attention heads.

They are trained with the student and discarded afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from hf_tinybert.student.projection_init import SHARED, VECTORS


class Projections(nn.Module):
    """Linear layers with bias from the student's hidden size to the teacher's.

    Args:
        student_size: d', the student's hidden size.
        teacher_size: d, the teacher's hidden size.
        levels: student layers to be projected (0 is the embedding block).
        shared: one layer for all levels, as in the authors' code, or one for each.
        seed: seed of the starting weights, normal with standard deviation 0.02 (BERT's own).
        mixing: student layer -> starting weights `[teacher_heads, student_heads]` of the mixture of the student's
            heads that each of the teacher's is compared with (see `hf_tinybert.distillation.attention_matching`); none
            if empty.
        scales: student layer -> size of the teacher's states that it is compared with (a standard deviation): the
            linear layer is trained in units of it, so that a step means the same for every teacher. 1 where missing.
        vectors: also project the pooled vector. With equal widths it is never projected: the student's vector is
            then trained to match the teacher's.
    """

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        levels: Iterable[int],
        shared: bool,
        seed: int = 0,
        mixing: Mapping[int, Tensor] | None = None,
        vectors: bool = False,
        scales: Mapping[int, float] | None = None,
    ) -> None:
        """Make the layers: the identity where the widths are equal, random otherwise."""
        super().__init__()
        self.shared = shared
        generator = torch.Generator().manual_seed(seed)
        names = [SHARED] if shared else [str(level) for level in sorted(levels)]
        names += [VECTORS] if vectors and student_size != teacher_size else []
        self.linear = nn.ModuleDict()
        for name in names:
            linear = nn.Linear(student_size, teacher_size)
            with torch.no_grad():
                linear.bias.zero_()
                if student_size == teacher_size:
                    nn.init.eye_(linear.weight)
                else:
                    linear.weight.normal_(0.0, 0.02, generator=generator)
            self.linear[name] = linear
        self.scales = dict(scales or {})
        self.mixing = nn.ParameterDict({str(layer): nn.Parameter(start) for layer, start in (mixing or {}).items()})

    def mixing_of(self, layer: int) -> Tensor | None:
        """The mixture of a student layer's heads, `[teacher_heads, student_heads]`, or None."""
        weights: Tensor | None = dict(self.mixing.items()).get(str(layer))
        return weights

    @property
    def of_vectors(self) -> nn.Linear | None:
        """The projection of the pooled vector, if there is one."""
        return self._linears().get(VECTORS)

    def vectors(self, pooled: Tensor) -> Tensor:
        """Project pooled vectors `[B, d']` to `[B, d]`."""
        projected: Tensor = pooled if self.of_vectors is None else self.of_vectors(pooled)
        return projected

    def forward(self, hidden: Tensor, level: int) -> Tensor:
        """Project `[B, S, d']` of a level to `[B, S, d]`."""
        projected: Tensor = self.linear[SHARED if self.shared else str(level)](hidden)
        return projected * self.scales[level] if level in self.scales else projected

    def start_from(self, offered: Mapping[str, Tensor]) -> None:
        """Copy starting values offered by the student (see `student.projection_init`) whose shapes fit.

        A shared offer initialises every level; a shared layer is initialised with the mean of the levels' offers.
        Without an offer for pooled vectors, their projection starts from the offer for the last layer: pooling is
        linear.
        """
        offered = {name: value / self._scale_of(name) for name, value in offered.items()}
        for name, linear in self._linears().items():
            weight, bias = (_pick(offered, name, part) for part in ("weight", "bias"))
            if weight is None or bias is None or weight.shape != linear.weight.shape:
                continue
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)

    def _scale_of(self, name: str) -> float:
        """The scale of the level that an offer is for; of a shared offer the mean."""
        level = name.partition(".")[0]
        if level == SHARED and self.scales:
            return sum(self.scales.values()) / len(self.scales)
        return self.scales.get(int(level), 1.0) if level.isdigit() else 1.0

    def _linears(self) -> dict[str, nn.Linear]:
        """The linear layers by name."""
        return {name: module for name, module in self.linear.items() if isinstance(module, nn.Linear)}


def _pick(offered_values: Mapping[str, Tensor], name: str, part: str) -> Tensor | None:
    if name == VECTORS and f"{name}.{part}" not in offered_values:
        levels = [int(key.partition(".")[0]) for key in offered_values if key.partition(".")[0].isdigit()]
        name = str(max(levels, default=0))
    for candidate in (f"{name}.{part}", f"{SHARED}.{part}"):
        if candidate in offered_values:
            return offered_values[candidate]
    if name == SHARED:
        values = [
            value for key, value in offered_values.items() if key.endswith(f".{part}") and not key.startswith(VECTORS)
        ]
        if values:
            return torch.stack(values).mean(dim=0)
    return None
