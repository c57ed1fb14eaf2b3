"""Least squares: the linear maps, and the scales and shifts of a LayerNorm, that come closest to what is wanted.

Each fit is a correction of the map that it starts from. Where that map already gives what is wanted, it stays as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Penalty on a correction, as a share of the mean variance of the inputs. Less leaves large weights, which fit the
#: calibration texts alone.
RIDGE = 0.3
#: Errors of float32 over a layer, as a share of the largest number.
_ROUNDING = 1e-5
#: Penalties that `refit_validated` tries.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Affine:
    """x W^T + b.

    Attributes:
        weight: `[out, in]`.
        bias: `[out]`.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Affine:
        """The map of a linear layer, with bias 0 where it has none."""
        weight = linear.weight.detach().float()
        return cls(weight, weight.new_zeros(len(weight)) if linear.bias is None else linear.bias.detach().float())

    @classmethod
    def zero(cls, outputs: int, like: Tensor) -> Affine:
        """The map of inputs `[n, in]` to zeros."""
        return cls(like.new_zeros(outputs, like.shape[-1]), like.new_zeros(outputs))

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return F.linear(x, self.weight, self.bias)

    def rows(self, chosen: Tensor | slice) -> Affine:
        """Some of its outputs."""
        return Affine(self.weight[chosen], self.bias[chosen])

    def then(self, weight: Tensor) -> Affine:
        """This map followed by the linear map `weight` `[out', out]`."""
        return Affine(weight @ self.weight, weight @ self.bias)

    def scaled(self, factor: float) -> Affine:
        """This map times a number."""
        return Affine(self.weight * factor, self.bias * factor)

    def after(self, basis: Tensor, offset: Tensor) -> Affine:
        """This map of basis @ x + offset, where `basis` is `[in, in']`."""
        return Affine(self.weight @ basis, self.bias + self.weight @ offset)

    def write(self, linear: nn.Linear) -> None:
        """Copy it into the first rows and columns of a linear layer."""
        linear.weight[: len(self.weight), : self.weight.shape[1]] = self.weight
        linear.bias[: len(self.bias)] = self.bias


def refit(start: Affine, inputs: Tensor, wanted: Tensor, ridge: float = RIDGE) -> Affine:
    """The affine map closest to `wanted`, and to `start`.

    It minimises the mean of |x W^T + b - y|^2 plus ridge * v * |W - W_0|^2, where v is the mean variance of the
    inputs; the bias is free.

    Args:
        start: W_0, and the bias of inputs without variance.
        inputs: `[n, in]`.
        wanted: `[n, out]`.
        ridge: the penalty.
    """
    rest = wanted - start(inputs)
    if _is_nothing(rest, wanted):
        return start
    mean_in, mean_out = inputs.mean(dim=0), rest.mean(dim=0)
    x, y = inputs - mean_in, rest - mean_out
    moment = (x.T @ x).double() / len(x)
    penalty = ridge * max(float(moment.diagonal().mean()), _least_variance(inputs))
    moment.diagonal().add_(penalty)
    change = torch.linalg.solve(moment, (x.T @ y).double() / len(x)).T.to(inputs.dtype)
    return Affine(start.weight + change, start.bias + mean_out - change @ mean_in)


def refit_validated(start: Affine, inputs: Tensor, wanted: Tensor) -> Affine:
    """As `refit`, with the penalty whose maps predict each row best from the others (leave-one-out).

    Args:
        start: W_0, and the bias of inputs without variance.
        inputs: `[n, in]`.
        wanted: `[n, out]`.
    """
    rest = (wanted - start(inputs)).double()
    if _is_nothing(rest, wanted):
        return start
    mean_in, mean_out = inputs.mean(dim=0), rest.mean(dim=0)
    x, y = (inputs - mean_in).double(), rest - mean_out
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    rotated, spread = x @ vectors, max(float(values.mean()), _least_variance(inputs))
    cross = rotated.T @ y / len(x)
    best: tuple[float, Tensor] | None = None
    for ridge in _RIDGES:
        shrunk = 1.0 / (values.clamp(min=0.0) + ridge * spread)
        change = shrunk.unsqueeze(1) * cross
        influence = (rotated.square() @ shrunk + 1.0) / len(x)
        left_out = (y - rotated @ change) / (1.0 - influence).clamp(min=1e-6).unsqueeze(1)
        error = float(left_out.square().mean())
        if best is None or error < best[0]:
            best = error, change
    assert best is not None
    weight = (vectors @ best[1]).T.to(inputs.dtype)
    return Affine(start.weight + weight, start.bias + mean_out.to(inputs.dtype) - weight @ mean_in)


def least_squares(inputs: Tensor, wanted: Tensor, ridge: float = 1e-4) -> Affine:
    """The affine map closest to `wanted`, slightly regularised towards a constant.

    Args:
        inputs: `[n, in]`.
        wanted: `[n, out]`.
        ridge: as in `refit`.
    """
    return refit(Affine.zero(wanted.shape[1], inputs), inputs, wanted, ridge)


def fit_layer_norm(norm: nn.LayerNorm, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Set scale and shift so that the normalised inputs come closest to the wanted values.

    Args:
        norm: is changed, unless it gives the wanted values already.
        inputs: `[n, d]`.
        wanted: `[n, d]`.

    Returns:
        The norm's outputs.
    """
    outputs: Tensor = norm(inputs)
    if _is_nothing(wanted - outputs, wanted):
        return outputs
    plain = F.layer_norm(inputs, (inputs.shape[-1],), eps=norm.eps)
    centred = plain - plain.mean(dim=0)
    goal = wanted - wanted.mean(dim=0)
    norm.weight.copy_((centred * goal).sum(dim=0) / centred.square().sum(dim=0).clamp(min=1e-8))
    norm.bias.copy_(wanted.mean(dim=0) - norm.weight * plain.mean(dim=0))
    outputs = norm(inputs)
    return outputs


def shift_of(norm: nn.LayerNorm) -> Tensor:
    """The shift of a LayerNorm, 0 where it has none (ModernBERT's)."""
    return torch.zeros_like(norm.weight) if norm.bias is None else norm.bias.detach()


def _least_variance(inputs: Tensor) -> float:
    """What float32 leaves of the variance of constant inputs, and more."""
    return max(_ROUNDING * float(inputs.square().mean()), 1e-12)


def _is_nothing(rest: Tensor, wanted: Tensor) -> bool:
    """Whether what is left to be fitted is rounding."""
    return bool(rest.abs().max() <= _ROUNDING * wanted.abs().max())
