"""Fake quantisation: an FP32 module that computes what its INT8 graph computes, and can be trained so.

A table names tensors of the exported graph and the initialisers of its weights. An initialiser is named by
its module's path, so every quantised operator is found as the module that holds its weight, and every tensor
of the table by the operators around it:

* The result of an operator is rounded where it is written, before its ReLU: rounding to a grid around zero
  and a ReLU may change places.
* Another tensor that an operator or a residual addition reads is rounded where it is read: at the module
  that alone reads it, or at the entrance of the residual block whose paths do.

These are the pairs of quantiser and dequantiser of ``edgeemo_calibration.encode.CPU``, which rounds every
result; TensorRT's encoding leaves some of them out. An activation is clipped to [-128, 127] steps, as S8 is,
or, where U8 has zero point 0, to 255: `clip_as` says which. What lies within 127 steps is the same number in
both. A weight is rounded to [-127, 127] steps with one step for each output channel, which follows from its
largest magnitude whenever it is used, by the rule of the calibration: a weight never clips.

Gradients pass the rounding as if it were not there and stop where a value is clipped (the straight-through
estimator; Bengio et al., 2013). Steps of activations are frozen, or learnt (Esser et al., 2020).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import functional_call

from edgeemo.errors import InputError
from edgeemo_calibration.encode import CPU, encode
from edgeemo_calibration.table import STEPS, Activation, Operator, Table, Weight, shortest

from .encoders.residual import ResidualBlock
from .encoders.resnet import BasicBlock

LOWEST = -STEPS - 1
PACE = 1000.0
"""By how many learning rates a trained quantiser changes in a step of Adam, as a share of itself: by the 1 %
of Jain et al. (2020) where weights are fine-tuned at 1e-5."""
BLOCKS = (ResidualBlock, BasicBlock)
Layer = nn.Conv2d | nn.Linear


class Quantiser(nn.Module):
    """Rounds one tensor to steps in [-128, 127], or to 255 as U8 has it where it cannot be negative.

    Args:
        tensor: its name in the graph.
        step: size of a step.
        unsigned: whether U8 holds it with zero point 0.
        learned: whether the step is trained. What is trained is the logarithm of its growth, in units of
            `PACE`: an optimiser then changes it relative to its size, and it stays positive.
    """

    start: Tensor

    def __init__(self, tensor: str, step: float, unsigned: bool = False, learned: bool = False) -> None:
        super().__init__()
        self.tensor, self.unsigned, self.highest = tensor, unsigned, STEPS
        self.register_buffer("start", torch.tensor(step))
        self.growth = nn.Parameter(torch.zeros(()), requires_grad=learned)

    @property
    def step(self) -> Tensor:
        """The size of a step, a scalar."""
        return self.start * (PACE * self.growth).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Round ``x`` of any shape."""
        rounded: Tensor = _Rounded.apply(x, self.step, self.highest)
        return rounded


class _Rounded(torch.autograd.Function):
    """``clamp(round(x / step)) * step``, halves to even, by a true division as ONNX Runtime does it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, highest: int) -> Tensor:
        ratio = x / step
        steps = ratio.round().clamp_(LOWEST, highest)
        ctx.save_for_backward(ratio, steps)
        ctx.highest = highest
        return steps * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        ratio, steps = ctx.saved_tensors
        inside = (ratio >= LOWEST) & (ratio <= ctx.highest)
        by_step = None
        if ctx.needs_input_grad[1]:
            by_step = (gradients[0] * torch.where(inside, steps - ratio, steps)).sum()
            # As large as a weight's (Esser et al., 2020): the loop limits the norm of all gradients together.
            by_step = by_step * (ratio.numel() * STEPS) ** -0.5 / PACE
        return gradients[0] * inside, by_step, None


class Quantised(nn.Module):
    """A convolution or linear layer whose weight, result and, where nobody rounded it, input are rounded.

    Args:
        layer: kept as it is.
        weight: the name of its weight in the graph.
        reads: the quantiser of its input.
        enters: whether the input is rounded here.
        result: the quantiser of its result.
    """

    def __init__(self, layer: Layer, weight: str, reads: Quantiser, enters: bool, result: Quantiser) -> None:
        super().__init__()
        self.layer, self.weight, self.result = layer, weight, result
        self.input = reads if enters else nn.Identity()
        self._reads = (reads,)  # in a tuple, as it is another module's where the input is rounded there

    def steps(self) -> Tensor:
        """The step of each output channel, ``[outputs]``, by the rule of ``edgeemo_calibration.measure``."""
        reach = self.layer.weight.detach().abs().flatten(1).amax(dim=1)
        floor = torch.full_like(reach, 1e-10)
        if self.layer.bias is not None:  # engines keep a bias as INT32 in steps of input times weight
            floor = floor + self.layer.bias.detach().abs() / (self._reads[0].step.detach() * 2.0**30)
        return torch.maximum(reach / STEPS, floor)

    def forward(self, x: Tensor) -> Tensor:
        """Map what the layer maps."""
        weight = self.layer.weight
        steps = self.steps().reshape(-1, *[1] * (weight.ndim - 1))
        rounded = (weight.detach() / steps).round().clamp(-STEPS, STEPS) * steps
        through = weight + (rounded - weight).detach()
        y: Tensor = self.result(functional_call(self.layer, {"weight": through}, (self.input(x),)))
        return y


class Entered(nn.Sequential):
    """A residual block behind the quantiser of what both of its paths read."""


def insert(
    encoder: nn.Module, table: Table, unsigned: Collection[str] = (), learned: bool = False
) -> nn.Module:
    """Round in ``encoder`` what the CPU's INT8 encoding of ``table`` rounds; it is changed in place.

    Args:
        encoder: in evaluation mode, batch normalisations folded; the table was measured on its graph.
        table: gives the steps of activations; those of weights follow from the weights.
        unsigned: the tensors that U8 holds with zero point 0, see `unsigned_of`.
        learned: whether the activations' steps are trained.

    Raises:
        InputError: something of the table has no place in the module; the message names it.
    """
    if table.equalisation or table.corrections:
        raise InputError(
            "the table is of an equalised or corrected graph; give one that was measured without"
        )
    results = {operator.result for operator in table.operators.values()}
    quantisers = {
        name: Quantiser(name, activation.scale, name in unsigned, learned)
        for name, activation in table.activations.items()
    }
    paths = {operator.weight.removesuffix(".weight"): operator for operator in table.operators.values()}
    layers = {path: _layer(encoder, path, operator, table) for path, operator in paths.items()}
    entrances = {_entrance(encoder, table, name): name for name in _of_blocks(table, results)}
    at_entrances = set(entrances.values())
    for path, operator in paths.items():
        enters = operator.input not in results | at_entrances
        reads, result = quantisers[operator.input], quantisers[operator.result]
        _replace(encoder, path, Quantised(layers[path], operator.weight, reads, enters, result))
    for path in sorted(entrances, key=len, reverse=True):  # inner ones first: paths of outer ones then hold
        block = encoder.get_submodule(path)
        _replace(encoder, path, Entered(quantisers[entrances[path]], block))
    return encoder


def unsigned_of(model: onnx.ModelProto, table: Table) -> set[str]:
    """The tensors that the CPU's encoding of a graph holds in U8 with zero point 0.

    Args:
        model: the FP32 graph that the table was measured on.
        table: of it.
    """
    points = {tensor.name: tensor for tensor in encode(model, table, CPU).graph.initializer}
    return {name for name in table.activations if not numpy_helper.to_array(points[f"{name}.zero_point"])}


def clip_as(encoder: nn.Module, *, signed: bool) -> nn.Module:
    """Let a fake-quantised module clip as S8 does, as it does from the start, or as the CPU's U8 does."""
    for part in encoder.modules():
        if isinstance(part, Quantiser):
            part.highest = 2 * STEPS + 1 if part.unsigned and not signed else STEPS
    return encoder


def remove(module: nn.Module) -> nn.Module:
    """Undo `insert`, in place; weights stay as they were trained."""
    for name, child in list(module.named_children()):
        while isinstance(child, Quantised | Entered):
            inner = child.layer if isinstance(child, Quantised) else child[1]
            setattr(module, name, inner)
            child = inner
        remove(child)
    return module


def trained(encoder: nn.Module, measured: Table) -> Table:
    """The table of a fake-quantised module: the steps with which it computes.

    Args:
        encoder: as `insert` made it, trained or not.
        measured: of the graph of its present weights, which gives all that is no step.

    Raises:
        InputError: the table is of another graph.
    """
    steps = {part.tensor: part.step.item() for part in encoder.modules() if isinstance(part, Quantiser)}
    layers = [part for part in encoder.modules() if isinstance(part, Quantised)]
    weights = {part.weight: Weight(0, tuple(map(shortest, part.steps().tolist()))) for part in layers}
    if steps.keys() != measured.activations.keys() or weights.keys() != measured.weights.keys():
        names = sorted(
            (steps.keys() | weights.keys()) ^ (measured.activations.keys() | measured.weights.keys())
        )
        raise InputError(f"the table was measured on another graph: {', '.join(names)} not in both")
    activations = {
        name: Activation(activation.absmax, shortest(steps[name]))
        for name, activation in measured.activations.items()
    }
    return replace(measured, method="trained", percentile=None, activations=activations, weights=weights)


def _layer(encoder: nn.Module, path: str, operator: Operator, table: Table) -> Layer:
    """The layer that an operator came from.

    Raises:
        InputError: there is none, or it is not what the operator is.
    """
    try:
        layer = encoder.get_submodule(path)
    except AttributeError:
        raise InputError(f"layer {path!r}: the table quantises it, and the encoder has none") from None
    if not isinstance(layer, Layer) or getattr(layer, "padding_mode", "zeros") != "zeros":
        kind = type(layer).__name__
        raise InputError(f"layer {path!r}: it is a {kind}; Linear, or Conv2d padded with zeros, is right")
    readers = [other for other in table.operators.values() if other.weight == operator.weight]
    if len(readers) > 1:
        raise InputError(
            f"layer {path!r}: {len(readers)} operators of the graph are this layer; one is right"
        )
    shape, found = list(layer.weight.shape), table.weights[operator.weight]
    if found.axis != 0 or len(found.scales) != shape[0]:
        raise InputError(
            f"layer {path!r}: the table has {len(found.scales)} steps on axis {found.axis} for a weight of "
            f"shape {shape}; it was measured on another encoder"
        )
    return layer


def _of_blocks(table: Table, results: set[str]) -> Iterator[str]:
    """The tensors that are rounded for several readers and not where they are written."""
    reads = [operator.input for operator in table.operators.values()]
    skips = set(table.residuals.values())
    for name in table.activations:
        if name not in results and (name in skips or reads.count(name) > 1):
            yield name


def _entrance(encoder: nn.Module, table: Table, tensor: str) -> str:
    """The path of the residual block that alone reads a tensor.

    Raises:
        InputError: there is none.
    """
    readers = [
        operator.weight.removesuffix(".weight")
        for operator in table.operators.values()
        if operator.input == tensor
    ]
    if not readers:
        raise InputError(
            f"tensor {tensor!r}: a residual addition reads it and no quantised layer does; measure a table "
            "that leaves no layer of a residual block in floating point"
        )
    parts = [path.split(".")[:-1] for path in readers]
    same = [place for place, names in enumerate(zip(*parts, strict=False)) if len(set(names)) == 1]
    path = ".".join(parts[0][: len(same)])
    block = encoder.get_submodule(path)
    if not isinstance(block, BLOCKS):
        names = " or ".join(kind.__name__ for kind in BLOCKS)
        raise InputError(
            f"layer {readers[0]!r}: what it reads ({tensor!r}) is read elsewhere too, outside of a {names}"
        )
    return path


def _replace(encoder: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(encoder.get_submodule(parent), name, module)
