from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from edgeemo.capture.camera import Camera
from edgeemo.capture.source import Frame
from edgeemo.errors import InputError, SourceError
from tests.capture.devices import CameraBench


def levels(items: list[object]) -> list[int]:
    return [int(item.image()[0, 0, 0]) for item in items if isinstance(item, Frame)]


def test_a_camera_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    CameraBench(opens=False).install(monkeypatch)
    with pytest.raises(SourceError, match=r"camera 3 cannot be opened: plug it in.*/dev/video"):
        Camera(3)


def test_a_number_that_no_camera_has() -> None:
    with pytest.raises(SourceError, match=r"^camera 99999999999999 cannot be opened: plug it in"):
        Camera(99999999999999)


def test_a_name_that_is_not_unicode_is_kept_from_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CameraBench(opens=False).install(monkeypatch)
    with pytest.raises(SourceError, match="cannot be opened: plug it in"):
        Camera("/dev/\udcff")  # OpenCV would crash
    assert bench.devices == [None]


def test_what_names_no_camera_is_refused() -> None:
    with pytest.raises(InputError, match=r"^camera: ndarray; give its index"):
        Camera(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_a_camera_that_gives_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CameraBench().install(monkeypatch)
    with pytest.raises(SourceError, match="camera 1 was opened but gives no picture"):
        Camera(1)
    assert bench.released == 1


def test_a_file_is_no_camera(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match="a file, not a camera"):
        Camera(str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(("device", "opened"), [(0, 0), ("2", 2), ("/dev/video9", "/dev/video9")])
def test_which_device_is_opened(
    device: int | str, opened: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = CameraBench(0).install(monkeypatch)
    Camera(device).close()
    assert bench.devices == [opened]
    assert bench.released == 1


def test_a_password_is_not_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CameraBench(0).install(monkeypatch)
    camera = Camera("rtsp://guard:s3cret@hall.local/1")
    camera.close()
    assert camera.name == "camera rtsp://hall.local/1"
    assert bench.devices == ["rtsp://guard:s3cret@hall.local/1"]


def test_a_slow_reader_gets_the_newest_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first picture shows that the camera works; five come while nobody reads, then one after the pause.
    bench = CameraBench(0, 1, 2, 3, 4, 5, -1, 6).install(monkeypatch)
    camera = Camera(0)
    items = iter(camera)
    assert bench.exhausted.wait(5)
    assert levels([next(items)]) == [5]
    assert camera.stats["dropped_frames"] == 4
    bench.go_on.set()
    assert levels([next(items)]) == [6]
    camera.close()


def test_times_start_at_zero_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CameraBench(0, 1, -1, 2).install(monkeypatch)
    camera = Camera(0)
    items = iter(camera)
    first = next(items)
    bench.go_on.set()
    second = next(items)
    assert 0 <= first.time < second.time < 5
    camera.close()


def test_a_few_bad_reads_are_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = CameraBench(0, None, None, 7, -1).install(monkeypatch)
    camera = Camera(0)
    with caplog.at_level(logging.WARNING, "edgeemo"):
        items = iter(camera)
        assert levels([next(items)]) == [7]
    assert camera.stats["read_failures"] == 1
    assert "camera 0 stopped giving pictures; trying again" in caplog.text
    bench.go_on.set()
    camera.close()


def test_a_camera_that_was_unplugged_ends_after_some_attempts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = CameraBench(0, 1).install(monkeypatch)
    camera = Camera(0)
    with caplog.at_level(logging.WARNING, "edgeemo"):
        assert levels(list(camera)) == [1]
    assert "camera 0 gave no picture in 3 attempts; going on without it" in caplog.text
    assert bench.devices == [0, 0, 0]  # it was opened anew
    assert bench.released == 3
    camera.close()


def test_closing_ends_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CameraBench(0, 1, -1, 2).install(monkeypatch)
    camera = Camera(0)
    items = iter(camera)
    next(items)
    bench.go_on.set()
    camera.close()
    camera.close()
    assert list(items) == []
    assert bench.released >= 1


def test_a_camera_closed_before_it_was_read_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    CameraBench(0).install(monkeypatch)
    camera = Camera(0)
    camera.close()
    assert list(camera) == []


# Longer than the name of a file may be.
PIPELINE = "nvarguscamerasrc ! video/x-raw,format=BGR ! appsink " + "drop=true " * 30


@pytest.mark.parametrize("has", [True, False])
def test_a_gstreamer_pipeline(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    bench = CameraBench(0).install(monkeypatch)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: has)
    if has:
        Camera(PIPELINE).close()
        assert bench.devices == [PIPELINE] and bench.backends == [cv2.CAP_GSTREAMER]
    else:
        with pytest.raises(SourceError, match=r"is a GStreamer pipeline, and this OpenCV has no GStreamer"):
            Camera(PIPELINE)
        assert bench.devices == []
