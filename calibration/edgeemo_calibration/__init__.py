"""INT8 from recordings, without a training framework: measure ranges, keep one table, write both encodings.

Quantisation is symmetric: a real number ``x`` is stored as the step ``q = round(x / scale)`` and read back as
``q * scale``. Activations have one scale a tensor, weights one an output channel, and biases stay FP32.

Example::

    table = measure("face.fp32.onnx", feeds, method="mse")
    table.write("face.ranges.json")
    write_encodings("face.fp32.onnx", table, "bundle", "face")

FP16 needs no recordings: `write_half` casts the same file. `lint` names what TensorRT would refuse.
"""

from .encode import CPU, TENSORRT, Encoding, write_encodings
from .half import write_half
from .lint import Finding, lint
from .ranges import measure
from .table import Activation, Operator, Table, Weight

__all__ = [
    "CPU",
    "TENSORRT",
    "Activation",
    "Encoding",
    "Finding",
    "Operator",
    "Table",
    "Weight",
    "lint",
    "measure",
    "write_encodings",
    "write_half",
]
