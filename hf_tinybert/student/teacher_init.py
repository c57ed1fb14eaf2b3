"""Initialises a student from its teacher's weights.

At the teacher's width, layer m of the student is a copy of layer g(m). The hidden space of a narrower student is the
span of the leading principal components U of the teacher's hidden states, and its weights are projections of the
teacher's. The residual stream is projected by U itself. Queries and keys of a head are the best approximation of the
head's score matrix at the student's head size; values and the output projection are the best approximation of their
product. The feed-forward neurons that contribute most are kept, and a least-squares fit lets them replace the others.
LayerNorm does not commute with U, so its scale and shift are fitted to the teacher's activations by least squares. The
best linear maps back to the teacher's width are offered as initial values of the projections.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.models.architectures import Encoder
from hf_tinybert.models.label_alignment import LabelAlignment
from hf_tinybert.models.loading import has_finite_weights

if TYPE_CHECKING:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertAttention, BertModel

_LAYER_PARTS = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
_EMBEDDING_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
#: Rows and length of random calibration tokens: enough for a stable basis of a few hundred dimensions.
_RANDOM_BATCH = (64, 64)
#: Regularisation of least squares over neurons, as a share of their mean variance.
_RIDGE = 0.01


@torch.no_grad()
def start_from_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    mapping: LayerMapping,
    calibration: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Fill the student's weights from the teacher's.

    Args:
        student: a BERT model, not wider than the teacher.
        teacher: a model with BERT's module names.
        mapping: layer m is initialised from teacher layer g(m); a layer without an entry stays random.
        calibration: a tokenised batch, truncated to what both models can read; random tokens if None.

    Returns:
        Initial values of the projections (see `hf_tinybert.student.projection_init.offer`), empty at equal width.

    Raises:
        ValueError: the teacher's modules have other names, its weights are not finite, or the student is wider.
    """
    if teacher.dtype != torch.float32:
        teacher = copy.deepcopy(teacher).float()
    source, target = teacher.base_model, student.base_model
    if not _has_bert_names(source):
        raise ValueError(
            f"init='teacher' cannot start from a {type(teacher).__name__}: it needs BERT's module names and "
            "embeddings as wide as its layers. Use create_student(teacher, ..., init='random') "
            "(--student-init random), or the name of an existing small checkpoint."
        )
    if student.config.hidden_size > teacher.config.hidden_size:
        raise ValueError(
            f"init='teacher' needs a student no wider than its teacher: {student.config.hidden_size} is more "
            f"than {teacher.config.hidden_size}."
        )
    if student.config.max_position_embeddings > source.embeddings.position_embeddings.num_embeddings:
        raise ValueError(
            f"init='teacher': the student has {student.config.max_position_embeddings} positions, more than the "
            f"teacher's {source.embeddings.position_embeddings.num_embeddings}."
        )
    if not has_finite_weights(teacher):
        raise ValueError("The teacher's weights are not all finite numbers: its training has diverged, repeat it.")
    device = teacher.device
    was_training = teacher.training
    teacher.eval()
    try:
        batch = _batch(student, teacher, calibration)
        student.to(device)
        if _same_shape(student, teacher):
            _copy(student, teacher, mapping)
            return {}
        trace = _trace(source, mapping, batch)
        view = _View.from_trace(trace, mapping, student.config.hidden_size)
        _reduce_embeddings(target, source, view, batch, trace)
        hidden = target.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
        offers = {}
        states = {0: hidden}
        for layer, teacher_layer in mapping.layers.items():
            hidden = _reduce_layer(target, source, layer, teacher_layer, view, hidden, batch, trace)
            states[layer] = hidden
        _reduce_head(student, teacher, view.basis)
        kept = batch["attention_mask"].bool()
        for layer, state in states.items():
            teacher_state = trace.hidden[mapping.get(layer, 0)]
            offers[f"{layer}.weight"], offers[f"{layer}.bias"] = _least_squares(state[kept], teacher_state)
        return offers
    finally:
        teacher.train(was_training)
        student.to("cpu")


@dataclass
class _Trace:
    """The teacher's activations on the calibration batch, real positions only, by teacher layer."""

    hidden: dict[int, Tensor]
    attended: dict[int, Tensor]
    neurons: dict[int, Tensor]


@dataclass
class _View:
    """The student's hidden space in the teacher's: h is about basis @ h' + offset."""

    basis: Tensor
    mean: Tensor

    @classmethod
    def from_trace(cls, trace: _Trace, mapping: LayerMapping, size: int) -> _View:
        """The leading principal components of the mapped layers' hidden states."""
        if len(trace.hidden[0][0]) == size:  # nothing is reduced
            return cls(torch.eye(size, device=trace.hidden[0].device), torch.zeros_like(trace.hidden[0][0]))
        states = torch.cat([trace.hidden[0], *(trace.hidden[number] for number in mapping.layers.values())])
        mean = states.mean(dim=0)
        centred = (states - mean).double()
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        return cls(vectors[:, -size:].flip(-1).to(states.dtype), mean)

    def offset(self, mean: Tensor) -> Tensor:
        """The part of a mean hidden state outside the span of the basis."""
        return mean - self.basis @ (self.basis.T @ mean)


def _has_bert_names(base: PreTrainedModel) -> bool:
    layers = getattr(getattr(base, "encoder", None), "layer", None)
    if layers is None or not all(hasattr(getattr(base, "embeddings", None), t) for t in _EMBEDDING_TABLES):
        return False
    if base.embeddings.word_embeddings.embedding_dim != base.config.hidden_size:
        return False
    return all(_find(layers[0], part) is not None for part in _LAYER_PARTS)


def _find(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _same_shape(student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    names = ("hidden_size", "num_attention_heads", "intermediate_size")
    return all(getattr(student.config, name) == getattr(teacher.config, name) for name in names)


def _copy(student: PreTrainedModel, teacher: PreTrainedModel, mapping: LayerMapping) -> None:
    source, target = teacher.base_model, student.base_model
    for table in _EMBEDDING_TABLES:
        _copy_rows(getattr(target.embeddings, table), _usable_rows(source, table))
    target.embeddings.LayerNorm.load_state_dict(source.embeddings.LayerNorm.state_dict())
    for layer, teacher_layer in mapping.layers.items():
        target.encoder.layer[layer - 1].load_state_dict(source.encoder.layer[teacher_layer - 1].state_dict())
    _reduce_head(student, teacher, None)


def _usable_rows(source: BertModel, name: str) -> Tensor:
    """The rows of an embedding table; RoBERTa's positions start after the padding id."""
    table = getattr(source.embeddings, name)
    first = table.padding_idx + 1 if name == "position_embeddings" and table.padding_idx is not None else 0
    rows: Tensor = table.weight[first:]
    return rows


def _copy_rows(table: nn.Embedding, weight: Tensor) -> None:
    count = min(table.num_embeddings, len(weight))
    table.weight[:count] = weight[:count]


def _batch(
    student: PreTrainedModel, teacher: PreTrainedModel, calibration: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Inputs on the teacher's device, truncated to what both models can read."""
    if calibration is None:
        generator = torch.Generator().manual_seed(0)
        calibration = {"input_ids": torch.randint(teacher.config.vocab_size, _RANDOM_BATCH, generator=generator)}
    length = calibration["input_ids"].shape[1]
    length = min(Encoder.from_model(model).at_most(length) for model in (student, teacher))
    names = ("input_ids", "attention_mask", "token_type_ids")
    batch = {name: calibration[name][:, :length].to(teacher.device) for name in names if name in calibration}
    batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
    return batch


def _trace(source: BertModel, mapping: LayerMapping, batch: dict[str, Tensor]) -> _Trace:
    trace = _Trace({}, {}, {})
    kept = batch["attention_mask"].bool()
    handles: list[RemovableHandle] = []

    def keep(module: nn.Module, store: dict[int, Tensor], number: int) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            store[number] = (output[0] if isinstance(output, tuple) else output)[kept].float()

        handles.append(module.register_forward_hook(hook))

    keep(source.embeddings, trace.hidden, 0)
    for number, layer in enumerate(source.encoder.layer, start=1):
        keep(layer, trace.hidden, number)
        if number in mapping.layers.values():
            keep(layer.attention.output, trace.attended, number)
            keep(layer.intermediate, trace.neurons, number)
    try:
        source(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _reduce_embeddings(
    target: BertModel, source: BertModel, view: _View, batch: dict[str, Tensor], trace: _Trace
) -> None:
    for table in _EMBEDDING_TABLES:
        _copy_rows(getattr(target.embeddings, table), _usable_rows(source, table) @ view.basis)
    _fit_layer_norm(
        target.embeddings.LayerNorm,
        lambda: target.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids")),
        trace.hidden[0] @ view.basis,
        batch["attention_mask"].bool(),
    )


def _reduce_layer(
    target: BertModel,
    source: BertModel,
    layer: int,
    teacher_layer: int,
    view: _View,
    hidden: Tensor,
    batch: dict[str, Tensor],
    trace: _Trace,
) -> Tensor:
    """Fill student layer `layer` from teacher layer `teacher_layer`; returns the student's output on the batch."""
    new, old = target.encoder.layer[layer - 1], source.encoder.layer[teacher_layer - 1]
    basis, entering = view.basis, trace.hidden[teacher_layer - 1]
    offset = view.offset(entering.mean(dim=0))
    _reduce_attention(new.attention, old.attention, basis, offset, entering, source.config, target.config)
    kept = batch["attention_mask"].bool()
    mask = (1.0 - batch["attention_mask"][:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min

    def run(module: nn.Module) -> Tensor:
        output: Tensor | tuple[Tensor, ...] = module(hidden, mask)
        return output[0] if isinstance(output, tuple) else output

    attended = trace.attended[teacher_layer]
    _fit_layer_norm(new.attention.output.LayerNorm, lambda: run(new.attention), attended @ basis, kept)
    shift = view.offset(attended.mean(dim=0))
    neurons = trace.neurons[teacher_layer]
    chosen = _strongest(neurons, old.output.dense.weight, new.intermediate.dense.out_features)
    count = len(chosen)
    inner, outer = old.intermediate.dense, old.output.dense
    new.intermediate.dense.weight[:count] = inner.weight[chosen] @ basis
    new.intermediate.dense.bias[:count] = inner.bias[chosen] + inner.weight[chosen] @ shift
    weight, bias = _without(neurons, chosen, outer.weight, outer.bias)
    new.output.dense.weight.zero_()
    new.output.dense.weight[:, :count] = basis.T @ weight
    new.output.dense.bias.copy_(basis.T @ bias)
    _fit_layer_norm(new.output.LayerNorm, lambda: run(new), trace.hidden[teacher_layer] @ basis, kept)
    return run(new)


def _reduce_attention(
    new: BertAttention,
    old: BertAttention,
    basis: Tensor,
    offset: Tensor,
    entering: Tensor,
    config: BertConfig,
    small: BertConfig,
) -> None:
    heads, kept_heads = config.num_attention_heads, small.num_attention_heads
    size, small_size = config.hidden_size // heads, small.hidden_size // kept_heads
    rank = min(size, small_size)
    scale = (small_size / size) ** 0.25
    new.output.dense.weight.zero_()
    new.output.dense.bias.copy_(basis.T @ old.output.dense.bias)
    for projection in ("query", "key", "value"):
        getattr(new.self, projection).weight.zero_()
        getattr(new.self, projection).bias.zero_()
    for head in range(min(heads, kept_heads)):
        rows = slice(head * size, (head + 1) * size)
        into = slice(head * small_size, head * small_size + rank)
        weights = {p: getattr(old.self, p).weight[rows] for p in ("query", "key", "value")}
        biases = {p: getattr(old.self, p).bias[rows] for p in ("query", "key", "value")}
        roots = {p: _root(entering @ weights[p].T + biases[p]) for p in weights}
        left, middle, right = torch.linalg.svd(roots["query"] @ roots["key"].T)
        strength = middle[:rank].sqrt() * scale
        maps = {
            "query": torch.linalg.solve(roots["query"], left[:, :rank]) * strength,
            "key": torch.linalg.solve(roots["key"], right.T[:, :rank]) * strength,
        }
        out = old.output.dense.weight[:, rows].T @ basis
        left, middle, right = torch.linalg.svd(roots["value"] @ out, full_matrices=False)
        maps["value"] = torch.linalg.solve(roots["value"], left[:, :rank])
        for projection, change in maps.items():
            part = getattr(new.self, projection)
            part.weight[into] = change.T @ (weights[projection] @ basis)
            part.bias[into] = change.T @ (biases[projection] + weights[projection] @ offset)
        new.output.dense.weight[:, into] = (middle[:rank, None] * right[:rank]).T


def _root(activations: Tensor) -> Tensor:
    """R with R^T R the second moment of the activations, slightly regularised so that it can be inverted."""
    moment = activations.T @ activations / len(activations)
    ridge = 1e-4 * moment.diagonal().mean().clamp(min=1e-8)
    return torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), device=moment.device)).T


def _strongest(neurons: Tensor, out: Tensor, count: int) -> Tensor:
    """The feed-forward neurons whose outputs carry the most, in their old order."""
    strength = neurons.square().mean(dim=0) * out.square().sum(dim=0)
    return strength.topk(min(count, len(strength))).indices.sort().values


def _without(neurons: Tensor, kept: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[d, kept]` and bias `[d]` with which the kept neurons best reproduce the output of all neurons.

    Least squares on the activations `[n, f]`, regularised towards the weights that the kept neurons had.
    """
    mean = neurons.mean(dim=0)
    centred = (neurons - mean).double()
    moment = centred.T @ centred / len(centred)
    inner, cross = moment[kept][:, kept], moment[kept]
    ridge = _RIDGE * inner.diagonal().mean()
    left = inner + ridge * torch.eye(len(kept), dtype=inner.dtype, device=inner.device)
    right = cross @ weight.T.double() + ridge * weight.T[kept].double()
    fitted = torch.linalg.solve(left, right).T.to(weight.dtype)
    return fitted, bias + weight @ mean - fitted @ mean[kept]


def _fit_layer_norm(norm: nn.LayerNorm, run: Callable[[], Tensor], wanted: Tensor, kept: Tensor) -> None:
    """Set scale and shift so that the normalised activations come closest to the wanted ones."""
    norm.weight.fill_(1.0)
    norm.bias.zero_()
    plain = run()[kept]
    centred = plain - plain.mean(dim=0)
    goal = wanted - wanted.mean(dim=0)
    norm.weight.copy_((centred * goal).sum(dim=0) / centred.square().sum(dim=0).clamp(min=1e-8))
    norm.bias.copy_(wanted.mean(dim=0) - norm.weight * plain.mean(dim=0))


def _reduce_head(student: PreTrainedModel, teacher: PreTrainedModel, basis: Tensor | None) -> None:
    """Copy or project the pooler and the task head.

    A head's LayerNorm (of masked language models) scales single directions, which the basis mixes: a narrower one
    keeps scale 1 and shift 0.
    """
    prefix = student.base_model_prefix + "."
    parameters = dict(student.named_parameters())
    order = LabelAlignment.from_configs(student.config, teacher.config)
    wide = teacher.config.hidden_size
    norms = {name for name, module in teacher.named_modules() if isinstance(module, nn.LayerNorm)}
    for name, value in teacher.named_parameters():
        if basis is not None and name.rpartition(".")[0] in norms:
            continue
        inside = name.removeprefix(teacher.base_model_prefix + ".")
        parameter = parameters.get(prefix + inside if name != inside else name, parameters.get(inside))
        if parameter is None or inside.startswith(("embeddings.", "encoder.")):
            continue
        if basis is not None:
            if value.dim() == 2 and value.shape[1] == wide:
                value = value @ basis
            if value.shape[0] == wide and parameter.shape[0] == basis.shape[1]:
                value = basis.T @ value
        if value.shape == parameter.shape:
            rows = len(value) == student.config.num_labels
            parameter.copy_(order.logits(value.movedim(0, -1)).movedim(-1, 0) if rows else value)


def _least_squares(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[d, d']` and bias `[d]` of the affine map from inputs to outputs with the least error."""
    mean_in, mean_out = inputs.mean(dim=0), outputs.mean(dim=0)
    x, y = (inputs - mean_in).double(), (outputs - mean_out).double()
    moment = x.T @ x
    ridge = 1e-4 * moment.diagonal().mean()
    solution = torch.linalg.solve(moment + ridge * torch.eye(len(moment), dtype=x.dtype, device=x.device), x.T @ y)
    weight = solution.T.to(inputs.dtype)
    return weight, mean_out - weight @ mean_in
