"""The clip that ``edgeemo demo`` answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

CLIP = Path(__file__).resolve().parent.parent / "edgeemo" / "demo" / "clip.mp4"


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    with av.open(str(CLIP)) as clip:
        return [frame.to_ndarray(format="bgr24") for frame in clip.decode(video=0)]


def test_the_clip_is_small_and_has_a_picture_and_a_sound_of_one_length() -> None:
    assert CLIP.stat().st_size <= 400_000
    with av.open(str(CLIP)) as clip:
        assert [stream.type for stream in clip.streams] == ["video", "audio"]
        assert clip.duration is not None
        assert 15 <= clip.duration / av.time_base <= 20
        for stream in clip.streams:
            assert stream.duration is not None and stream.time_base is not None
            seconds = float(stream.duration * stream.time_base)
            assert seconds == pytest.approx(clip.duration / av.time_base, abs=0.1)


def test_every_frame_is_decoded(pictures: list[NDArray[np.uint8]]) -> None:
    assert len(pictures) == 255
    assert {picture.shape for picture in pictures} == {(360, 480, 3)}


def test_the_sound_is_a_voice_throughout_and_does_not_clip() -> None:
    with av.open(str(CLIP)) as clip:
        rate = clip.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray()[0] for frame in clip.decode(audio=0)])
    assert np.abs(sound).max() < 0.99
    seconds = sound[: len(sound) // rate * rate].reshape(-1, rate)
    assert (20 * np.log10(np.sqrt(np.mean(seconds**2, axis=1)) + 1e-9)).min() > -50


def cascade() -> Callable[[NDArray[np.uint8]], int]:
    finder = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    return lambda picture: len(
        finder.detectMultiScale(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), 1.1, 3, minSize=(40, 40))
    )


def yunet(model: Path) -> Callable[[NDArray[np.uint8]], int]:
    finder = cv2.FaceDetectorYN.create(str(model), "", (480, 360), 0.6)
    return lambda picture: 0 if (found := finder.detect(picture)[1]) is None else len(found)


def share_with_one_face(
    count: Callable[[NDArray[np.uint8]], int], pictures: list[NDArray[np.uint8]]
) -> float:
    return float(np.mean([count(picture) == 1 for picture in pictures]))


def test_the_cascade_finds_one_face_in_nearly_every_frame(pictures: list[NDArray[np.uint8]]) -> None:
    assert share_with_one_face(cascade(), pictures) >= 0.9


def test_yunet_finds_one_face_in_nearly_every_frame(pictures: list[NDArray[np.uint8]], data: Path) -> None:
    model = data / "models" / "face_detection_yunet_2023mar.onnx"
    assert share_with_one_face(yunet(model), pictures) >= 0.9
