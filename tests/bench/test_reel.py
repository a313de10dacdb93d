"""A recording in memory and a stream that is fed with it, also after weeks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeemo.bench.reel import Reel, Walk
from edgeemo.errors import CheckFailed, InputError
from edgeemo.recognition.recognizer import Recognizer
from tests.capture.media import write_clip
from tests.recognition.fakes import GEOMETRY, calls, fake_model
from tests.support.tiny import Tiny, write_bundle

BOX = (20.0, 10.0, 30.0, 30.0)
HOPS = 6


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.68 s of pictures that grow lighter and of sound that grows louder."""
    images = [np.full((64, 128, 3), 60 + 8 * number, np.uint8) for number in range(17)]
    for image in images:
        image[15:35, 25:45] += 60
    sound = Tiny(sample_rate=48000).voice("happiness", 0.68) * np.linspace(0.1, 0.9, 32640)
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv", images=images, sound=sound)


@pytest.fixture
def model(tmp_path: Path) -> Recognizer:
    return fake_model(write_bundle(tmp_path / "tiny", geometry=GEOMETRY), Tiny(), BOX)


def test_a_clip_in_whole_hops(clip: Path) -> None:
    reel = Reel.read(clip, 0.1)
    assert (reel.hops, reel.modalities, reel.sample_rate) == (HOPS, ("face", "voice"), 48000)
    assert len(reel.pictures) == HOPS and len(reel.sound) == HOPS * 4800
    levels = [picture.mean() for picture in reel.pictures if picture is not None]
    # The newest of each hop: at 25 a second those of 80, 160, 280, 360, 480 and 560 ms.
    expected = [60 + 8 * number for number in (2, 4, 7, 9, 12, 14)]
    assert np.round(np.array(levels) - levels[0]).tolist() == pytest.approx(
        [level - expected[0] for level in expected], abs=2
    )


def test_the_sound_goes_on_without_a_gap(clip: Path) -> None:
    reel = Reel.read(clip, 0.1)
    heard = [reel.heard(number) for number in range(3 * HOPS)]
    assert np.array_equal(np.concatenate([samples for _, samples in heard]), np.tile(reel.sound, 3))
    assert [time for time, _ in heard] == pytest.approx([0.1 * number for number in range(3 * HOPS)])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_hops_hold_all_their_sound_at_every_rate(rate: int) -> None:
    reel = Reel(0.1, [], np.arange(rate, dtype=np.float32), rate, 10)
    taken = 0
    for number in range(2000):
        begin, samples = reel.heard(number)
        assert begin == taken / rate
        taken += len(samples)
        assert taken / rate >= (number + 1) * 0.1 - 1e-6


@pytest.mark.parametrize(("seconds", "modalities"), [(0.5, ("voice",)), (25.0, ("voice",))])
def test_at_most_ten_seconds_are_held(seconds: float, modalities: tuple[str, ...], tmp_path: Path) -> None:
    sound = Tiny(sample_rate=48000).voice("fear", seconds)
    reel = Reel.read(write_clip(tmp_path / "clip.mkv", sound=sound), 0.1)
    assert reel.modalities == modalities
    assert reel.hops == round(10 * min(seconds, 10.0))


def test_what_is_shorter_than_a_hop(tmp_path: Path) -> None:
    short = write_clip(tmp_path / "short.mkv", sound=Tiny(sample_rate=48000).voice("fear", 0.06))
    with pytest.raises(InputError, match=r"short\.mkv: it is shorter than a hop of 0\.1 s"):
        Reel.read(short, 0.1)


def test_every_hop_is_answered_by_one_call_of_each_graph(model: Recognizer, clip: Path) -> None:
    walk = Walk(model, Reel.read(clip, 0.1))
    spent = [walk.step() for _ in range(20)]
    assert (walk.hops, walk.age) == (20, 2.0)
    assert {name: len(rows) for name, rows in calls(model).items()} == {"face": 20, "voice": 20, "fusion": 20}
    for one in spent:
        assert one.update == sum(one.parts[name] for name in ("face", "voice", "fusion"))
        assert 0 < one.update < one.step
    assert 0 < sum(one.detected for one in spent) < 20


@pytest.mark.parametrize("days", [10 / 24, 7, 365])
def test_every_hop_is_answered_at_its_time_after_a_year(days: float, model: Recognizer, clip: Path) -> None:
    walk = Walk(model, Reel.read(clip, 0.1))
    walk.hops = begun = round(days * 864_000)
    walk.go(walk.age + 5.0)
    assert walk.hops == begun + 50


def test_a_hop_that_is_not_answered_ends_it(
    model: Recognizer, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = Walk(model, Reel.read(clip, 0.1))
    walk.step()
    monkeypatch.setattr(walk._stream, "poll", list)
    with pytest.raises(CheckFailed, match=r"a stream at 0\.2 s answered nothing"):
        walk.step()


def test_what_a_stream_loses_ends_it(model: Recognizer, clip: Path) -> None:
    walk = Walk(model, Reel.read(clip, 0.1))
    walk.step()
    walk._stream.push_frame(np.zeros((64, 128, 3), np.uint8), 0.05)
    with pytest.raises(CheckFailed, match=r"lost \{'late_frames': 1\}"):
        walk.step()
