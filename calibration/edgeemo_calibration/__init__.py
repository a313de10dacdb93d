"""INT8 from recordings, without a training framework: measure ranges, keep one table, write both encodings.

Quantisation is symmetric: a real number ``x`` is stored as the step ``q = round(x / scale)`` and read back as
``q * scale``. Activations have one scale a tensor, weights one an output channel, and biases stay FP32.

Example::

    table = measure("face.fp32.onnx", feeds, method="mse")
    table.write("face.ranges.json")
    write_encodings("face.fp32.onnx", table, "bundle", "face")
"""

from .encode import CPU, TENSORRT, Encoding, write_encodings
from .ranges import measure
from .table import Activation, Operator, Table, Weight

__all__ = [
    "CPU",
    "TENSORRT",
    "Activation",
    "Encoding",
    "Operator",
    "Table",
    "Weight",
    "measure",
    "write_encodings",
]
