"""Does calibration material hold what a model will be tested on?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeemo.errors import CheckFailed

from .candidates import Heard, Recorded

_SHOWN = 5


@dataclass(slots=True)
class HeldOut:
    """The speakers and contents of recordings that must stay unheard.

    Attributes:
        speakers: everybody who is named.
        contents: name of a recording by the sha256 of its decoded sound or pictures, by modality.
        recordings: how many there are.
    """

    speakers: set[str] = field(default_factory=set)
    contents: dict[str, dict[bytes, str]] = field(default_factory=dict)
    recordings: int = 0

    def add(self, recorded: Recorded, heard: Heard) -> None:
        """Take one recording of the test material."""
        self.recordings += 1
        if recorded.speaker:
            self.speakers.add(recorded.speaker)
        for modality, digests in heard.digests.items():
            self.contents.setdefault(modality, {}).update(dict.fromkeys(digests, recorded.path.name))

    def check_speakers(self, recordings: Iterable[Recorded]) -> None:
        """Refuse recordings of a speaker of the test material; where either names nobody nothing is known.

        Raises:
            CheckFailed: the message names the speakers.
        """
        shared = sorted(self.speakers & {recorded.speaker for recorded in recordings})
        if shared:
            raise CheckFailed(
                f"the test material has the same speakers: {_listed(shared)}; calibrate on others, or the "
                "test measures people that the ranges were fitted to"
            )

    def same(self, recorded: Recorded, heard: Heard) -> list[str]:
        """What a recording has in common with the test material, a line for each modality that it gave.

        Only whole contents are compared, whatever the file's name or lossless format: a piece that was cut
        out of a test recording is found by its speaker alone.
        """
        found = []
        for modality, digests in heard.digests.items():
            known = self.contents.get(modality, {})
            twin = next((known[digest] for digest in digests if digest in known), None)
            if twin is not None and heard.taken[modality]:
                found.append(f"{recorded.path.name} is {twin} of the test material ({modality})")
        return found


def refuse(leaks: list[str]) -> None:
    """Refuse a set when there are leaks.

    Raises:
        CheckFailed: there are; the message names the first.
    """
    if leaks:
        raise CheckFailed(
            f"recordings are test material ({len(leaks)} found): {_listed(leaks)}; leave them out of the "
            "sources"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
