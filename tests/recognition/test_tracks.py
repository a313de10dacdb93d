from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeemo.errors import InputError
from edgeemo.preprocess.detector import WholePicture
from edgeemo.preprocess.face import Face, FaceGeometry, Picture
from edgeemo.recognition.tracks import Tracks

GEOMETRY = FaceGeometry(
    {"size": [48, 48], "channels": 1, "geometry": {"told": {"scale": 1.0, "dx": 0.0, "dy": 0.0}}}
)
Place = tuple[float, float, int]  # left, top, side


@lru_cache
def texture(height: int, width: int, seed: int, grain: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def scene(places: Sequence[Place], seeds: Sequence[int] = (), background: int = 99) -> NDArray[np.uint8]:
    """A 640 x 480 picture with a patch of its own texture at each place; later ones cover earlier ones."""
    picture = texture(480, 640, background, 60) // 2
    for number, (left, top, side) in enumerate(places):
        patch = texture(side, side, (seeds or range(len(places)))[number], side / 10)
        x, y = round(left), round(top)
        picture[y : y + side, x : x + side] = patch
    return np.dstack([picture] * 3)


class Told:
    """Finds what it was told, and counts."""

    name = "told"

    def __init__(self) -> None:
        self.calls = 0
        self.places: Sequence[Place] = ()

    def find(self, image: Picture) -> list[Face]:
        self.calls += 1
        faces = [Face((float(x), float(y), float(side), float(side)), 0.9) for x, y, side in self.places]
        return sorted(faces, key=lambda face: -face.box[2])


@pytest.fixture
def finder() -> Told:
    return Told()


def test_a_moving_face_is_followed_between_detections(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    for hop in range(16):
        place = (100 + 14.3 * hop, 200 + 5.1 * hop, 110)
        finder.places = [place]
        (track,) = tracks.update(scene([place]))
        assert (track.id, track.lost, track.age) == (1, 0, hop)
        error = math.hypot(track.square.x - place[0] - 55, track.square.y - place[1] - 55)
        assert error < 0.03 * 110
        assert np.abs(np.array(track.box) - (place[0], place[1], 110, 110)).max() < 4
    assert finder.calls == 4  # hops 0, 5, 10 and 15


@pytest.mark.parametrize("every", [1, 3, 5])
def test_a_still_face_is_detected_as_rarely_as_asked(finder: Told, every: int) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=every)
    finder.places = [(300, 200, 90)]
    picture = scene(finder.places)
    for _ in range(31):
        tracks.update(picture)
    assert finder.calls == 1 + 30 // every


def test_an_empty_still_picture_is_searched_as_rarely(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    for _ in range(11):
        assert tracks.update(scene([])) == []
    assert finder.calls == 3


def test_who_walks_in_is_found_at_once(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    tracks.update(scene([]))
    tracks.update(scene([]))
    finder.places = [(250, 100, 150)]
    assert [track.id for track in tracks.update(scene(finder.places))] == [1]


def test_two_faces_that_cross_keep_their_ids(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    seen: dict[int, list[float]] = {1: [], 2: []}
    for hop in range(31):
        left, right = (40 + 15.0 * hop, 180, 100), (500 - 15.0 * hop, 190, 110)
        # The right one is in front; a detector does not see what it covers.
        hidden = abs(left[0] - right[0]) < 60
        finder.places = [right] if hidden else [left, right]
        for track in tracks.update(scene([left, right])):
            if not track.lost:
                truth = right if track.id == 1 else left
                seen[track.id].append(abs(track.square.x - truth[0] - truth[2] / 2))
    assert sorted(seen) == [1, 2]  # nobody was taken for a third
    assert len(seen[1]) == 31
    assert len(seen[2]) >= 25
    assert max(max(errors) for errors in seen.values()) < 20


def test_a_lost_face_keeps_its_id_for_a_while(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    place = (300, 200, 100)
    finder.places = [place]
    tracks.update(scene([place]))
    finder.places = []
    lost = [[track.lost for track in tracks.update(scene([]))] for _ in range(3)]
    assert lost == [[1], [2], [3]]
    assert finder.calls == 4  # looked for in every hop
    finder.places = [place]
    (track,) = tracks.update(scene([place]))
    assert (track.id, track.lost) == (1, 0)


def test_a_face_that_stays_away_is_forgotten_and_comes_back_as_another(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    place = (300, 200, 100)
    finder.places = [place]
    tracks.update(scene([place]))
    finder.places = []
    counts = [len(tracks.update(scene([]))) for _ in range(7)]
    assert counts == [1, 1, 1, 1, 1, 0, 0]
    finder.places = [place]
    assert [track.id for track in tracks.update(scene([place]))] == [2]


def test_a_face_that_only_the_template_sees_ends_too(finder: Told) -> None:
    """A poster that a detector took for a face once."""
    tracks = Tracks(finder, GEOMETRY, detect_every=2)
    picture = scene([(300, 200, 100)])
    finder.places = [(300, 200, 100)]
    tracks.update(picture)
    finder.places = []
    assert [len(tracks.update(picture)) for _ in range(6)] == [1, 1, 1, 1, 0, 0]


def test_a_cut_is_seen_at_once_and_brings_new_ids(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    finder.places = [(300, 200, 120)]
    tracks.update(scene(finder.places))
    tracks.update(scene(finder.places))
    other = 255 - scene(finder.places, seeds=[7])  # somebody else in the same place
    (track,) = tracks.update(other)
    assert finder.calls == 2
    assert (track.id, track.lost, track.age) == (2, 0, 0)


def test_light_that_is_switched_on_is_no_cut(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=5)
    finder.places = [(300, 200, 120)]
    tracks.update(scene(finder.places) // 2 + 10)
    (track,) = tracks.update(scene(finder.places) // 2 + 110)
    assert (track.id, finder.calls) == (1, 1)


def test_of_seventeen_faces_the_smallest_is_left_out(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY)
    finder.places = [(20 + 100 * (n % 6), 20 + 140 * (n // 6), 60 + n) for n in range(17)]
    picture = scene(finder.places)
    for _ in range(7):
        found = tracks.update(picture)
        assert [track.id for track in found] == list(range(1, 17))
        assert min(track.square.side for track in found) == 61
    finder.places = [*finder.places[1:], (620.0, 440.0, 20)]
    assert len(tracks.update(scene(finder.places))) == 16


def test_detector_jitter_is_halved(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY, detect_every=1)
    picture = scene([(300, 200, 100)])
    finder.places = [(300, 200, 100)]
    tracks.update(picture)
    finder.places = [(304, 200, 104)]
    (track,) = tracks.update(picture)
    assert track.square.side == pytest.approx(102)
    assert track.square.x == pytest.approx(353, abs=1.5)  # the template finds its place to 1 %


def test_boxes_end_at_the_border(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY)
    finder.places = [(-30.0, 440.0, 100)]
    (track,) = tracks.update(scene([]))
    assert track.box == (0, 440, 70, 40)


def test_whole_pictures_are_one_track() -> None:
    tracks = Tracks(WholePicture(), GEOMETRY)
    sizes = [(48, 48), (48, 48), (60, 40)]
    found = [tracks.update(texture(*size, seed=n, grain=2)) for n, size in enumerate(sizes)]
    assert [(t.id, t.lost, t.age, t.box[2:]) for (t,) in found] == [
        (1, 0, 0, (48, 48)),
        (1, 0, 1, (48, 48)),
        (1, 0, 2, (40, 60)),
    ]


def test_another_picture_size_starts_anew(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY)
    finder.places = [(100, 100, 90)]
    tracks.update(scene(finder.places))
    assert [track.id for track in tracks.update(scene(finder.places)[:400])] == [2]
    assert finder.calls == 2


def test_reset_is_a_new_start(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY)
    pictures = []
    for hop in range(8):
        pictures.append(scene([(100 + 9 * hop, 100, 90)]))
    runs = []
    for _ in range(2):
        finder.places = [(100, 100, 90)]
        runs.append([tracks.update(picture) for picture in pictures])
        tracks.reset()
    assert runs[0] == runs[1]


def test_after_a_time_without_pictures_everybody_is_new(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY)
    finder.places = [(100, 100, 90)]
    tracks.update(scene(finder.places))
    tracks.forget()
    assert [track.id for track in tracks.update(scene(finder.places))] == [2]
    assert finder.calls == 2  # at once


def test_a_picture_that_is_none_changes_nothing(finder: Told) -> None:
    tracks = Tracks(finder, GEOMETRY)
    finder.places = [(100, 100, 90)]
    tracks.update(scene(finder.places))
    with pytest.raises(InputError, match="float32"):
        tracks.update(np.zeros((480, 640), np.float32))  # type: ignore[arg-type]
    (track,) = tracks.update(scene(finder.places))
    assert (track.id, track.age) == (1, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500, 3), (500, 1), (3, 3, 4)])
def test_tiny_pictures_do_no_harm(finder: Told, shape: tuple[int, ...]) -> None:
    tracks = Tracks(finder, GEOMETRY)
    finder.places = [(0, 0, 1)]
    for _ in range(3):
        tracks.update(np.full(shape, 50, np.uint8))
    assert finder.calls == 3  # a flat template is never trusted
