"""Whether this processor's INT8 products are exact."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from edgeemo.errors import BackendError
from edgeemo.inference.ort import open_session

_GRAPH = Path(__file__).with_name("u8s8.onnx")


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's U8 by S8 products saturate here, as they do on x86 without VNNI instructions.

    There two neighbouring products are added in 16 bits, so that 2 * 255 * 127 is cut at 32767. The graph of
    the probe multiplies a row `a` with a constant, 8x8 and all 127; the right answer to a row of 255 is
    8 * 255 * 127. What was found is kept for the process.

    Raises:
        BackendError: ONNX Runtime is missing or could not run the probe.
    """
    session = open_session(_GRAPH.read_bytes(), _GRAPH.name)
    try:
        (product,) = session.run(None, {"a": np.full((1, 8), 255, np.uint8)})
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise BackendError(f"the probe for INT8 saturation could not run: {error}") from error
    return bool((product != 8 * 255 * 127).any())
