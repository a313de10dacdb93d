"""The networks of others as ONNX files in a cache folder: `python -m tests.peers.build FOLDER [NAME ...]`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.inference.ort import import_onnxruntime
from edgeemo.inference.work import work_of

from .catalogue import PEERS, SAMPLE_RATE, Peer

if TYPE_CHECKING:
    from torch import nn

WINDOWS = (1.0, 3.0, 5.0, 10.0)
"""Seconds of sound for which a network that reads any length is counted."""

ANY_LENGTH = "wav2vec2"
TOLERANCE = 1e-3
"""Share of the largest output by which a graph may differ from its module."""


class BuildError(RuntimeError):
    """A graph that does not compute what its module computes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file without running it.

    Attributes:
        parameters: trained numbers.
        bytes: of the file.
        multiply_adds: of one call, by seconds of sound as text; '' for a picture.
    """

    parameters: int
    bytes: int
    multiply_adds: dict[str, int]

    def work(self, window: float | None) -> int:
        """Multiply-adds of one call, with that many seconds of sound."""
        return self.multiply_adds["" if window is None else f"{window:g}"]


def build(folder: Path, names: Sequence[str] = tuple(PEERS)) -> None:
    """Write the peers that are not there, or were written by another version of this folder.

    Args:
        folder: of the cache; it is made.
        names: some of `PEERS`.

    Raises:
        BuildError: a graph computes something else than its module.
        PackageNotFoundError: torch is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    version = _version()
    for name in names:
        noted = folder / f"{name}.json"
        if noted.is_file() and json.loads(noted.read_text("utf-8"))["version"] == version:
            continue
        from . import networks

        path = folder / f"{name}.onnx"
        module = networks.network(name)
        export(module, PEERS[name].shape, path, any_length=name == ANY_LENGTH)
        facts = Facts(networks.parameters(module), path.stat().st_size, _work(path, PEERS[name]))
        noted.write_text(json.dumps({"version": version, **asdict(facts)}, indent=1) + "\n", "utf-8")


def facts(folder: Path, name: str) -> Facts:
    """What `build` noted of a peer."""
    noted = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return Facts(noted["parameters"], noted["bytes"], noted["multiply_adds"])


def export(module: nn.Module, shape: tuple[int, ...], path: Path, *, any_length: bool = False) -> None:
    """Write a module in FP32 and compare the graph with it on random input.

    Args:
        module: in evaluation mode, of one input and one output.
        shape: of the input.
        path: the file.
        any_length: whether the last axis may have another size, of 1 to 10 seconds of sound.

    Raises:
        BuildError: they differ.
    """
    import torch

    from edgeemo_export.to_onnx import OPSET

    samples = torch.export.Dim("samples", min=SAMPLE_RATE, max=10 * SAMPLE_RATE)
    example = torch.randn(shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses packages that nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({len(shape) - 1: samples},) if any_length else None,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto.SerializeToString()
    with torch.no_grad():
        wanted = module(example).numpy()
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": example.numpy()})[0]
    worst = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not worst <= TOLERANCE:
        raise BuildError(
            f"{path.name}: the graph differs from its module by {worst:.2g} of the largest output"
        )
    path.write_bytes(model)


def _work(path: Path, peer: Peer) -> dict[str, int]:
    """Multiply-adds by window."""
    model = path.read_bytes()
    if peer.reads == "face":
        return {"": work_of(model, {"input": _random(peer.shape)}, path.name).total}
    windows = WINDOWS if peer.name == ANY_LENGTH else (peer.shape[-1] / SAMPLE_RATE,)
    feeds = {f"{window:g}": {"input": _random((1, int(window * SAMPLE_RATE)))} for window in windows}
    return {window: work_of(model, given, path.name).total for window, given in feeds.items()}


def _random(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _version() -> str:
    """Of what makes the files: the sources beside this one, and torch."""
    here = Path(__file__).parent
    sources = b"".join((here / f"{name}.py").read_bytes() for name in ("build", "catalogue", "networks"))
    return f"{hashlib.sha256(sources).hexdigest()[:16]} torch {importlib.metadata.version('torch')}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what is named, all without names."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.build", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}")
    given = parser.parse_args(arguments)
    if strange := [name for name in given.names if name not in PEERS]:
        parser.error(f"{strange[0]}: it is none of {', '.join(PEERS)}")
    build(given.folder, given.names or tuple(PEERS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
