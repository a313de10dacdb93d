"""The row of quantisation-aware training in the study of quantisation: a run's encoders, fine-tuned."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeemo.errors import InputError
from edgeemo.inference.bundle import Bundle
from edgeemo_calibration import Table

from . import bundle as bundles
from . import qat
from .config import seeded
from .recipes import default


class Finetuner:
    """Fine-tunes the encoders of the run that a bundle was written from.

    Args:
        run: folder of the finished run.
        data: the corpora.
        bundle: its bundle.

    Raises:
        InputError: the run is of no default system, or the bundle's trunks are not this run's.
    """

    def __init__(self, run: Path, data: Path, bundle: Bundle) -> None:
        if not (run / "fusion" / "state.pt").exists():
            raise InputError(f"{run}: it holds no finished run of the default system")
        self._data = data
        self._trained = default.train(data, run, default.settings(run, default.DEFAULTS))
        for name in bundles.encoders_of(self._trained):
            written = _trunk(_graph(name, self._trained))
            file = _trunk(onnx.load_from_string(bundle.read_file(bundle.graphs[name].files["fp32"])))
            same = written.keys() == file.keys()
            if not (same and all(np.array_equal(written[key], file[key]) for key in file)):
                raise InputError(
                    f"{run}: its {name} is not that of the bundle {bundle.path}; give its own run"
                )

    def finetune(self, name: str, seed: int, folder: Path) -> tuple[onnx.ModelProto, Table]:
        """Fine-tune one encoder; a finished training is read back.

        Args:
            name: ``'face'`` or ``'voice'``.
            seed: of the training, and of the calibration items that it begins with.
            folder: of the training.

        Returns:
            the new FP32 graph, and the table by which it is encoded.
        """
        train = {"face": qat.finetune_face, "voice": qat.finetune_voice}[name]
        config = seeded(getattr(qat.DEFAULTS, name), seed)
        found, table = train(self._trained, self._data, folder, config)
        return _graph(name, found), table


def _graph(name: str, trained: default.Trained) -> onnx.ModelProto:
    """The FP32 graph of one of its encoders, as a bundle gets it."""
    with tempfile.TemporaryDirectory() as work:
        return onnx.load(bundles.write_encoder(Path(work), name, bundles.encoders_of(trained)[name]))


def _trunk(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.startswith("trunk.")
    }
