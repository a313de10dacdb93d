"""The work of every graph of a bundle, counted from its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeemo.inference.choice import example
from edgeemo.inference.work import Work, work_of

if TYPE_CHECKING:
    from edgeemo.inference.bundle import Bundle

_ENCODINGS = {"int8": ("int8", "int8-cpu"), "fp16": ("fp16",), "fp32": ()}


def works(bundle: Bundle, precision: str) -> dict[str, Work]:
    """The work of one call of each graph for one face, in a precision where the graph has it.

    Args:
        bundle: the bundle.
        precision: 'int8', 'fp16' or 'fp32', which every graph has.

    Raises:
        InputError: a graph holds products that cannot be counted.
        BundleError: a file is not the one that the manifest describes.
    """
    wanted = _ENCODINGS[precision]
    return works_of_files(
        bundle,
        {
            name: next((encoding for encoding in wanted if encoding in spec.files), "fp32")
            for name, spec in bundle.graphs.items()
        },
    )


def works_of_files(bundle: Bundle, encodings: Mapping[str, str], faces: int = 1) -> dict[str, Work]:
    """The same of the files that run.

    Args:
        bundle: the bundle.
        encodings: of each graph, such as 'int8-cpu'.
        faces: in view.

    Raises:
        InputError: a graph holds products that cannot be counted.
        BundleError: a file is not the one that the manifest describes.
    """
    return {
        name: work_of(
            bundle.read_file(bundle.graphs[name].files[encoding]),
            example(bundle.graphs[name], faces),
            f"graph {name!r}",
        )
        for name, encoding in encodings.items()
    }
