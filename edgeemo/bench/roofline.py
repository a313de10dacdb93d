"""What a graph can cost at least on a device that is not here, from the device's data sheet.

Computing and memory are bounds. Launching is an estimate beside them: it counts a kernel for each product,
and an engine may merge products or split one.

Rates are dense: NVIDIA's headlines are twice as high, for weights of which two in four are zero ("sparse"),
which those of no graph here are. They are the GPU's alone: the headlines of Orin NX and AGX Orin add the deep
learning accelerators, which edgeemo does not use. A multiply-add is two operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeemo.errors import InputError
from edgeemo.inference.work import Work

STREAM = 3.8e-6 - 2.9e-6
GRAPH = 3.4e-6 - 2.9e-6
"""Seconds that a kernel takes beyond its work, launched one after another into a stream, and in a CUDA graph.

Measured by NVIDIA on a V100 with kernels of 2.9 us ("Getting Started with CUDA Graphs", developer.nvidia.com/
blog/cuda-graphs, 2019). That the processors of a Jetson launch no faster is an assumption; they are slower.
"""

_NANO = "NVIDIA Jetson Orin Nano Series Modules Data Sheet DS-11105-001 v1.5"
_NX = "NVIDIA Jetson Orin NX Series Modules Data Sheet DS-10712-001 v1.5"
_AGX = "NVIDIA Jetson AGX Orin Series Data Sheet DS-10662-001 v1.6"
_THOR = (
    "NVIDIA Jetson Thor Series Modules Data Sheet DS-11945-001 v1.5; FP16: Jetson T5000 and Jetson AGX Orin "
    "Migration Application Note DA-11926-001 v1.2"
)


@dataclass(frozen=True)
class Device:
    """A module of NVIDIA's, in a power mode.

    Attributes:
        name: what it is asked for by.
        title: what NVIDIA calls it.
        rates: dense operations a second of its GPU by precision, in 10^12: 'int8' and 'fp16' of the Tensor
            Cores, 'fp32' of the CUDA cores (engines are built without TF32).
        bandwidth: of its memory, GB/s.
        source: where NVIDIA says so.
    """

    name: str
    title: str
    rates: Mapping[str, float]
    bandwidth: float
    source: str


def _orin(name: str, title: str, int8: float, fp32: float, bandwidth: float, source: str) -> Device:
    # The Tensor Cores of Orin do half as much in FP16: 170 and 85, 108 and 54 (DS-10662-001, table 1-2).
    rates = {"int8": int8, "fp16": int8 / 2, "fp32": fp32}
    return Device(name, f"Jetson {title}", rates, bandwidth, source)


# Orin Nano's sheet prints dense rates; Orin NX's those of the module, from which the dense half of its
# accelerators' sparse rate is taken; AGX Orin's the sparse ones of the GPU, twice the dense.
_DEVICES = (
    _orin("orin-nano-4gb", "Orin Nano 4GB", 10, 0.64, 34, _NANO),
    _orin("orin-nano-4gb-super", "Orin Nano 4GB, MAXN_SUPER", 17, 1.04, 51, _NANO),
    _orin("orin-nano-8gb", "Orin Nano 8GB", 20, 1.28, 68, _NANO),
    _orin("orin-nano-8gb-super", "Orin Nano 8GB, MAXN_SUPER", 33, 2.08, 102, _NANO),
    _orin("orin-nx-8gb", "Orin NX 8GB", 35 - 20 / 2, 1.56, 102, _NX),
    _orin("orin-nx-8gb-super", "Orin NX 8GB, MAXN_SUPER", 58 - 40 / 2, 2.40, 102, _NX),
    _orin("orin-nx-16gb", "Orin NX 16GB", 50 - 40 / 2, 1.88, 102, _NX),
    _orin("orin-nx-16gb-super", "Orin NX 16GB, MAXN_SUPER", 78 - 80 / 2, 2.40, 102, _NX),
    _orin("agx-orin-32gb", "AGX Orin 32GB", 108 / 2, 3.365, 204.8, _AGX),
    _orin("agx-orin-64gb", "AGX Orin 64GB", 170 / 2, 5.32, 204.8, _AGX),
    # Thor's sheet prints FP4 and FP8; the note prints FP16, sparse. Neither prints INT8.
    Device("thor-t5000", "Jetson T5000 (Thor)", {"fp16": 517 / 2, "fp32": 8.064}, 273, _THOR),
)


def devices() -> tuple[str, ...]:
    """Names of the devices that are known, small ones first.

    Example:
        >>> devices()[:2]
        ('orin-nano-4gb', 'orin-nano-4gb-super')
    """
    return tuple(device.name for device in _DEVICES)


def find_device(name: str) -> Device:
    """A device by its name.

    Raises:
        InputError: it is not known.
    """
    for device in _DEVICES:
        if device.name == name:
            return device
    raise InputError(f"device {name!r} is not known; it must be one of {', '.join(devices())}")


@dataclass(frozen=True)
class GraphBounds:
    """What one call of a graph needs at least on a device, and what launching may add, in seconds.

    Attributes:
        operations: two per multiply-add.
        bytes: what memory must hold and give whatever stays in caches: the weights, inputs and outputs.
        compute: operations over the rate, summed over the precisions.
        memory: `bytes` over the bandwidth.
        uncached: the same with the results of every product written to memory and read again; no bound, as
            caches of some megabytes keep those of a small graph.
        stream: estimate, no bound, of launching into a stream: one kernel for each product. An engine that
            fuses all between products into them gets there; one that merges products too, as those of an
            attention, has fewer.
        graph: the same estimate in a CUDA graph.
    """

    operations: int
    bytes: int
    compute: float
    memory: float
    uncached: float
    stream: float
    graph: float

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: operations per byte."""
        return self.operations / self.bytes

    @property
    def floor(self) -> float:
        """Seconds that no call can do without: the larger bound, as both overlap at best."""
        return max(self.compute, self.memory)

    @property
    def bound(self) -> str:
        """What is likely to take most of a call: 'compute', 'memory' or, by its estimate, 'launch'."""
        bounds = {"compute": self.compute, "memory": self.memory, "launch": self.graph}
        return max(bounds, key=bounds.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, times in milliseconds; 'launch' and 'launch_without_graph' are estimates."""
        times = {
            "compute": self.compute,
            "memory": self.memory,
            "memory_uncached": self.uncached,
            "floor": self.floor,
            "launch": self.graph,
            "launch_without_graph": self.stream,
        }
        return {
            "operations": self.operations,
            "bytes": self.bytes,
            "intensity": round(self.intensity, 2),
            **{name: round(1e3 * seconds, 5) for name, seconds in times.items()},
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Roofline:
    """The bounds of every graph on one device, and what launching may take; `str` is a table."""

    device: Device
    graphs: Mapping[str, GraphBounds]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: rates in 10^12 dense operations a second, bandwidth in GB/s, milliseconds."""
        return {
            "device": self.device.name,
            "title": self.device.title,
            "rates": dict(self.device.rates),
            "bandwidth": self.device.bandwidth,
            "source": self.device.source,
            "graphs": {name: bounds.to_dict() for name, bounds in self.graphs.items()},
        }

    def __str__(self) -> str:
        rates = ", ".join(f"{name.upper()} {rate:g}" for name, rate in self.device.rates.items())
        head = ("graph", "Mop", "kB", "op/byte", "compute", "memory", "floor", "launch", "no graph", "bound")
        return "\n".join(
            (
                f"{self.device.title}: {rates} x 10^12 dense operations/s of the GPU, "
                f"{self.device.bandwidth:g} GB/s",
                *_aligned([head, *(_row(name, bounds) for name, bounds in self.graphs.items())]),
                "microseconds a call; floor: the larger of compute and memory, at least that; launch: an "
                "estimate, of one kernel a product, in a CUDA graph and without",
                f"source: {self.device.source}",
            )
        )


def roofline(works: Mapping[str, Work], device: str) -> Roofline:
    """Lay the work of graphs under the roofline of a device (Williams, Waterman and Patterson, 2009).

    Args:
        works: of one call of each graph, counted from the files of the precision that is asked about: of
            'int8' or 'int8-cpu', 'fp16' or 'fp32'.
        device: one of `devices`.

    Raises:
        InputError: the device is not known, or its maker publishes no rate for a precision of the graphs.

    Example:
        >>> face = Work({"int8": 30_000_000}, 500_000, activations=0, ends=0, products=15, operators=30)
        >>> found = roofline({"face": face}, "orin-nano-8gb").graphs["face"]
        >>> found.bound, f"{1e6 * found.graph:.1f} us", f"{1e6 * found.floor:.1f} us"
        ('launch', '7.5 us', '7.4 us')
    """
    found = find_device(device)
    return Roofline(found, {name: _bounds(name, work, found) for name, work in works.items()})


def _bounds(name: str, work: Work, device: Device) -> GraphBounds:
    for precision in work.multiply_adds:
        if precision not in device.rates:
            raise InputError(
                f"device {device.name}: NVIDIA publishes no {precision.upper()} rate of it, and graph "
                f"{name!r} has work in {precision.upper()}; give graphs in {' and '.join(device.rates)}"
            )
    least = work.weights + work.ends
    operations = {precision: 2 * count for precision, count in work.multiply_adds.items()}
    return GraphBounds(
        operations=sum(operations.values()),
        bytes=least,
        compute=sum(count / (1e12 * device.rates[precision]) for precision, count in operations.items()),
        memory=least / (1e9 * device.bandwidth),
        uncached=(work.weights + work.activations) / (1e9 * device.bandwidth),
        stream=work.products * STREAM,
        graph=work.products * GRAPH,
    )


def _row(name: str, bounds: GraphBounds) -> tuple[str, ...]:
    times = (bounds.compute, bounds.memory, bounds.floor, bounds.graph, bounds.stream)
    return (
        name,
        f"{bounds.operations / 1e6:.1f}",
        f"{bounds.bytes / 1e3:.0f}",
        f"{bounds.intensity:.0f}",
        *(f"{1e6 * seconds:.1f}" for seconds in times),
        bounds.bound,
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells))
