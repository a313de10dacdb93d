"""A published voice activity detector beside the presence head: Silero's, run as its authors run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo.errors import InputError
from edgeemo.inference.ort import import_onnxruntime, open_session

from .encoders.voice import SAMPLE_RATE

CHUNK, BEFORE = 512, 64  # samples of a step, and those of the step before that it reads again
_STATE = (2, 1, 128)

Values = NDArray[np.float32]


class Silero:
    """Silero VAD (version 5, MIT licence), 16 kHz: the probability of speech in each 32 ms, with a memory.

    Args:
        path: its ONNX file, with the inputs ``input``, ``state`` and ``sr``.

    Attributes:
        multiply_adds: of its convolutions and products in one second of sound.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: it is not there; the page compares with it")
        content = path.read_bytes()
        self._session = open_session(content, path.name)
        self.multiply_adds = round(_multiply_adds(content) * SAMPLE_RATE / CHUNK)

    def probabilities(self, samples: Values) -> Values:
        """The probability of each whole chunk of a recording ``[n]`` that is heard from its start on."""
        state, before = np.zeros(_STATE, np.float32), np.zeros(BEFORE, np.float32)
        rate = np.array(SAMPLE_RATE)
        found = []
        for start in range(0, len(samples) - CHUNK + 1, CHUNK):
            chunk = samples[start : start + CHUNK]
            feeds = {"input": np.concatenate([before, chunk])[None], "state": state, "sr": rate}
            probability, state = self._session.run(None, feeds)
            before = chunk[-BEFORE:]
            found.append(float(probability[0, 0]))
        return np.array(found, np.float32)


def over_contexts(probabilities: Values, ends: Values, context: int) -> tuple[Values, Values]:
    """Mean and maximum of the chunks that lie within each context.

    Args:
        probabilities: of consecutive chunks.
        ends: samples at which the contexts end ``[n]``.
        context: samples of one; what lies ahead of the recording is silent.

    Returns:
        ``[n]`` each; 0 where a context holds no whole chunk.

    Example:
        >>> over_contexts(np.float32([0.0, 1.0, 0.5]), np.array([1024, 1536]), 1024)
        (array([0.5 , 0.75], dtype=float32), array([1., 1.], dtype=float32))
    """
    means, highest = [], []
    for end in ends:
        last = int(end) // CHUNK
        first = max(0, -(-(int(end) - context) // CHUNK))
        part = probabilities[first:last]
        # What of the context lies ahead of the recording is silence, and counts in the mean.
        means.append(float(part.sum()) / max(context // CHUNK, len(part)))
        highest.append(float(part.max(initial=0.0)))
    return np.array(means, np.float32), np.array(highest, np.float32)


def _multiply_adds(content: bytes) -> int:
    """Of one step: the convolutions by the shapes that they have when run, and the products of the LSTM."""
    model = onnx.load_from_string(content)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    for node in nodes:
        probed.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    session = import_onnxruntime().InferenceSession(
        probed.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {
        "input": np.zeros((1, BEFORE + CHUNK), np.float32),
        "state": np.zeros(_STATE, np.float32),
        "sr": np.array(SAMPLE_RATE),
    }
    values = session.run([node.output[0] for node in nodes], feeds)
    total = sum(
        value.size * int(np.prod(weights[node.input[1]].dims[1:]))
        for node, value in zip(nodes, values, strict=True)
    )
    recurrent = [tensor for name, tensor in weights.items() if ".rnn.weight" in name]
    return total + sum(numpy_helper.to_array(tensor).size for tensor in recurrent)
