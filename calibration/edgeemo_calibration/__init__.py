"""INT8 from recordings, without a training framework: measure ranges, keep one table, write both encodings.

Quantisation is symmetric: a real number ``x`` is stored as the step ``q = round(x / scale)`` and read back as
``q * scale``. Activations have one scale a tensor, weights one an output channel, and biases stay FP32.

Example::

    table = measure("face.fp32.onnx", feeds, method="mse")
    table.write("face.ranges.json")
    write_encodings("face.fp32.onnx", table, "bundle", "face")

`measure` can equalise channels first, correct biases, and leave operators in floating point; `choose` finds
which are worth it, `tensor_noise` where most is lost. FP16 needs no recordings: `write_half` casts the same
file. `lint` names what TensorRT would refuse.
"""

try:
    import onnx as _  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "edgeemo_calibration edits ONNX graphs, and onnx is not installed; right is: "
        "pip install 'edgeemo[calibration]'",
        name="onnx",
    ) from None

from .encode import CPU, TENSORRT, Encoding, write_encodings
from .floating import Choice, choose
from .half import write_half
from .lint import Finding, lint
from .noise import TensorNoise, output_noise, tensor_noise
from .ranges import keep_floating, measure
from .table import Activation, Operator, Table, Weight

__all__ = [
    "CPU",
    "TENSORRT",
    "Activation",
    "Choice",
    "Encoding",
    "Finding",
    "Operator",
    "Table",
    "TensorNoise",
    "Weight",
    "choose",
    "keep_floating",
    "lint",
    "measure",
    "output_noise",
    "tensor_noise",
    "write_encodings",
    "write_half",
]
