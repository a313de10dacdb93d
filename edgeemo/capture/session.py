"""A camera and a microphone on one clock."""

from __future__ import annotations

from collections.abc import Iterator

from edgeemo.capture.camera import Camera
from edgeemo.capture.mailbox import Mailbox, start_clock
from edgeemo.capture.microphone import Microphone
from edgeemo.capture.source import Frame, Sound


class Session:
    """Pictures and sound of now, on one monotonic clock that starts at 0 with the first iteration.

    What waits is handed out oldest first; nothing waits for the other device, so that one that stalls or is
    unplugged does not hold up the other. The iteration ends when both have ended.

    Args:
        camera: The index of a camera, its device file or its stream address.
        microphone: 'default', or the index or a part of the name of an input device.

    Raises:
        SourceError: One of the two cannot be opened.
    """

    modalities: tuple[str, ...] = ("face", "voice")
    duration: float | None = None
    live: bool = True

    def __init__(self, camera: int | str, microphone: int | str) -> None:
        self._camera = Camera(camera)
        try:
            self._microphone = Microphone(microphone)
        except BaseException:
            self._camera.close()
            raise
        self.name = f"{self._camera.name} and {self._microphone.name}"
        self._mailbox: Mailbox | None = None

    @property
    def stats(self) -> dict[str, int]:
        """The counts of the camera and of the microphone."""
        return {**self._camera.stats, **self._microphone.stats}

    def __iter__(self) -> Iterator[Frame | Sound]:
        if self._mailbox is None:
            self._mailbox = Mailbox()
            clock = start_clock()
            self._microphone.start(self._mailbox, clock)
            self._camera.start(self._mailbox, clock)
        return iter(self._mailbox)

    def close(self) -> None:
        """Release both devices."""
        if self._mailbox is None:
            self._mailbox = Mailbox()
        self._microphone.close()
        self._camera.close()
