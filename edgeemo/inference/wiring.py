"""Whether the graphs of a bundle fit each other: what encoders answer is what fusion reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeemo.inference.manifest import ManifestError
from edgeemo.inference.spec import GraphSpec, TensorSpec

SPEECH = "speech"
"""The output of a voice graph that tells how likely somebody speaks in what each token was heard in."""

_WIDEST = 4096  # numbers of one token; the largest encoders in use have about a thousand


def check_wiring(
    graphs: Mapping[str, GraphSpec], reads: Mapping[str, TensorSpec], slots: int, labels: int
) -> None:
    """Hold each graph to the shapes that the inputs, the window and the labels ask for.

    Args:
        graphs: one graph per modality, and 'fusion'.
        reads: what the encoder of each modality reads.
        slots: tokens in the ring of one modality.
        labels: the number of labels.

    Raises:
        ManifestError: a tensor is missing, of no use, or of another type or shape.
    """
    fused: list[TensorSpec] = []
    for modality, tensor in reads.items():
        graph = graphs[modality]
        width = _width(graph)
        rows: int | str = "N" if modality == "face" else 1
        length = slots if graph.mode == "replace" else rows
        _demand(graph.name, "inputs", graph.inputs, [tensor])
        outputs = [TensorSpec("tokens", "float32", (length, width))]
        if modality == "voice" and SPEECH in graph.outputs:
            outputs.append(TensorSpec(SPEECH, "float32", (length,)))
        _demand(graph.name, "outputs", graph.outputs, outputs)
        fused.append(TensorSpec(f"{modality}_tokens", "float32", (rows, slots, width)))
        fused.append(TensorSpec(f"{modality}_mask", "float32", ("N", slots)))
    fusion = graphs["fusion"]
    _demand("fusion", "inputs", fusion.inputs, fused)
    answers = [TensorSpec("logits", "float32", ("N", labels))]
    optional = [TensorSpec("valence_arousal", "float32", ("N", 2))]
    optional += [TensorSpec(f"{modality}_logits", "float32", ("N", labels)) for modality in reads]
    answers += [spec for spec in optional if spec.name in fusion.outputs]
    _demand("fusion", "outputs", fusion.outputs, answers)


def _width(graph: GraphSpec) -> int:
    tokens = graph.outputs.get("tokens")
    width = tokens.shape[-1] if tokens and tokens.shape else None
    if not isinstance(width, int) or width > _WIDEST:
        raise ManifestError(
            f"'graphs.{graph.name}.outputs' must hold 'tokens' with a fixed last axis, their width, "
            f"of at most {_WIDEST}"
        )
    return width


def _demand(graph: str, side: str, given: Mapping[str, TensorSpec], right: Sequence[TensorSpec]) -> None:
    where = f"graphs.{graph}.{side}"
    if given.keys() != {spec.name for spec in right}:
        names = ", ".join(spec.name for spec in right)
        raise ManifestError(f"'{where}' holds {', '.join(given) or 'nothing'}; it must hold {names}")
    for spec in right:
        if given[spec.name] != spec:
            wrong = f"'{where}.{spec.name}' is {given[spec.name]}"
            raise ManifestError(f"{wrong}; it must be {spec}, as labels, sizes and window ask")
