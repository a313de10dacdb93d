from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgeemo
from edgeemo.capture.recording import wave_header
from edgeemo.errors import InputError, SourceError
from edgeemo.inference.bundle import Bundle
from edgeemo_calibration.candidates import Candidate, Heard, Listener, Recorded, find_recordings
from tests.support.recordings import noise, write_flac, write_manifest, write_picture, write_wav
from tests.support.tiny import Tiny, write_bundle

BOTH = ("face", "voice")
DEMO = Path(edgeemo.__file__).parent / "demo" / "clip.mp4"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.read(write_bundle(tmp_path / "bundle"))


def write_session(folder: Path, samples: NDArray[np.int16], expires: str = "2999-01-01T00:00:00Z") -> Path:
    folder.mkdir(parents=True)
    about = {"schema": 1, "created": "2026-01-01T00:00:00Z", "expires": expires, "modalities": ["voice"]}
    (folder / "session.json").write_text(json.dumps({**about, "seconds": 1.0}))
    (folder / "sound.tsv").write_text("time\tsample\tsample_rate\n0.0\t0\t8000\n")
    content = (samples / 32768).astype("<f4").tobytes()
    (folder / "sound.wav").write_bytes(wave_header(8000, len(samples)) + content)
    return folder


def hear(bundle: Bundle, recorded: Recorded, **options: Any) -> tuple[list[Candidate], Heard]:
    found: list[Candidate] = []
    heard = Listener(bundle, **options).hear(recorded, found.append)
    return found, heard


def clip(path: Path, *modalities: str) -> Recorded:
    return Recorded(path, 0, "clip", modalities or BOTH)


# --- which recordings there are


def test_a_folder_is_walked(tmp_path: Path) -> None:
    root = tmp_path / "hours"
    write_wav(root / "anna" / "1.wav", noise(1, 0.3))
    write_picture(root / "2.png", 100)
    write_session(root / "20260101", noise(2, 0.3))
    (root / ".hidden").mkdir()
    write_wav(root / ".hidden" / "3.wav", noise(3, 0.3))
    (root / ".x.wav").write_bytes(b"")
    used, test = find_recordings([root], BOTH)
    assert {(one.path.name, one.kind, one.group, one.must) for one in used} == {
        ("1.wav", "clip", "anna", False),
        ("2.png", "clip", "hours", False),
        ("20260101", "session", "20260101", False),
    }
    assert not test


def test_what_is_named_must_be_readable(tmp_path: Path) -> None:
    session = write_session(tmp_path / "one", noise(2, 0.3))
    sound = write_wav(tmp_path / "1.wav", noise(1, 0.3))
    used, _ = find_recordings([session, sound], BOTH)
    assert [(one.kind, one.source, one.must) for one in used] == [("session", 0, True), ("clip", 1, True)]
    with pytest.raises(InputError, match="there is nothing"):
        find_recordings([tmp_path / "nowhere"], BOTH)


def test_a_manifest_is_read_with_its_split(tmp_path: Path) -> None:
    sound, film = write_wav(tmp_path / "1.wav", noise(1, 0.3)), write_wav(tmp_path / "2.mp4", noise(2, 0.3))
    picture = write_picture(tmp_path / "3.png", 90)
    (tmp_path / "pictures").mkdir()
    manifest = write_manifest(
        tmp_path / "m.csv",
        ("label", "speaker", "split", "face", "voice"),
        [
            ("fear", "anna", "train", "3.png", "1.wav"),
            ("fear", "anna", "train", "3.png", "1.wav"),
            ("anger", "", "", "2.mp4", "2.mp4"),
            ("anger", "otto", "test", "pictures", ""),
        ],
    )
    used, test = find_recordings([manifest], BOTH)
    kinds = [(one.path, one.kind, one.modalities, one.speaker, one.group, one.label) for one in used]
    assert kinds == [
        (picture, "clip", ("face",), "anna", "anna", "fear"),
        (sound, "clip", ("voice",), "anna", "anna", "fear"),
        (film, "clip", BOTH, "", "m.csv", "anger"),
    ]
    assert [(one.path.name, one.kind, one.speaker) for one in test] == [("pictures", "pictures", "otto")]


# --- what the encoders are given


def test_voices_are_the_contexts_that_end_with_a_hop(tmp_path: Path, bundle: Bundle) -> None:
    samples = noise(1, 1.05)
    samples[2400:6400] = 0  # 0.5 s of silence, in which two contexts of 0.2 s with 0.1 s of sound begin
    found, heard = hear(bundle, clip(write_wav(tmp_path / "a.wav", samples)))
    padded = np.concatenate([np.zeros(1600), samples / 32768, np.zeros(400)]).astype(np.float32)
    contexts = {hop: padded[(hop + 1) * 800 :][:1600] for hop in range(11)}
    loud = {hop: context for hop, context in contexts.items() if context.any()}
    assert heard.silent == len(contexts) - len(loud) == 4
    assert [round(one.time, 6) for one in found] == [round((hop + 1) * 0.1, 6) for hop in loud]
    for one, context in zip(found, loud.values(), strict=True):
        np.testing.assert_array_equal(one.values, context)
    assert heard.taken == {"face": 0, "voice": 7}


def test_faces_are_crops_of_the_newest_picture_of_a_hop(tmp_path: Path, bundle: Bundle) -> None:
    levels = (40, 90, 200)
    for level in levels:
        write_picture(tmp_path / "p" / f"{level}.png", level)
    found, heard = hear(bundle, Recorded(tmp_path / "p", 0, "pictures", ("face",)), face_is_cropped=True)
    assert [one.values.shape for one in found] == [(8, 8, 1)] * 3
    for one, level in zip(found, levels, strict=True):
        expected = cv2.imread(str(tmp_path / "p" / f"{level}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(one.values[..., 0], expected)
    assert len(set(heard.digests["face"])) == 3
    assert heard.faceless == 0


def test_pictures_without_a_face_are_counted(tmp_path: Path, default_bundle: Path) -> None:
    write_picture(tmp_path / "p" / "1.png", 128, size=200)
    write_picture(tmp_path / "p" / "2.png", 90, size=200)
    found, heard = hear(Bundle.read(default_bundle), Recorded(tmp_path / "p", 0, "pictures", ("face",)))
    assert not found
    assert heard.faceless == 2


def test_candidates_are_what_the_runtime_gives_its_encoders(default_bundle: Path) -> None:
    """Three seconds of the demo clip through the model itself, with an ear at its encoders."""
    model = edgeemo.load(default_bundle)
    given: dict[str, list[NDArray[Any]]] = {"face": [], "voice": []}
    for name, graph in model.graphs.items():
        if name in given:
            model.graphs[name] = _Ear(graph, given[name])  # type: ignore[index]
    for emotion in edgeemo.watch(DEMO, model=model):
        if emotion.time > 3:
            break
    found: list[Candidate] = []

    def take(candidate: Candidate) -> None:
        if candidate.time > 3:
            raise _Enough
        found.append(candidate)

    with pytest.raises(_Enough):
        Listener(Bundle.read(default_bundle)).hear(clip(DEMO), take)
    for name, arrays in given.items():
        mine = [one.values for one in found if one.modality == name]
        assert len(mine) > 20
        np.testing.assert_array_equal(np.stack(mine), np.stack(arrays[: len(mine)]))
    assert [one.time for one in found] == sorted(one.time for one in found)


class _Enough(Exception):
    """Ends a recording early."""


class _Ear:
    def __init__(self, graph: Any, given: list[NDArray[Any]]) -> None:
        self._graph, self._given, self.spec = graph, given, graph.spec

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        self._given += [row.copy() for values in feeds.values() for row in values]
        return self._graph.run(feeds)


@pytest.mark.parametrize(
    "tiny", [Tiny(voice_every=3), Tiny(voice_mode="replace", context=4000, voice_every=2)]
)
def test_an_encoder_that_seldom_runs_gives_as_many(tmp_path: Path, tiny: Tiny) -> None:
    bundle = Bundle.read(write_bundle(tmp_path / "seldom", tiny))
    found, _ = hear(bundle, clip(write_wav(tmp_path / "a.wav", noise(1, 1.2))))
    assert [round(one.time * 10) for one in found] == list(range(1, 13, tiny.voice_every))
    assert {len(one.values) for one in found} == {tiny.context}


def test_a_session_is_heard_until_it_expires(tmp_path: Path, bundle: Bundle) -> None:
    samples = noise(3, 0.5)
    session = write_session(tmp_path / "s", samples)
    found, heard = hear(bundle, Recorded(session, 0, "session", BOTH))
    twins, _ = hear(bundle, clip(write_wav(tmp_path / "s.wav", samples)))
    for one, twin in zip(found, twins, strict=True):
        np.testing.assert_array_equal(one.values, twin.values)
    assert heard.expires is not None
    assert heard.expires.year == 2999
    old = write_session(tmp_path / "old", samples, expires="2020-01-01T00:00:00Z")
    with pytest.raises(SourceError, match="not replayed any more"):
        hear(bundle, Recorded(old, 0, "session", BOTH))


def test_one_recording_does_not_hear_the_one_before(tmp_path: Path, bundle: Bundle) -> None:
    first, second = write_wav(tmp_path / "a.wav", noise(1, 0.4)), write_wav(tmp_path / "b.wav", noise(2, 0.4))
    alone, expected = hear(bundle, clip(second))
    listener, found = Listener(bundle), list[Candidate]()
    listener.hear(clip(first), lambda _: None)

    def fails(_: Candidate) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        listener.hear(clip(first), fails)
    assert listener.hear(clip(second), found.append) == expected
    np.testing.assert_array_equal([one.values for one in found], [one.values for one in alone])


# --- digests


def test_digests_are_of_what_was_decoded(tmp_path: Path, bundle: Bundle) -> None:
    samples = noise(1, 0.5)
    other = samples.copy()
    other[1234] += 1
    files = {
        "wav": write_wav(tmp_path / "a.wav", samples),
        "flac": write_flac(tmp_path / "b.flac", samples),
        "other": write_wav(tmp_path / "c.wav", other),
        "rate": write_wav(tmp_path / "d.wav", samples, rate=16000),
    }
    digests = {name: hear(bundle, clip(path))[1].digests["voice"] for name, path in files.items()}
    assert digests["wav"] == digests["flac"]
    assert len({digests["wav"], digests["other"], digests["rate"]}) == 3


def test_a_picture_is_known_in_a_folder_and_in_another_format(tmp_path: Path, bundle: Bundle) -> None:
    png = write_picture(tmp_path / "p" / "1.png", 77)
    write_picture(tmp_path / "p" / "2.png", 99)
    picture = cv2.imread(str(png))
    assert picture is not None
    assert cv2.imwrite(str(tmp_path / "other.bmp"), picture)
    _, folder = hear(bundle, Recorded(tmp_path / "p", 0, "pictures", ("face",)), face_is_cropped=True)
    _, alone = hear(bundle, clip(tmp_path / "other.bmp"), face_is_cropped=True)
    assert alone.digests["face"][0] == folder.digests["face"][0]
    assert len(folder.digests["face"]) == 2


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (Candidate("voice", np.full(9, 0.0999, np.float32), 0), {"loudness": -30}),
        (Candidate("voice", np.full(9, 0.1001, np.float32), 0), {"loudness": -20}),
        (Candidate("voice", np.full(9, 2.0, np.float32), 0), {"loudness": -10}),
        (Candidate("face", np.full((2, 2, 1), 31, np.uint8), 0), {"light": 0, "contrast": 0}),
        (Candidate("face", np.full((2, 2, 3), 255, np.uint8), 0), {"light": 224, "contrast": 0}),
        (Candidate("face", np.array([[[0], [64]]], np.uint8), 0), {"light": 32, "contrast": 32}),
    ],
)
def test_traits(candidate: Candidate, expected: dict[str, int]) -> None:
    assert candidate.traits() == expected
