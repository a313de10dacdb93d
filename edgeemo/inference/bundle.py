"""What a bundle holds: a folder of graphs and the manifest that says what they read, answer and measure."""

from __future__ import annotations

import hashlib
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from types import MappingProxyType

from edgeemo.errors import BundleError, shown
from edgeemo.inference.manifest import ManifestError, Section, parse
from edgeemo.inference.spec import (
    MODALITIES,
    FaceInput,
    GraphSpec,
    TextInput,
    Thresholds,
    VoiceInput,
    read_face,
    read_graphs,
    read_text,
    read_thresholds,
    read_voice,
)
from edgeemo.inference.wiring import SPEECH, check_wiring

SCHEMA = 1
MANIFEST = "manifest.json"
_AGAIN = "copy or download the bundle again"
_MOST_SLOTS = 4096


@dataclass(frozen=True, repr=False)
class Bundle:
    """A bundle whose manifest was read and found whole; `print(bundle)` shows its contract.

    Args:
        path: the folder.
        manifest: the manifest as it was read.
        name: name of the model.
        version: version of the model.
        licence: SPDX expression of the licence of the weights.
        notice: what a user of the weights must know.
        task: 'categorical'.
        labels: the classes, in the order of the logits.
        modalities: any of 'face', 'voice' and 'text'.
        hop: seconds between two answers.
        window: seconds that one answer looks back.
        slots: tokens in the ring of one modality, window / hop.
        face: what it takes as a face, None without that modality.
        voice: what it takes as a voice, None without that modality.
        text: what it takes as a text, None without that modality.
        graphs: one graph per modality, by its name, and 'fusion'.
        thresholds: where an answer or a signal starts to be doubted.
        valence_arousal: where valence and arousal come from, None where there is no such head.
        calibration: how probabilities were calibrated.
        results: measured results, one entry per data set and precision.
        proof: that INT8 was held to FP32: 'passed'; then 'sha256' of the proof, 'files', the digest of the
            files that were proven, and 'data'; or else 'unproven', why not. None where nothing is said.
        provenance: recipe, seed, data and versions behind the weights.
        files: bytes and sha256 of every file.
    """

    path: Path
    manifest: Mapping[str, object]
    name: str
    version: str
    licence: str
    notice: str
    task: str
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    hop: float
    window: float
    slots: int
    face: FaceInput | None
    voice: VoiceInput | None
    text: TextInput | None
    graphs: Mapping[str, GraphSpec]
    thresholds: Thresholds
    valence_arousal: Mapping[str, object] | None
    calibration: Mapping[str, object]
    results: tuple[Mapping[str, object], ...]
    proof: Mapping[str, object] | None
    provenance: Mapping[str, object]
    files: Mapping[str, tuple[int, str]]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read and check the manifest in `folder`, and that every file it lists is there with its size.

        Contents are hashed when a graph is opened, and all of them by `verify`.

        Args:
            folder: the folder of the bundle.

        Raises:
            BundleError: the folder cannot be used; the message names the folder, the file and the key.
        """
        path = _folder(folder)
        try:
            text = (path / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(
                f"bundle {path}: {MANIFEST} cannot be read ({error.strerror}); "
                f"a bundle is a folder with a {MANIFEST}"
            ) from None
        try:
            bundle = _bundle(path, parse(text))
        except ManifestError as error:
            raise BundleError(f"bundle {path}: {MANIFEST}: {error}") from None
        for name in bundle.files:
            bundle._locate(name)
        return bundle

    def read_file(self, name: str) -> bytes:
        """Read one listed file once and answer exactly the bytes whose sha256 was found right.

        Args:
            name: as in the manifest's `files`.

        Raises:
            BundleError: the file is not listed, missing, or not the one that the manifest describes.
        """
        path = self._locate(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"bundle {self.path}: {name} cannot be read ({error.strerror}); {_AGAIN}"
            ) from None
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    def verify(self) -> None:
        """Hash every listed file, whether or not it will be opened.

        Raises:
            BundleError: a file is missing, or not the one that the manifest describes.
        """
        for name in self.files:
            try:
                digest = _sha256(self._locate(name))
            except OSError as error:
                raise BundleError(
                    f"bundle {self.path}: {name} cannot be read ({error.strerror}); {_AGAIN}"
                ) from None
            self._compare(name, digest)

    def __repr__(self) -> str:
        return "\n".join(_contract(self))

    def _locate(self, name: str) -> Path:
        """The path of a listed file, after a look at where it lies and how long it is."""
        if name not in self.files:
            raise BundleError(
                f"bundle {self.path}: {name} is not listed under 'files' of {MANIFEST}; "
                f"listed are {', '.join(self.files) or 'none'}"
            )
        try:
            path = _inside(self.path, name)
            size, right = path.stat().st_size, self.files[name][0]
        except (
            OSError,
            ValueError,
        ) as error:  # too long for the file system, not in its encoding, no permission
            raise BundleError(f"bundle {self.path}: {name!r} cannot be read ({error}); {_AGAIN}") from None
        if size != right:
            raise BundleError(
                f"bundle {self.path}: {name} has {size} bytes where {MANIFEST} says {right}; {_AGAIN}"
            )
        return path

    def _compare(self, name: str, digest: str) -> None:
        right = self.files[name][1]
        if digest != right:
            raise BundleError(
                f"bundle {self.path}: {name} has the sha256 {digest[:12]}... where {MANIFEST} says "
                f"{right[:12]}...; {_AGAIN}"
            )


def describe_files(folder: str | os.PathLike[str], names: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """The `files` entry of a manifest: bytes and sha256 of each named file.

    Args:
        folder: the folder of the bundle.
        names: file names in it, with forward slashes.

    Raises:
        BundleError: a file is missing or lies outside the folder.
    """
    root = _folder(folder)
    described: dict[str, dict[str, int | str]] = {}
    for name in sorted(set(names)):
        path = _inside(root, name)
        described[name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    return described


def files_digest(files: Mapping[str, tuple[int, str]]) -> str:
    """One sha256 for all files of a bundle, by which a proof names what it is of.

    Args:
        files: bytes and sha256 by name, as `Bundle.files`.
    """
    lines = "".join(f"{digest}  {name}\n" for name, (_, digest) in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _folder(folder: str | os.PathLike[str]) -> Path:
    try:
        path = Path(folder)
        found = path.is_dir()
    except (TypeError, ValueError, OSError) as error:
        raise BundleError(f"bundle {shown(folder)}: not a path ({error}); it must name a folder") from None
    if not found:
        wrong = "is a file" if path.exists() else "does not exist"
        raise BundleError(f"bundle {path}: {wrong}; a bundle is a folder with a {MANIFEST}")
    return path


def _inside(folder: Path, name: str) -> Path:
    """The regular file `name` of the folder; a name that could lead elsewhere is never followed."""
    parts = name.split("/")
    # A drive or a backslash leads elsewhere on Windows alone, but a bundle must read alike everywhere.
    foreign = "\\" in name or bool(PureWindowsPath(name).anchor)
    if foreign or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise BundleError(
            f"bundle {folder}: {name!r} is not a plain path inside the folder; "
            "it must be relative, with forward slashes and without '..'"
        )
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise BundleError(
            f"bundle {folder}: {name} is a link that leaves the folder; every file must lie in the folder"
        )
    if not path.is_file():
        wrong = "is not a file" if path.exists() else "is missing"
        raise BundleError(f"bundle {folder}: {name} {wrong}; {_AGAIN}")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _bundle(path: Path, manifest: Section) -> Bundle:
    """Every key of schema 1, in the order in which a mistake is best explained."""
    schema = manifest.values.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        manifest.fail("schema", f"{SCHEMA}, the only one that this version of edgeemo reads")
    modalities = manifest.texts("modalities")
    if not set(modalities) <= set(MODALITIES):
        manifest.fail("modalities", f"a list of any of {', '.join(MODALITIES)}")
    hop, window = manifest.number("hop", 0.001, 60.0), manifest.number("window", 0.001, 3600.0)
    slots = round(window / hop)
    if not 1 <= slots <= _MOST_SLOTS or abs(slots * hop - window) > 1e-6:
        manifest.fail("window", f"a multiple of the hop, {hop:g} s, of at most {_MOST_SLOTS} hops")
    files = _files(manifest.section("files"))
    labels = manifest.texts("labels", least=2)
    face = read_face(manifest.section("face")) if "face" in modalities else None
    voice = read_voice(manifest.section("voice")) if "voice" in modalities else None
    text = read_text(manifest.section("text"), slots, files) if "text" in modalities else None
    graphs = read_graphs(manifest.section("graphs"), modalities, files)
    reads = {entry.tensor.name: entry.tensor for entry in (face, voice, text) if entry}
    check_wiring(graphs, reads, slots, len(labels))
    thresholds = read_thresholds(manifest.section("thresholds"))
    if thresholds.speech is not None and not (voice and SPEECH in graphs["voice"].outputs):
        raise ManifestError(
            f"'thresholds.speech' is of no use without an output {SPEECH!r} of the voice graph; "
            "it must be left out"
        )
    return Bundle(
        path=path,
        manifest=MappingProxyType(manifest.values),
        name=manifest.text("name"),
        version=manifest.text("version"),
        licence=manifest.text("licence"),
        notice=manifest.text("notice"),
        task=manifest.choice("task", ("categorical",)),
        labels=labels,
        modalities=modalities,
        hop=hop,
        window=window,
        slots=slots,
        face=face,
        voice=voice,
        text=text,
        graphs=graphs,
        thresholds=thresholds,
        valence_arousal=_valence_arousal(manifest, labels),
        calibration=manifest.section("calibration").values if "calibration" in manifest else {},
        results=tuple(manifest.objects("results")),
        proof=_proof(manifest, files),
        provenance=manifest.section("provenance").values,
        files=files,
    )


def _files(section: Section) -> dict[str, tuple[int, str]]:
    files = {}
    for name in section:
        entry = section.section(name)
        digest = entry.digest("sha256")
        files[name] = entry.whole("bytes", least=0), digest
    return files


def _valence_arousal(manifest: Section, labels: tuple[str, ...]) -> Mapping[str, object] | None:
    if "valence_arousal" not in manifest:
        return None
    section = manifest.section("valence_arousal")
    if "norms" in section:
        norms = section.section("norms")
        for label in norms:
            pair = norms.values[label]
            if label not in labels:
                section.fail("norms", "an object whose keys are labels")
            if not isinstance(pair, list) or len(pair) != 2 or not all(_is_unit(value) for value in pair):
                norms.fail(label, "[valence, arousal], each in [-1, 1]")
    return section.values


def _proof(manifest: Section, files: Mapping[str, tuple[int, str]]) -> Mapping[str, object] | None:
    if "proof" not in manifest:
        return None
    section = manifest.section("proof")
    if not section.flag("passed"):
        section.text("unproven")
        return section.values
    section.digest("sha256")
    if section.digest("files") != files_digest(files):
        section.fail("files", "the digest of the files that are listed; these others are to be proven anew")
    for place, entry in enumerate(section.objects("data")):
        part = Section(entry, f"proof.data[{place}]")
        part.text("name")
        part.whole("n")
        part.digest("sha256")
    return section.values


def _is_unit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1.0 <= value <= 1.0


def _contract(bundle: Bundle) -> list[str]:
    """The lines of `repr`: YAML-like, what goes in, what comes out, what was measured."""
    lines = [
        f"bundle: {bundle.name} {bundle.version}",
        f"path: {bundle.path}",
        f"licence: {bundle.licence}",
        *textwrap.wrap(f"notice: {bundle.notice}", 110, subsequent_indent="  "),
        f"task: {bundle.task}",
        f"labels: [{', '.join(bundle.labels)}]",
        f"modalities: [{', '.join(bundle.modalities)}]",
        f"time: {{hop: {bundle.hop:g} s, window: {bundle.window:g} s, slots: {bundle.slots}}}",
    ]
    if bundle.face:
        height, width = bundle.face.size
        colour = "grey" if bundle.face.channels == 1 else "BGR"
        lines.append(f"face: {height}x{width} {colour}, detectors [{', '.join(bundle.face.detectors)}]")
    if bundle.voice:
        context = bundle.voice.context / bundle.voice.sample_rate
        lines.append(f"voice: mono at {bundle.voice.sample_rate} Hz, context {context:g} s")
    if bundle.text:
        case = "lower case" if bundle.text.lowercase else "cased"
        lines.append(f"text: WordPiece of {bundle.text.vocab}, {case}, {bundle.text.length} tokens")
    lines.append("graphs:")
    for graph in bundle.graphs.values():
        rhythm = "every hop" if graph.every == 1 else f"every {graph.every} hops"
        lines.append(f"  {graph.name}: {graph.mode}, {rhythm}, [{', '.join(graph.files)}]")
        lines += [f"    in  {name}: {spec}" for name, spec in graph.inputs.items()]
        lines += [f"    out {name}: {spec}" for name, spec in graph.outputs.items()]
    lines.append("results:" if bundle.results else "results: none")
    lines += [f"  - {_result(entry)}" for entry in bundle.results]
    lines += textwrap.wrap(f"int8: {_proven(bundle)}", 110, subsequent_indent="  ")
    return lines


def _proven(bundle: Bundle) -> str:
    """Whether INT8 was held to FP32, and on what."""
    if not any({"int8", "int8-cpu"} & spec.files.keys() for spec in bundle.graphs.values()):
        return "none"
    if bundle.proof is None:
        return "the bundle does not say whether it is proven"
    if not bundle.proof["passed"]:
        return f"not proven: {bundle.proof['unproven']}"
    data = bundle.proof["data"]
    assert isinstance(data, list)
    sets = ", ".join(f"{entry['name']} (n {entry['n']})" for entry in data)
    return f"proven on {sets}; sha256 of the proof {str(bundle.proof['sha256'])[:12]}..."


def _result(entry: Mapping[str, object]) -> str:
    """One measurement in a line: what was given, then the figures; its command stays in the manifest."""
    given = [str(entry[key]) for key in ("data", "given", "precision") if key in entry]
    figures = [
        f"{name} {_figure(entry[key])}"
        for key, name in (("n", "n"), ("wa", "WA"), ("ua", "UA"), ("ece", "ECE"))
        if key in entry
    ]
    single = entry.get("single")
    alone = [f"{name} {_figure(ua)}" for name, ua in single.items()] if isinstance(single, dict) else []
    if "late" in entry:
        alone.append(f"both added {_figure(entry['late'])}")
    line = ": ".join(part for part in ("; ".join(given), ", ".join(figures)) if part)
    return f"{line} (UA of {', '.join(alone)})" if alone else line


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
