from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeemo.errors import InputError
from edgeemo.inference.ort import import_onnxruntime
from edgeemo_calibration import measure
from edgeemo_calibration.encode import CPU, Encoding, encode
from edgeemo_calibration.table import Table
from edgeemo_export import to_onnx
from edgeemo_export.encoders.face import FaceEncoder
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.residual import ResidualBlock
from edgeemo_export.encoders.resnet import BasicBlock
from edgeemo_export.encoders.voice import VoiceEncoder
from edgeemo_export.fake_quant import (
    PACE,
    Quantised,
    Quantiser,
    clip_as,
    insert,
    remove,
    trained,
    unsigned_of,
)

Enliven = Callable[..., nn.Module]
S8_ALL = Encoding("all", signed=True, results=True)
"""The results of the CPU's encoding, the range of TensorRT's."""


class Small(nn.Module):
    """Every way in which a table's tensor may be read, and a head that stays in floating point."""

    def __init__(self, block: type[nn.Module] = ResidualBlock) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            block(6, 8, 2),  # a projection reads what the first convolution reads
            block(8, 8),  # an identity does
            block(8, 8),  # and here what a residual addition gave
            nn.Conv2d(8, 5, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(5 * 3 * 3, 12),
            nn.ReLU(),
        )
        self.project = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.project(self.trunk(x))
        return tokens


Fed = dict[str, NDArray[np.float32]]


def exported(
    encoder: nn.Module, path: Path, random: np.random.Generator, shape: tuple[int, ...]
) -> list[Fed]:
    """Write the FP32 graph of an encoder; gives feeds of its input, called x."""
    rows = 4 if shape[0] != 1 else 1
    feeds = [{"x": random.normal(0, 1, (rows, *shape[1:])).astype(np.float32)} for _ in range(6)]
    to_onnx.write(
        encoder, {"x": torch.from_numpy(feeds[0]["x"])}, ["tokens"], path, batched=("x",) if rows > 1 else ()
    )
    return feeds


def run(model: onnx.ModelProto, feed: Fed, tensors: list[str]) -> list[NDArray[np.float32]]:
    """Tensors of a graph, run as it is written."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    known = {value.name for value in probed.graph.output}
    probed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in known
    )
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, ["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(tensors, feed)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Table]:
    """An encoder, and the table of its graph."""
    torch.manual_seed(0)
    encoder = Small().eval()
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
    path = tmp_path_factory.mktemp("small") / "small.fp32.onnx"
    feeds = exported(fold_batch_norms(encoder), path, np.random.default_rng(0), (4, 1, 12, 12))
    return encoder, measure(path, feeds, method="min-max")


ENCODERS = [
    pytest.param(Small, (4, 1, 12, 12), id="small"),
    pytest.param(lambda: Small(BasicBlock), (4, 1, 12, 12), id="basic block", marks=pytest.mark.slow),
    pytest.param(lambda: FaceEncoder(16), (4, 48, 48, 1), id="face", marks=pytest.mark.slow),
    pytest.param(lambda: VoiceEncoder(16), (1, 16000), id="voice"),
]


def rounded(encoder: nn.Module, feed: Fed, model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """What every quantiser of a module gives, by the tensor of the graph that has to be the same."""
    found: dict[str, NDArray[np.float32]] = {}

    def keep(part: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
        assert isinstance(part, Quantiser) and part.tensor not in found
        found[part.tensor] = y.numpy()

    handles = [part.register_forward_hook(keep) for part in encoder.modules() if isinstance(part, Quantiser)]
    encoder(torch.from_numpy(feed["x"]))
    for handle in handles:
        handle.remove()
    behind_relu = {name for node in model.graph.node if node.op_type == "Relu" for name in node.output}
    return {name: np.maximum(y, 0) if name in behind_relu else y for name, y in found.items()}


@pytest.mark.parametrize(("build", "shape"), ENCODERS)
@torch.no_grad()
def test_the_module_computes_what_its_graphs_compute(
    build: Callable[[], nn.Module], shape: tuple[int, ...], enliven: Enliven, tmp_path: Path
) -> None:
    encoder, path = fold_batch_norms(enliven(build())), tmp_path / "made.fp32.onnx"
    feeds = exported(encoder, path, np.random.default_rng(1), shape)
    source = onnx.load(path)
    for percentile in (100.0, 90.0):  # at 90 a tenth of everything is clipped
        table = measure(path, feeds, method="percentile", percentile=percentile)
        changed = insert(copy.deepcopy(encoder), table, unsigned_of(source, table))
        for encoding in (CPU, S8_ALL):
            clip_as(changed, signed=encoding.signed)
            found = rounded(changed, feeds[0], source)
            assert found.keys() == table.activations.keys()
            model = encode(source, table, encoding)
            wanted = run(model, feeds[0], [f"{tensor}.dequantised" for tensor in found])
            for (tensor, mine), theirs in zip(found.items(), wanted, strict=True):
                # Sums in another order: a few values land on the other side of a rounding, and what reads
                # them rounds other sums. A rounding too many or too few would move a third of them.
                steps = np.abs(mine - theirs) / table.activations[tensor].scale
                assert steps.max() < 4.5 and (steps < 1e-3).mean() > 0.9, (encoding.suffix, tensor)


def test_removing_gives_the_module_back(small: tuple[nn.Module, Table]) -> None:
    encoder, table = small
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    changed = insert(copy.deepcopy(encoder), table)
    assert sum(isinstance(part, Quantised) for part in changed.modules()) == len(table.operators)
    remove(changed)
    assert changed.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in changed.state_dict().items())
    assert str(changed) == str(encoder)


def test_the_table_is_that_of_the_steps(small: tuple[nn.Module, Table]) -> None:
    """Untrained, it is the one that was put in, but for the name of the method."""
    encoder, table = small
    changed = insert(copy.deepcopy(encoder), table, learned=True)
    assert trained(changed, table) == replace(table, method="trained")
    quantiser = next(part for part in changed.modules() if isinstance(part, Quantiser))
    with torch.no_grad():
        quantiser.growth.fill_(np.log(2.0) / PACE)
        changed.project.weight.fill_(7.0)
        changed.trunk[0].layer.weight[0, 0, 0, 0] = 12.7
    found = trained(changed, table)
    before = table.activations[quantiser.tensor]
    assert found.activations[quantiser.tensor].scale == pytest.approx(2.0 * before.scale)
    assert found.activations[quantiser.tensor].absmax == before.absmax
    scales = found.weights["trunk.0.weight"].scales
    assert scales == (pytest.approx(0.1), *table.weights["trunk.0.weight"].scales[1:])


def test_a_copy_is_trained_alone(small: tuple[nn.Module, Table]) -> None:
    """The training loop averages a copy: what a layer reads of its input's quantiser must be the copy's."""
    encoder, table = small
    first = insert(copy.deepcopy(encoder), table, learned=True)
    second = copy.deepcopy(first)
    parts = {id(part) for part in second.modules()}
    for layer in second.modules():
        if isinstance(layer, Quantised):
            assert id(layer._reads[0]) in parts


def test_gradients_of_a_quantiser() -> None:
    """Straight through within the range, none beyond it; by the step as Esser et al. (2020) have it."""
    x = torch.tensor([0.26, -0.74, 63.0, 80.0, -70.0], requires_grad=True)
    quantiser = Quantiser("x", 0.5, learned=True)
    y = quantiser(x)
    assert y.tolist() == [0.5, -0.5, 63.0, 63.5, -64.0]
    (y * torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 2.0, 3.0, 0.0, 0.0]
    by_step = 1.0 * (1 - 0.52) + 2.0 * (-1 + 1.48) + 3.0 * 0.0 + 5.0 * 127 + 7.0 * -128
    assert quantiser.growth.grad is not None
    assert quantiser.growth.grad.item() == pytest.approx(0.5 * by_step / (5 * 127) ** 0.5, rel=1e-5)
    frozen = Quantiser("x", 0.5)
    frozen(x).sum().backward()
    assert frozen.growth.grad is None


def test_a_weight_learns_as_if_it_were_not_rounded() -> None:
    """Also the largest of each channel, at the very end of the range."""
    torch.manual_seed(0)
    plain, x = nn.Linear(5, 3), torch.rand(4, 5)
    layer = Quantised(copy.deepcopy(plain), "weight", Quantiser("x", 0.01), True, Quantiser("y", 10.0))
    layer(x).sum().backward()
    plain(layer.input(x)).sum().backward()
    assert isinstance(layer.layer, nn.Linear)
    torch.testing.assert_close(layer.layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer.layer.bias.grad, plain.bias.grad)


def without_identity_reader(table: Table) -> Table:
    """The first convolution of the block at trunk.4 stays in floating point; its skip path is read alone."""
    kept = {name: one for name, one in table.operators.items() if one.weight != "trunk.4.conv1.weight"}
    return replace(table, operators=kept)


def elsewhere(table: Table) -> Table:
    """A layer outside of the block reads what the block reads."""
    changed = dict(table.operators)
    name = next(name for name, one in changed.items() if one.weight == "trunk.6.weight")
    first = next(one for one in changed.values() if one.weight == "trunk.4.conv1.weight")
    changed[name] = replace(changed[name], input=first.input)
    return replace(table, operators=changed)


def renamed(old: str, new: str) -> Callable[[Table], Table]:
    def change(table: Table) -> Table:
        weights = {new if name == old else name: one for name, one in table.weights.items()}
        operators = {
            name: replace(one, weight=new) if one.weight == old else one
            for name, one in table.operators.items()
        }
        return replace(table, weights=weights, operators=operators)

    return change


def fewer_channels(table: Table) -> Table:
    name = "trunk.0.weight"
    return replace(table, weights={**table.weights, name: replace(table.weights[name], scales=(0.1,))})


def twice(table: Table) -> Table:
    first = next(iter(table.operators.values()))
    return replace(table, operators={**table.operators, "again": first})


def equalised(table: Table) -> Table:
    return replace(table, equalisation={table.operators["conv2d"].result: (1.0,) * 6})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("trunk.0.weight", "trunk.77.weight"), "layer 'trunk.77': .* the encoder has none"),
        (renamed("trunk.0.weight", "trunk.1.weight"), "layer 'trunk.1': it is a Identity; Linear, or Conv2d"),
        (fewer_channels, r"layer 'trunk.0': .* 1 steps on axis 0 for a weight of shape \[6, 1, 3, 3\]"),
        (twice, "layer 'trunk.0': 2 operators of the graph are this layer"),
        (without_identity_reader, "tensor 'relu_2': a residual addition reads it"),
        (elsewhere, "layer 'trunk.4.conv1': what it reads .'relu_2'. is read elsewhere too"),
        (equalised, "equalised or corrected"),
    ],
)
def test_what_has_no_place_is_refused(
    small: tuple[nn.Module, Table], change: Callable[[Table], Table], message: str
) -> None:
    encoder, table = small
    changed = change(table)
    assert changed != table
    with pytest.raises(InputError, match=message):
        insert(copy.deepcopy(encoder), changed)


def test_a_table_of_another_graph_is_refused(small: tuple[nn.Module, Table]) -> None:
    encoder, table = small
    changed = insert(copy.deepcopy(encoder), table)
    with pytest.raises(InputError, match=r"another graph: trunk\.0\.weight, trunk\.77\.weight"):
        trained(changed, renamed("trunk.0.weight", "trunk.77.weight")(table))
