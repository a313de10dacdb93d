"""Pictures from a camera, always the newest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeemo.capture.mailbox import Clock, Mailbox, start_clock
from edgeemo.capture.source import Frame, Sound, without_password
from edgeemo.errors import InputError, SourceError, shown

if TYPE_CHECKING:
    import cv2

_log = logging.getLogger("edgeemo")

# Seconds before each new attempt when a camera stops giving pictures.
_RETRIES = (0.1, 0.2, 0.4, 0.8, 1.6)


class Camera:
    """A camera that a thread reads; who is slower than it gets the newest picture and loses the others.

    The clock starts with the first iteration; a picture's time is that of its arrival.

    Args:
        device: The index of a camera, its device file (/dev/video0), a stream address (rtsp://...), or a
            GStreamer pipeline that ends in an appsink ('nvarguscamerasrc ! ... ! appsink').

    Raises:
        InputError: `device` is none of these.
        SourceError: It cannot be opened or gives no picture.
    """

    modalities: tuple[str, ...] = ("face",)
    duration: float | None = None
    live: bool = True

    def __init__(self, device: int | str = 0) -> None:
        if not isinstance(device, int | str | Path):
            raise InputError(
                f"camera: {shown(device)}; give its index, device file, stream address or GStreamer pipeline"
            )
        self._device = int(device) if str(device).isdecimal() else str(device)
        self.name = f"camera {without_password(self._device)}"
        self.stats: dict[str, int] = {"dropped_frames": 0, "read_failures": 0}
        if _is_pipeline(self._device) and not _has_gstreamer():
            raise SourceError(
                f"{self.name} is a GStreamer pipeline, and this OpenCV has no GStreamer: use the system's "
                "OpenCV, or let GStreamer serve the pictures; deploy/jetson/README.md tells how"
            )
        if isinstance(self._device, str) and not _is_pipeline(self._device) and Path(self._device).is_file():
            raise SourceError(f"{self._device}: a file, not a camera: give it as the file to open")
        self._stop = threading.Event()
        self._mailbox: Mailbox | None = None
        self._thread: threading.Thread | None = None
        self._capture = _open_capture(self._device)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(
                f"{self.name} cannot be opened: plug it in, close other programs that use it and check that "
                f"this user may read it; {_present()}"
            )
        # Some cameras lose the first pictures while they start.
        if all(self._read() is None for _ in range(3)):
            self._capture.release()
            raise SourceError(f"{self.name} was opened but gives no picture: try another index; {_present()}")

    def start(self, mailbox: Mailbox, clock: Clock) -> None:
        """Put pictures into the mailbox from now on, with times from `clock`."""
        mailbox.open(self.name, depth=1)
        self._mailbox = mailbox
        self._thread = threading.Thread(target=self._run, args=(mailbox, clock), name=self.name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame | Sound]:
        if self._mailbox is None:
            self.start(Mailbox(), start_clock())
            assert self._mailbox is not None
        return iter(self._mailbox)

    def close(self) -> None:
        """Stop reading and release the camera."""
        self._stop.set()
        if self._mailbox is None:
            self._capture.release()
            self._mailbox = Mailbox()  # an empty one: a closed camera has nothing more to say
        elif self._thread is not None:
            self._mailbox.close(self.name, discard=True)
            self._thread.join(timeout=2.0)  # a driver may hang in its read; the thread is a daemon then

    def _run(self, mailbox: Mailbox, clock: Clock) -> None:
        try:
            while not self._stop.is_set():
                image = self._read()
                if image is None:
                    image = self._read_again()
                if image is None:
                    break
                # A default argument, because every picture needs its own.
                frame = Frame(clock(), lambda image=image: image)  # type: ignore[misc]
                self.stats["dropped_frames"] += mailbox.put(self.name, frame)
        finally:
            self._capture.release()
            mailbox.close(self.name)

    def _read(self) -> NDArray[np.uint8] | None:
        import cv2

        try:
            good, image = self._capture.read()
        except cv2.error as error:
            _log.debug("%s: %s", self.name, error)
            return None
        return np.asarray(image, np.uint8) if good else None

    def _read_again(self) -> NDArray[np.uint8] | None:
        self.stats["read_failures"] += 1
        _log.warning("%s stopped giving pictures; trying again", self.name)
        for attempt, delay in enumerate(_RETRIES):
            if self._stop.wait(delay):
                return None
            # One bad read is often followed by good ones; a camera that was unplugged has to be opened anew.
            if attempt > 0:
                self._capture.release()
                self._capture = _open_capture(self._device)
            image = self._read()
            if image is not None:
                _log.info("%s gives pictures again", self.name)
                return image
        _log.warning("%s gave no picture in %d attempts; going on without it", self.name, len(_RETRIES))
        return None


def _open_capture(device: int | str) -> cv2.VideoCapture:
    import cv2

    try:
        if isinstance(device, str):
            device.encode()  # OpenCV crashes at text that is not Unicode
        if _is_pipeline(device):
            return cv2.VideoCapture(device, cv2.CAP_GSTREAMER)
        return cv2.VideoCapture(device)
    except (cv2.error, UnicodeEncodeError):  # a number or a name that no camera has
        return cv2.VideoCapture()


def _is_pipeline(device: int | str) -> bool:
    return isinstance(device, str) and " ! " in device


def _has_gstreamer() -> bool:
    import cv2

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _present() -> str:
    devices = sorted(str(path) for path in Path("/dev").glob("video*"))
    return f"found: {', '.join(devices)}" if devices else "no /dev/video* was found"
