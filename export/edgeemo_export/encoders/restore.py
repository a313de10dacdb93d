"""Takes weights back out of a bundle's FP32 graphs, so that training can go on without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from edgeemo.errors import BundleError
from edgeemo.inference.bundle import Bundle
from edgeemo.inference.ort import import_onnxruntime
from edgeemo.inference.wiring import SPEECH

from .fold import fold_batch_norms
from .presence import TOKENS, SpeechAware, features_of, outputs_of, presence_head
from .voice import SAMPLE_RATE, SIZES, AttentivePool, VoiceEncoder

TOLERANCE = 1e-5  # of the tokens, which lie between 0 and about 5
ARCHITECTURE = "it must be one of this package's default architecture, with a voice"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class VoicePart:
    """What of a bundle answers by the voice.

    Attributes:
        encoder: batch normalisations folded.
        pool: of the fusion, over tokens.
        head: of the fusion, on what is pooled.
        temperature: by which the graph divides the head's logits.
        presence: of speech, what reads the encoder's pooled features; None where the bundle does not tell it.
    """

    encoder: VoiceEncoder
    pool: AttentivePool
    head: nn.Linear
    temperature: float
    presence: nn.Sequential | None = None


def restore_voice(bundle: Bundle) -> VoicePart:
    """Restore the voice encoder of a bundle, and what of its fusion reads the voice.

    The modules are held to the graphs before they are given: tokens equal to 1e-5, answers equal but for
    the temperature.

    Raises:
        BundleError: the bundle is not of this package's default architecture.
    """
    wrong = BundleError(
        f"bundle {bundle.path}: its voice graph is not one that can be adapted; {ARCHITECTURE}"
    )
    heard = bundle.voice
    if heard is None or (heard.sample_rate, heard.context) != (SAMPLE_RATE, VoiceEncoder.context):
        raise wrong
    voice, fusion = (
        onnx.load_from_string(bundle.read_file(bundle.graphs[name].files["fp32"]))
        for name in ("voice", "fusion")
    )
    width = bundle.graphs["voice"].outputs["tokens"].shape[-1]
    assert isinstance(width, int)
    pool, head = AttentivePool(width), nn.Linear(2 * width, len(bundle.labels))
    try:
        encoder = _encoder(voice, width)
        load_weights(pool, fusion, "voice_pool.")
        load_weights(head, fusion, "voice_head.")
        _hold_encoder(encoder, voice, TOKENS)
        presence = None
        if SPEECH in bundle.graphs["voice"].outputs:
            presence = _presence(encoder, voice)
            _hold_encoder(SpeechAware(encoder, presence), voice, SPEECH)
        return VoicePart(encoder, pool, head, _hold_head(pool, head, fusion, bundle), presence)
    except (KeyError, RuntimeError, ValueError) as error:
        raise wrong from error


def _encoder(model: onnx.ModelProto, width: int) -> VoiceEncoder:
    """The encoder of the size that the graph's weights have, batch normalisations folded."""
    wrong: Exception | None = None
    for size in SIZES:
        encoder = VoiceEncoder(width, size)
        fold_batch_norms(encoder.eval())
        try:
            load_weights(encoder, model)
        except (KeyError, RuntimeError) as error:
            wrong = error
        else:
            return encoder
    raise KeyError(f"the weights are of no size among {', '.join(SIZES)}") from wrong


def _presence(encoder: VoiceEncoder, model: onnx.ModelProto) -> nn.Sequential:
    head = presence_head(features_of(encoder)).eval()
    fold_batch_norms(head)
    load_weights(head, model, "presence.")
    return head


@torch.no_grad()
def load_weights(module: nn.Module, model: onnx.ModelProto, prefix: str = "") -> None:
    """Fill a module with the graph's initialisers of the same names.

    The exporter keeps the names of what it keeps as it is. The matrix of a linear layer over more than two
    axes becomes a nameless transposed constant: it is found beside the bias that is added behind it, and one
    without a bias, of a score, behind the tanh that follows that sum.

    Args:
        module: in the form in which it was exported.
        model: the graph.
        prefix: of the module's names in the graph; a wrapper may have put more before it.

    Raises:
        KeyError: the graph has no such weight.
        RuntimeError: one has another shape.
    """
    graph = _Graph(model.graph)
    weights = {name: torch.from_numpy(graph.weight(prefix + name).copy()) for name in module.state_dict()}
    module.load_state_dict(weights)


def set_voice_temperature(model: onnx.ModelProto, value: float) -> None:
    """Give a fusion graph another temperature of the voice alone, in place; nothing else of it changes.

    Args:
        model: the fusion's graph.
        value: the new temperature.

    Raises:
        KeyError: the graph divides the voice's logits by nothing, as one with a temperature of 1 does.
    """
    graph = _Graph(model.graph)
    bias = graph.name_of("voice_head.bias")
    if bias is None:
        raise KeyError("voice_head.bias")
    division = graph.reader(graph.reader(bias, "Gemm").output[0], "Div")
    if division.input[1] not in graph.constants:
        raise KeyError(division.input[1])
    # Temperatures that are equal are one constant in the graph, so this one gets its own.
    name = "voice_temperature"
    if name not in graph.constants:
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    else:
        graph.constants[name].CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))
    division.input[1] = name


class _Graph:
    """Who makes a tensor, who reads it, and which ones are constant."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def weight(self, name: str) -> Array:
        stored = self.name_of(name)
        if stored is not None:
            return numpy_helper.to_array(self.constants[stored])
        layer = name.removesuffix(".weight")
        if layer.endswith("score"):
            tanh = self.reader(self.sum_with_bias(layer.removesuffix("score") + "hidden").output[0], "Tanh")
            product = self.reader(tanh.output[0], "MatMul")
        else:
            added = self.sum_with_bias(layer)
            product = next(self.makers[given] for given in added.input if given in self.makers)
        if product.op_type != "MatMul":
            raise KeyError(name)
        return np.ascontiguousarray(numpy_helper.to_array(self.constants[product.input[1]]).T)

    def name_of(self, name: str) -> str | None:
        return next((key for key in self.constants if key == name or key.endswith(f".{name}")), None)

    def sum_with_bias(self, layer: str) -> onnx.NodeProto:
        bias = self.name_of(f"{layer}.bias")
        if bias is None:
            raise KeyError(f"{layer}.bias")
        return self.reader(bias, "Add")

    def reader(self, name: str, kind: str) -> onnx.NodeProto:
        for node in self.readers.get(name, []):
            if node.op_type == kind:
                return node
        raise KeyError(name)


def _run(model: onnx.ModelProto, feeds: Mapping[str, Tensor], output: str) -> Tensor:
    session = import_onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run([output], {name: value.numpy() for name, value in feeds.items()})
    return torch.from_numpy(found)


@torch.no_grad()
def _hold_encoder(encoder: VoiceEncoder, model: onnx.ModelProto, output: str) -> None:
    random = torch.Generator().manual_seed(0)
    for level in (0.3, 0.01):
        voice = level * torch.randn(1, VoiceEncoder.context, generator=random)
        answer = encoder(voice)
        mine = answer[outputs_of(encoder).index(output)] if isinstance(answer, tuple) else answer
        worst = float((mine - _run(model, {"voice": voice}, output)).abs().max())
        if not worst <= TOLERANCE:
            raise ValueError(f"{output} differ by {worst:.2g}")


@torch.no_grad()
def _hold_head(pool: AttentivePool, head: nn.Linear, model: onnx.ModelProto, bundle: Bundle) -> float:
    """The graph's temperature of the voice, by which its logits are all that differ from the head's."""
    random = torch.Generator().manual_seed(0)
    slots, width = bundle.slots, head.in_features // 2
    tokens, mask = torch.rand(1, slots, width, generator=random), torch.ones(1, slots)
    feeds = {"voice_tokens": tokens, "voice_mask": mask}
    if "face" in bundle.modalities:
        feeds |= {"face_tokens": torch.zeros(1, slots, width), "face_mask": torch.zeros(1, slots)}
    found, mine = _run(model, feeds, "logits"), head(pool(tokens, mask))
    temperature = float(mine.square().sum() / (mine * found).sum())
    worst = float((found * temperature - mine).abs().max())
    if not worst <= 1e-4 * float(mine.abs().max()):
        raise ValueError(f"logits differ by {worst:.2g}")
    return temperature
