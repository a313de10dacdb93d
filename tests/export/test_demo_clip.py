from __future__ import annotations

import shutil
import stat
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edgeemo.errors import InputError, SourceError
from edgeemo_export import demo_clip

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
LABELS = {"anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"}


def drawn_face(mouth: int = 0, shift: float = 0.0) -> demo_clip.Picture:
    """A standardised sheet with two eyes and a mouth, ``mouth`` pixels open, shifted to the right."""
    sheet = np.full((demo_clip.SHEET, demo_clip.SHEET), 1.0, np.float32)
    x, y = demo_clip.SHEET // 2, demo_clip.SHEET // 2
    for side in (-30, 30):
        cv2.ellipse(sheet, (x + side, y - 25), (14, 7), 0, 0, 360, -3.0, -1)
    cv2.ellipse(sheet, (x, y + 40), (24, 5 + mouth), 0, 0, 360, -3.0, -1)
    moved = cv2.warpAffine(sheet, np.array([[1.0, 0, shift], [0, 1, 0]]), sheet.shape, borderValue=1.0)
    return demo_clip.standardised(demo_clip.blurred(np.asarray(moved, dtype=np.float32), 2.0))


def candidate(seed: int) -> demo_clip.Candidate:
    random = np.random.default_rng(seed)
    points = np.array([[15, 18], [33, 18], [24, 27], [17, 35], [31, 35.0]]) + random.normal(0, 0.5, (5, 2))
    return demo_clip.Candidate(random.integers(0, 256, (48, 48), dtype=np.uint8), points)


def test_every_label_has_one_act_and_the_clip_is_short() -> None:
    assert {act.label for act in demo_clip.ACTS} == LABELS
    assert len(demo_clip.ACTS) == len(LABELS)
    assert 15 <= demo_clip.DURATION <= 20


def test_ranking_takes_leaders_only_and_the_widest_lead_first() -> None:
    votes = np.zeros((5, 10), np.uint8)
    votes[0, [5, 4]] = 5, 4  # disgust leads anger by one
    votes[1, [5, 4]] = 4, 6  # anger leads
    votes[2, 5] = 10  # all agree
    votes[3, [5, 9]] = 4, 6  # not a face
    votes[4, [5, 4]] = 5, 4  # as the first one: the order of the corpus decides
    assert demo_clip.rank(votes, "disgust").tolist() == [2, 0, 4]


@pytest.mark.parametrize(
    ("points", "usable"),
    [
        ([[15, 18], [33, 18], [24, 27], [17, 36], [31, 36]], True),
        ([[17, 16], [34, 21], [23, 28], [13, 34], [27, 38]], True),  # tilted, but looks ahead
        ([[15, 18], [33, 18], [28, 27], [17, 36], [31, 36]], False),  # the nose is turned aside
        ([[15, 18], [33, 18], [24, 27], [21, 36], [35, 36]], False),  # the mouth is drawn aside
        ([[15, 20], [33, 20], [24, 31], [17, 42], [31, 42]], False),  # the crop ends under the mouth
    ],
)
def test_usable_faces(points: list[list[float]], usable: bool) -> None:
    assert demo_clip.is_usable(np.array(points, dtype=np.float64)) is usable


def test_similarity_finds_the_map_that_made_the_points() -> None:
    source = np.array([[0, 0], [4, 1], [2, 5], [7, -3]], dtype=np.float64)
    angle, scale, shift = 0.3, 1.7, (5.0, -2.0)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = demo_clip.similarity(source, source @ turn.T + shift)
    np.testing.assert_allclose(found, np.column_stack([turn, shift]), atol=1e-9)


def test_mean_shape_puts_the_eyes_in_their_place() -> None:
    shapes = [candidate(seed).points for seed in range(20)]
    np.testing.assert_allclose(demo_clip.mean_shape(shapes)[:2], demo_clip.EYES, atol=1e-6)


def test_unfolded_sheets_agree_more_than_they_did() -> None:
    sheets = [drawn_face(shift=shift) for shift in (-5.0, -2.5, 0.0, 2.5, 5.0)]
    before = np.std(sheets, axis=0)[demo_clip.INSIDE].mean()
    after = np.std(demo_clip.unfolded(sheets), axis=0)[demo_clip.INSIDE].mean()
    assert after < 0.5 * before


@pytest.mark.parametrize(("given", "kept"), [(demo_clip.LEAST - 1, 120), (120, demo_clip.LEAST - 1)])
def test_an_average_of_fewer_pictures_than_the_least_is_refused(given: int, kept: int) -> None:
    with pytest.raises(InputError, match="at least 100"):
        demo_clip.average([candidate(0)] * given, kept)


def test_the_time_line_holds_each_label_and_passes_to_the_next_without_a_jump() -> None:
    times = np.linspace(0, demo_clip.DURATION, 2000)
    places = [first + share for first, _, share in map(demo_clip.position, times)]
    assert places[0] == 0 and places[-1] == len(demo_clip.ACTS) - 1
    steps = np.diff(places)
    assert steps.min() >= 0 and steps.max() < 0.05
    held = np.mean([share == 0 for _, _, share in map(demo_clip.position, times)])
    assert held == pytest.approx(len(demo_clip.ACTS) * demo_clip.HOLD / demo_clip.DURATION, abs=0.01)


def test_a_morph_starts_at_one_face_and_ends_at_the_other() -> None:
    first, second = drawn_face(), drawn_face(mouth=15)
    morph = demo_clip.Morph(first, second)
    np.testing.assert_allclose(morph.at(0.0), demo_clip.toned(first), atol=1e-3)
    np.testing.assert_allclose(morph.at(1.0), demo_clip.toned(second), atol=1e-3)


def test_a_scene_shows_the_face_and_moves() -> None:
    scene, face = demo_clip.Scene(), demo_clip.toned(drawn_face())
    picture = scene.draw(face, 0.0)
    assert picture.shape == (demo_clip.HEIGHT, demo_clip.WIDTH, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, scene.draw(face, 0.0))
    assert not np.array_equal(picture, scene.draw(face, 1.0))
    dark = scene.draw(np.zeros_like(face), 0.0)
    assert np.any(picture[100:250, 180:300] != dark[100:250, 180:300])
    assert np.array_equal(picture[:20, :40], dark[:20, :40])  # the wall does not know the face


@needs_espeak
def test_the_voice_repeats_and_follows_its_directions() -> None:
    acts = {act.label: act for act in demo_clip.ACTS}
    anger, sadness = demo_clip.speak(acts["anger"]), demo_clip.speak(acts["sadness"])
    assert np.array_equal(anger, demo_clip.speak(acts["anger"]))
    assert np.sqrt(np.mean(anger**2)) > 2 * np.sqrt(np.mean(sadness**2))


@needs_espeak
def test_the_soundtrack_fills_the_clip_and_every_label_is_heard() -> None:
    track = demo_clip.soundtrack()
    assert len(track) == round(demo_clip.DURATION * demo_clip.SAMPLE_RATE)
    assert np.abs(track).max() == pytest.approx(0.8)
    for index in range(len(demo_clip.ACTS)):
        start = round(index * (demo_clip.HOLD + demo_clip.MORPH) * demo_clip.SAMPLE_RATE)
        held = track[start : start + round(demo_clip.HOLD * demo_clip.SAMPLE_RATE)]
        assert 20 * np.log10(np.sqrt(np.mean(held**2))) > -40


def test_a_missing_espeak_says_what_to_install() -> None:
    with pytest.raises(SourceError, match=r"no-such-program: .*apt-get install espeak-ng"):
        demo_clip.speak(demo_clip.ACTS[0], "no-such-program")


def test_a_failing_espeak_is_quoted(tmp_path: Path) -> None:
    program = tmp_path / "espeak"
    program.write_text("#!/bin/sh\necho no such voice >&2\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(SourceError, match="no such voice"):
        demo_clip.speak(demo_clip.ACTS[0], str(program))


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train\.npz: no such file; --data"):
        demo_clip.average_faces(tmp_path)


def test_a_written_clip_is_read_back_and_repeats(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [np.full((demo_clip.HEIGHT, demo_clip.WIDTH, 3), 40 * i, np.uint8) for i in range(6)]
    sound = random.normal(0, 0.1, demo_clip.SAMPLE_RATE // 2).astype(np.float32)
    for name in ("one.mp4", "two.mp4"):
        demo_clip.write(tmp_path / name, iter(pictures), sound)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    with av.open(str(tmp_path / "one.mp4")) as clip:
        read = [frame.to_ndarray(format="bgr24").mean() for frame in clip.decode(video=0)]
    np.testing.assert_allclose(read, [picture.mean() for picture in pictures], atol=6)


@pytest.mark.slow
@pytest.mark.parametrize("label", sorted(LABELS))
def test_the_corpus_has_enough_pictures_for_an_average(data: Path, label: str) -> None:
    with np.load(data / "ferplus" / "train.npz") as file:
        images, votes = file["images"], file["votes"]
    model = data / "models" / "face_detection_yunet_2023mar.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.7)
    chosen = demo_clip.choose(images, demo_clip.rank(votes, label), detector, most=demo_clip.LEAST)
    assert len(chosen) == demo_clip.LEAST
    marks = np.array([demo_clip.thumbnail(one.picture) for one in chosen])
    assert np.max(marks @ marks.T - 2 * np.eye(len(marks))) <= 0.97  # no photograph counts twice
