"""The shared image backbone: torchvision's names, its weights, what either modality gives it, its export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo.errors import InputError
from edgeemo_calibration import lint
from edgeemo_export import bundle, to_onnx
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.resnet import Backbone, FacePicture, MelPicture, Resize, ResNet

Enliven = Callable[..., nn.Module]


def table(blocks: tuple[int, ...]) -> dict[str, list[int]]:
    """Names and shapes in torchvision's state dict, by the rule that it makes them by."""

    def norm(name: str, width: int) -> dict[str, list[int]]:
        parts = {part: [width] for part in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.{part}": shape for part, shape in (parts | {"num_batches_tracked": []}).items()}

    found = {"conv1.weight": [64, 3, 7, 7], **norm("bn1", 64), "fc.weight": [1000, 512], "fc.bias": [1000]}
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        for block in range(count):
            name, changes = f"layer{stage}.{block}", stage > 1 and block == 0
            inputs = width // 2 if changes else width
            found |= {f"{name}.conv1.weight": [width, inputs, 3, 3], **norm(f"{name}.bn1", width)}
            found |= {f"{name}.conv2.weight": [width, width, 3, 3], **norm(f"{name}.bn2", width)}
            if changes:
                found[f"{name}.downsample.0.weight"] = [width, inputs, 1, 1]
                found |= norm(f"{name}.downsample.1", width)
    return found


@pytest.mark.parametrize(
    ("depth", "blocks", "parameters"),
    [(18, (2, 2, 2, 2), 11_689_512), (34, (3, 4, 6, 3), 21_797_672)],
)
def test_names_and_shapes_are_torchvisions(depth: int, blocks: tuple[int, ...], parameters: int) -> None:
    net = ResNet(depth)
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == table(blocks)
    assert sum(value.numel() for value in net.parameters()) == parameters


def test_other_depths_are_refused() -> None:
    with pytest.raises(InputError, match="depth 50: it must be one of 18, 34"):
        ResNet(50)


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """ResNet-18's logits, out of a state dict by functions alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        kept = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *kept)

    x = F.max_pool2d(norm(F.conv2d(x, state["conv1.weight"], None, 2, 3), "bn1").relu(), 3, 2, 1)
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(F.conv2d(x, state[f"{name}.conv1.weight"], None, stride, 1), f"{name}.bn1").relu()
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], None, 1, 1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], None, stride)
                x = norm(x, f"{name}.downsample.1")
            x = (x + y).relu()
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


def test_resnet_computes_what_its_weights_mean(enliven: Enliven) -> None:
    net = enliven(ResNet(18, classes=10))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = net(x), reference(net.state_dict(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


# ImageNet's weights


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A state dict as torchvision's of ResNet-18."""
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.zeros((), dtype=torch.long) if not shape else torch.rand(shape, generator=random)
        for name, shape in table((2, 2, 2, 2)).items()
    }


@pytest.mark.parametrize("classes", [1000, None])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("counts", [True, False], ids=["as now", "as before PyTorch 0.4.1"])
def test_weights_of_torchvision_are_taken(
    trained: dict[str, Tensor], classes: int | None, suffix: str, counts: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"resnet18{suffix}"
    given = {name: value for name, value in trained.items() if counts or "num_batches" not in name}
    if suffix == ".pth":
        torch.save(given, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(given, path)
    net = ResNet(18, classes)
    net.load_imagenet(path)
    own = net.state_dict()
    assert ("fc.weight" in own) == (classes is not None)
    for name, value in own.items():
        assert torch.equal(value, trained[name]), name


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "layer2.1.conv2.weight"), "it has no 'layer2.1.conv2.weight'"),
        (lambda state: state | {"layer3.2.conv1.weight": torch.zeros(1)}, "another layer, 'layer3.2.conv1"),
        (
            lambda state: state | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"'conv1.weight' has shape \[64, 1, 7, 7\]; it should be \[64, 3, 7, 7\]",
        ),
        (lambda state: without(state, "fc.bias"), "it has no 'fc.bias'"),
        (lambda state: {"model": state}, "it holds dict, not a state dict"),
        (lambda state: [1, 2], "it holds list, not a state dict"),
        (lambda state: OSError("a class that would be run"), "not a state dict"),
    ],
    ids=["missing", "of another depth", "of another shape", "headless", "nested", "no dict", "an object"],
)
def test_wrong_weights_are_refused(
    trained: dict[str, Tensor], change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path
) -> None:
    torch.save(change(trained), tmp_path / "net.pth")
    net = ResNet(18)
    before = net.conv1.weight.clone()
    with pytest.raises(InputError, match=rf"net\.pth: .*{message}"):
        net.load_imagenet(tmp_path / "net.pth")
    assert torch.equal(net.conv1.weight, before)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"", "not a state dict"), (b"html", "not a state")]
)
def test_files_that_are_none_are_refused(
    content: bytes | None, message: str, name: str, tmp_path: Path
) -> None:
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {message}"):
        ResNet(18).load_imagenet(tmp_path / name)


# What either modality gives the backbone


@pytest.mark.parametrize(("before", "after"), [(48, 64), (48, 96), (48, 40), (5, 7)])
def test_resizing_is_bilinear(before: int, after: int) -> None:
    x = torch.randn(2, 3, before, before, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, size=(after, after), mode="bilinear", align_corners=False)
    torch.testing.assert_close(Resize(before, after)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_face_is_a_photograph_in_grey() -> None:
    white, black = torch.full((1, 48, 48, 1), 255, dtype=torch.uint8), torch.zeros(1, 48, 48, 1)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for face, level in ((white, 1.0), (black, 0.0)):
        made = FacePicture(64)(face)
        assert made.shape == (1, 3, 64, 64)
        expected = np.broadcast_to(((level - mean) / deviation)[:, None, None], (3, 64, 64))
        np.testing.assert_allclose(made[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "channels"), [(48, 1), (64, 3)])
def test_a_second_is_a_square_picture(size: int, channels: int) -> None:
    time = torch.arange(16000) / 16000
    made = MelPicture(size, channels)(0.1 * torch.sin(2 * torch.pi * 300 * time**2)[None])  # a rising tone
    assert made.shape == (1, channels, size, size)
    assert all(torch.equal(made[:, place], made[:, 0]) for place in range(channels))
    loudest = made[0, 0].argmax(dim=0)
    assert loudest[-1] > loudest[size // 2] > loudest[size // 8]  # time runs to the right


def given(name: str, rows: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(rows)
    if name == "face":
        smooth = F.interpolate(
            255 * torch.rand(rows, 1, 6, 6, generator=random), size=(48, 48), mode="bicubic"
        )
        return smooth.clamp(0, 255).round().byte().permute(0, 2, 3, 1)
    return 0.1 * torch.randn(rows, 16000, generator=random)


@pytest.mark.parametrize("net", ["small", "resnet18"])
@pytest.mark.parametrize("name", ["face", "voice"])
def test_encoders_are_copies_of_what_is_shared(net: str, name: str, enliven: Enliven) -> None:
    backbone = Backbone(net, width=16)
    enliven(backbone)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    x, front = given(name), {"face": backbone.face, "voice": backbone.voice}[name]
    with torch.no_grad():
        tokens = backbone.tokens(front(x))
        assert tokens.shape == (3, 16) and (tokens >= 0).all()
        scale = float(tokens.abs().max())
        assert float((tokens[0] - tokens[1]).abs().max()) > 1e-2 * scale  # it sees its input
        encoder = backbone.encoders()[name]
        torch.testing.assert_close(encoder(x), tokens)
        folded = fold_batch_norms(encoder)
        torch.testing.assert_close(folded(x), tokens, rtol=1e-3, atol=1e-4 * scale)
        torch.testing.assert_close(folded(x[1:2]), tokens[1:2], rtol=1e-3, atol=1e-4 * scale)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("net", ["small", "resnet18"])
def test_a_gradient_reaches_every_parameter_of_the_backbone(net: str, enliven: Enliven) -> None:
    backbone = Backbone(net, width=16)
    enliven(backbone).train()
    pictures = torch.cat([backbone.face(given("face")), backbone.voice(given("voice"))])
    backbone.tokens(pictures).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize(
    ("net", "size", "message"),
    [("resnet50", None, "must be small, resnet18 or resnet34"), ("small", 50, "of 8")],
)
def test_other_backbones_are_refused(net: str, size: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Backbone(net, size=size)


# Export


def feeds(name: str, count: int) -> Iterator[dict[str, Any]]:
    for rows in range(1, count + 1):
        yield {name: (given(name, rows) if name == "face" else given(name, rows)[:1]).numpy()}


def written(net: str, folder: Path, enliven: Enliven) -> None:
    """Both encoders of a backbone as the graphs of a bundle; what is written is compared with the module."""
    torch.manual_seed(0)
    backbone = Backbone(net)
    if net == "small":
        enliven(backbone)
    for name, encoder in backbone.encoders().items():
        rows = {name: given(name) if name == "face" else given(name)[:1]}
        batched = ("face",) if name == "face" else ()
        encoder = fold_batch_norms(encoder.eval())
        to_onnx.write(encoder, rows, ["tokens"], folder / f"{name}.fp32.onnx", batched)
        bundle.encode(folder, name, feeds(name, 2))


@pytest.mark.parametrize("net", ["small", pytest.param("resnet34", marks=pytest.mark.slow)])
def test_graphs_are_exact_and_for_tensorrt(net: str, enliven: Enliven, tmp_path: Path) -> None:
    written(net, tmp_path, enliven)
    for path in sorted(tmp_path.glob("*.onnx")):
        model = onnx.load(path)
        if "int8-cpu" not in path.name:
            assert lint(model) == [], path.name
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"BatchNormalization", "Resize", "Shape", "Expand"}
        if "int8" in path.name:
            convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
            rounded = [node for node in convolutions if node.input[1].endswith(".dequantised")]
            assert len(rounded) == {"small": 10, "resnet34": 36}[net]
