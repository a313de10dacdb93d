"""What the parts of a manifest say: tensors, graphs, inputs and thresholds, with the reader of each."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from edgeemo.inference.manifest import ManifestError, Section

MODALITIES = ("face", "voice", "text")
ENCODINGS = ("fp32", "fp16", "int8", "int8-cpu")
DTYPES = ("uint8", "int32", "float32")
_RATES = (4000, 192000)  # Hz, what sound can be resampled to
_MOST_CONTEXT = 60  # seconds
_MOST_SIDE = 1024  # pixels
_MOST_FACES = 256
_LEAST_IDS = 3  # [CLS], a piece of a word and [SEP]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Args:
        name: the tensor's name in the graph.
        dtype: 'uint8', 'int32' or 'float32'.
        shape: one entry per axis, a size or the symbol of a size that a call chooses ('N').

    Example:
        >>> print(TensorSpec("face", "uint8", ("N", 48, 48, 1)))
        uint8 [N, 48, 48, 1]
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class GraphSpec:
    """One graph of a bundle.

    Args:
        name: its modality, or 'fusion'.
        mode: 'append' (its token goes to the end of the ring), 'replace' (its tokens are the ring) or 'fuse'.
        every: hops between two runs.
        inputs: the tensors it reads, by name.
        outputs: the tensors it answers, by name.
        files: the file name of each encoding: 'fp32' always, 'fp16', 'int8', 'int8-cpu' where there are such.
        calibration: sha256 of the table of ranges behind the INT8 files, empty where none is named.
    """

    name: str
    mode: str
    every: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    files: Mapping[str, str]
    calibration: str = ""


@dataclass(frozen=True)
class FaceInput:
    """What a bundle takes as a face.

    Args:
        size: height and width of a crop in pixels.
        channels: 1 (grey) or 3 (BGR).
        geometry: how a detection becomes the square of a crop, by name of the detector: 'scale', 'dx' and
            'dy' of each; 'eyes' is none, but says where a crop has its eyes.
        most: faces that one call of a graph may hold; engines are built for 1 to so many.
    """

    size: tuple[int, int]
    channels: int
    geometry: Mapping[str, Mapping[str, float]]
    most: int = 16

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors whose boxes become crops."""
        return tuple(name for name in self.geometry if name != "eyes")

    @property
    def tensor(self) -> TensorSpec:
        """What the face graph reads."""
        return TensorSpec("face", "uint8", ("N", *self.size, self.channels))


@dataclass(frozen=True)
class VoiceInput:
    """What a bundle takes as a voice.

    Args:
        sample_rate: in Hz.
        context: samples that one call of the voice graph reads.
    """

    sample_rate: int
    context: int

    @property
    def tensor(self) -> TensorSpec:
        """What the voice graph reads."""
        return TensorSpec("voice", "float32", (1, self.context))


@dataclass(frozen=True)
class TextInput:
    """What a bundle takes as a text.

    Args:
        vocab: the file that holds one token of WordPiece a line.
        length: ids that one call of the text graph reads, the slots of the window.
        lowercase: letters lose their case and their accents.
    """

    vocab: str
    length: int
    lowercase: bool

    @property
    def tensor(self) -> TensorSpec:
        """What the text graph reads."""
        return TensorSpec("text", "int32", (1, self.length))


@dataclass(frozen=True)
class Thresholds:
    """Where an answer or a signal starts to be doubted.

    Args:
        confidence: below this top probability an answer is 'uncertain', in [0, 1].
        silence_dbfs: below this level the voice is silent, RMS in dB relative to full scale.
        dark: below this mean level a face crop is too dark, in [0, 255].
        clipped: above this share of samples at full scale the sound is clipped, in [0, 1].
        speech: below this presence of speech nobody speaks, in [0, 1]; None where the voice graph does not
            tell it.
    """

    confidence: float
    silence_dbfs: float
    dark: float
    clipped: float
    speech: float | None = None


def read_face(section: Section) -> FaceInput:
    """Read the manifest's `face`."""
    size = section.values.get("size")
    if not (
        isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and 0 < side <= _MOST_SIDE for side in size)
    ):
        section.fail("size", f"[height, width] in pixels, at most {_MOST_SIDE} each")
    channels = section.whole("channels")
    if channels not in (1, 3):
        section.fail("channels", "1 (grey) or 3 (BGR)")
    most = section.whole("most", most=_MOST_FACES) if "most" in section else FaceInput.most
    return FaceInput((size[0], size[1]), channels, _geometry(section.section("geometry")), most)


def _geometry(section: Section) -> dict[str, dict[str, float]]:
    """Numbers within what a face can be: a box is neither a hundredth nor the hundredfold of its crop."""
    scale, place = (0.01, 100.0), (-10.0, 10.0)
    geometry = {}
    for name in section:
        entry = section.section(name)
        spans = (
            {"distance": scale, "y": place} if name == "eyes" else {"scale": scale, "dx": place, "dy": place}
        )
        geometry[name] = {key: entry.number(key, *span) for key, span in spans.items()}
    return geometry


def read_voice(section: Section) -> VoiceInput:
    """Read the manifest's `voice`."""
    rate = section.whole("sample_rate", *_RATES)
    return VoiceInput(rate, section.whole("context", most=_MOST_CONTEXT * rate))


def read_text(section: Section, slots: int, files: Container[str]) -> TextInput:
    """Read the manifest's `text`: of a window of `slots`, with a vocabulary that is one of listed `files`."""
    vocab = section.text("vocab")
    if vocab not in files:
        section.fail("vocab", "a file that is listed under 'files'")
    if section.whole("length", _LEAST_IDS) != slots:
        section.fail("length", f"{slots}, the hops of the window")
    return TextInput(vocab, slots, section.flag("lowercase"))


def read_thresholds(section: Section) -> Thresholds:
    """Read the manifest's `thresholds`."""
    return Thresholds(
        confidence=section.number("confidence", 0.0, 1.0),
        silence_dbfs=section.number("silence_dbfs", -200.0, 0.0),
        dark=section.number("dark", 0.0, 255.0),
        clipped=section.number("clipped", 0.0, 1.0),
        speech=section.number("speech", 0.0, 1.0) if "speech" in section else None,
    )


def read_graphs(section: Section, modalities: tuple[str, ...], files: Container[str]) -> dict[str, GraphSpec]:
    """Read the manifest's `graphs`: one per modality and 'fusion', each of listed `files`."""
    right = (*modalities, "fusion")
    for name in section:
        if name not in right:
            raise ManifestError(
                f"'graphs.{name}' is of no use; there must be one graph for each of {', '.join(right)}"
            )
    return {name: _graph(section.section(name), name, files) for name in right}


def _graph(section: Section, name: str, files: Container[str]) -> GraphSpec:
    modes = {"fusion": ("fuse",), "face": ("append",), "text": ("replace",)}.get(name, ("append", "replace"))
    encodings = section.section("files")
    for encoding in encodings:
        if encoding not in ENCODINGS:
            raise ManifestError(
                f"'{encodings.path}.{encoding}' is no encoding; legal are {', '.join(ENCODINGS)}"
            )
        if encodings.text(encoding) not in files:
            encodings.fail(encoding, "a file that is listed under 'files'")
    encodings.text("fp32")
    every = section.whole("every")
    if name == "text" and every != 1:
        section.fail("every", "1: a text is read in each hop that knows other words than the one before")
    return GraphSpec(
        name=name,
        mode=section.choice("mode", modes),
        every=every,
        inputs=_tensors(section.section("inputs")),
        outputs=_tensors(section.section("outputs")),
        files={encoding: encodings.text(encoding) for encoding in encodings},
        calibration=section.digest("calibration") if "calibration" in section else "",
    )


def _tensors(section: Section) -> dict[str, TensorSpec]:
    tensors = {}
    for name in section:
        value = section.values[name]
        if (
            not isinstance(value, list)
            or len(value) != 2
            or value[0] not in DTYPES
            or not isinstance(value[1], list)
            or not all(axis == "N" or (type(axis) is int and axis > 0) for axis in value[1])
        ):
            section.fail(name, '["uint8", "int32" or "float32", [axes]], an axis being a size or "N"')
        tensors[name] = TensorSpec(name, value[0], tuple(value[1]))
    return tensors
