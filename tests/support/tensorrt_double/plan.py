"""The plan of the double: a header, checked as the library checks its own, and the graph to compute."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any

# As in a real plan: the tag, 0, the version of the library in bytes 24 to 27, which is what
# `trtexec --getPlanVersionOnly` reads. The sizes between them are the double's own.
_TAG = b"ftrt"
_HEADER = struct.Struct("<4sIII8x4B")


@dataclass(frozen=True)
class Plan:
    """What an engine is made of.

    Args:
        version: of the library that built it.
        device: what it was built on, with its compute `capability`.
        config: how it was built.
        layers: what the inspector says of each layer.
        profiles: per profile and input, the least, best and largest shape.
        model: the ONNX file.
    """

    version: str
    device: str
    capability: tuple[int, int]
    config: dict[str, Any]
    layers: list[dict[str, Any]]
    profiles: list[dict[str, list[list[int]]]]
    model: bytes

    def pack(self) -> bytes:
        """The bytes of the plan."""
        facts = json.dumps({key: value for key, value in asdict(self).items() if key != "model"}).encode()
        body = struct.pack("<I", len(facts)) + facts + self.model
        return _HEADER.pack(_TAG, 0, len(body), zlib.crc32(body), *_numbers(self.version)) + body


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in (*version.split("."), "0")[:4])


class Refused(Exception):
    """A plan that cannot be used; the message is what the library logs."""


def unpack(data: bytes, version: str, capability: tuple[int, int]) -> Plan:
    """Read a plan as the library of `version` on a device of `capability` does.

    Raises:
        Refused: the plan is damaged, or of another version or device.
    """
    if len(data) < _HEADER.size or data[:4] != _TAG:
        # NVIDIA/TensorRT#1596, lix19937/tensorrt-insight#65
        raise Refused(
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
            "magicTagRead == kMAGIC_TAG failed.Magic tag does not match)"
        )
    _, _, size, checksum, *numbers = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if len(body) != size:
        # NVIDIA/TensorRT#3848, #1736
        raise Refused(
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion sizeRead "
            "== static_cast<uint64_t>(mEnd - mCurrent) failed.Size specified in header does not match "
            "archive size)"
        )
    if tuple(numbers) != _numbers(version):
        # What every log of two versions says, 10.0.1.6 and 10.12.0.36 among them.
        raise Refused(
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not "
            f"compatible with this version of TensorRT, expecting library version {version} got "
            f"{'.'.join(map(str, numbers))}, please rebuild.)"
        )
    if zlib.crc32(body) != checksum:
        # The second line of NVIDIA/TensorRT#1736; what a real library does with such a plan is not known.
        raise Refused(
            "IRuntime::deserializeCudaEngine: Error Code 4: Internal Error (Engine deserialization failed.)"
        )
    (length,) = struct.unpack_from("<I", body)
    facts = json.loads(body[4 : 4 + length])
    plan = Plan(**{**facts, "capability": tuple(facts["capability"]), "model": body[4 + length :]})
    if plan.capability != capability:
        wanted, got = (".".join(map(str, numbers)) for numbers in (capability, plan.capability))
        # NVIDIA's forum, thread 257903
        raise Refused(
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is "
            f"generated on an incompatible device, expecting compute {wanted} got compute {got}, please "
            "rebuild.)"
        )
    return plan
