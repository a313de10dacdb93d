"""The default fusion with teachers, which are finished runs of fusions over encoders of whichever kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgeemo.errors import InputError

from .. import states
from ..config import kept
from ..data import ferplus, voices
from ..data.tokens import Drawer, FaceBank, VoiceBank, bank_faces, bank_voices
from ..systems.attention import AttentionFusion
from ..systems.fusion import Answers as SystemAnswers
from . import by_name, fusion, lessons, systems
from .face import FaceModel
from .trained import restored_face, restored_voice
from .voice import VoiceModel

DEFAULTS = replace(fusion.DEFAULTS, distil=1.0)
"""Settings of a fusion with teachers, where nothing else is said."""

HEADS = {"foal-net": "head", "jca": "emotion", "fdan": "classifier"}
"""What maps the representation of both modalities to logits, by the published system."""

FILE = "teachers.json"


@dataclass(frozen=True)
class Tutor:
    """A teacher with the encoders that made what it was trained on.

    Attributes:
        run: its folder.
        encoders: of ``'face'`` and ``'voice'``.
        teacher: reads their tokens.
    """

    run: Path
    encoders: Mapping[str, nn.Module]
    teacher: lessons.Teacher

    @property
    def encoded(self) -> str:
        """Digest of its encoders."""
        return _digest(self.encoders)

    @property
    def sha256(self) -> str:
        """Digest of all its weights."""
        parts = self.encoded, fusion.digest(self.teacher), repr(self.teacher.temperature)
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def train(
    data: Path,
    folder: Path,
    face: FaceModel,
    voice: VoiceModel,
    teachers: Sequence[Path],
    config: fusion.Config = DEFAULTS,
    tokens: Path | None = None,
) -> AttentionFusion:
    """Train the default fusion by labels and by what teachers say, or finish what an earlier call began.

    The teachers answer a course of windows once, each over tokens of its own encoders; what they need for it
    and what they said is kept in a folder ``teachers`` beside the student's tokens.

    Args:
        data: the corpora.
        folder: of the run, also noting the teachers.
        face: gives face tokens, see `fusion.train`.
        voice: gives voice tokens.
        teachers: folders of finished runs, see `read`.
        config: the settings.
        tokens: folder of the student's tokens; ``folder`` without it.

    Raises:
        InputError: there is no teacher, one of them is no finished run of a face and a voice, or the run was
            begun with other teachers or settings.
    """
    if not config.distil:
        raise InputError("distil 0: nothing of the teachers would be learnt; set it above 0")
    if not teachers:
        raise InputError("--teachers: there are none; name folders of finished runs")
    tutors = [read(run, data) for run in teachers]
    _keep(folder, tutors)
    where = folder if tokens is None else tokens
    school = School(data, where, face, voice, tutors, config)
    return fusion.train(data, folder, face, voice, config, tokens=where, teach=school)


class School:
    """Has tutors answer a course, each over tokens of its own encoders.

    Args:
        data: the corpora.
        folder: keeps tokens and answers in a folder ``teachers``.
        face: of the student.
        voice: of the student.
        tutors: who answer.
        config: how many lessons there are, and how soft the answers.
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        face: FaceModel,
        voice: VoiceModel,
        tutors: Sequence[Tutor],
        config: fusion.Config,
    ) -> None:
        self.data, self.folder, self.tutors, self.config = data, folder / "teachers", tutors, config
        self.student = _digest({"face": face.encoder, "voice": voice.encoder})

    def __call__(self, course: lessons.Course) -> lessons.Lessons:
        """The lessons of a course over the student's tokens."""
        said = [self._answers(tutor, course) for tutor in self.tutors]
        return lessons.Lessons(course, said, self.config.temperature)

    def _answers(self, tutor: Tutor, course: lessons.Course) -> lessons.Answers:
        path = self.folder / f"answers-{tutor.sha256[:16]}.pt"
        # All that a course has of its student besides tokens is how the voice is confused.
        key = [self.config.lessons, course.known.confusion.tolist()]
        if path.exists():
            stored = states.read(path)
            if stored["key"] == key:
                return lessons.Answers(stored["logits"], stored["representations"])
        if tutor.encoded != self.student:  # tokens for one are some 250 MB, so there is one at a time
            course = _course(self.data, self.folder / tutor.encoded[:16], tutor.encoders, course)
        made = lessons.ask(tutor.teacher, course, self.config.lessons)
        self.folder.mkdir(parents=True, exist_ok=True)
        states.write({"key": key, **vars(made)}, path)
        return made


def read(run: Path, data: Path) -> Tutor:
    """Read a finished run of the default system, or of a published one over pictures and voices.

    Args:
        run: its folder.
        data: the corpora.

    Raises:
        InputError: there is no such run in it.
    """
    if by_name.is_run(run):
        return _system(run, data)
    folder = run / "fusion"
    settings = kept(folder, fusion.DEFAULTS)
    if not fusion.is_finished(folder, settings.schedule):
        raise InputError(f"--teachers {run}: it holds no finished run; train one by edgeemo-export train")
    face, voice = encoders(run, "--teachers")
    made = fusion.train(data, folder, face, voice, settings)
    return Tutor(run, {"face": face.encoder, "voice": voice.encoder}, lessons.Teacher(made, made.joint))


def encoders(run: Path, option: str = "--run") -> tuple[FaceModel, VoiceModel]:
    """The face and the voice of a run of the default system, of whichever size.

    Args:
        run: its folder.
        option: by which the folder was named.

    Raises:
        InputError: it has none.
    """
    return restored_face(run / "face", option), restored_voice(run / "voice", option)


def _system(run: Path, data: Path) -> Tutor:
    trained = by_name.read(run, data)
    answers = trained.fusion
    units = isinstance(trained.config, systems.Config) and trained.config.pairs == "units"
    if trained.system not in HEADS or units or not isinstance(answers, SystemAnswers):
        what = "reads action units" if units else "does not read a face and a voice"
        raise InputError(
            f"--teachers {run}: {trained.system} {what}; give runs of {', '.join(HEADS)} over pictures"
        )
    head = answers.fusion.get_submodule(HEADS[trained.system])
    teacher = lessons.Teacher(answers.fusion, head, float(answers.temperatures[2]))
    return Tutor(run, trained.encoders, teacher)


def _digest(encoders: Mapping[str, nn.Module]) -> str:
    parts = [fusion.digest(encoders[name]) for name in ("face", "voice")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _course(
    data: Path, folder: Path, encoders: Mapping[str, nn.Module], other: lessons.Course
) -> lessons.Course:
    """The windows of another course in the tokens of these encoders."""
    face, voice = encoders["face"], encoders["voice"]

    def faces() -> list[FaceBank]:
        return [bank_faces(face, ferplus.read(data / "ferplus", "train"), fusion.COPIES, fusion.SEED)]

    def heard() -> list[VoiceBank]:
        return [bank_voices(voice, voices.read(data, "train"), fusion.COPIES, fusion.SEED)]

    folder.mkdir(parents=True, exist_ok=True)
    (known_faces,) = fusion.stored(folder / "faces.pt", face, FaceBank, faces)
    (known_voices,) = fusion.stored(folder / "voices.pt", voice, VoiceBank, heard)
    worse = fusion.worse_banks(data, folder, face, voice)
    return lessons.Course(Drawer(known_faces, known_voices, other.known.confusion), *worse)


def _keep(folder: Path, tutors: Sequence[Tutor]) -> None:
    """Note the teachers of a run; it must not go on with others."""
    path, given = folder / FILE, [{"run": tutor.run.name, "sha256": tutor.sha256} for tutor in tutors]
    if (folder / "state.pt").exists() and path.exists():
        before = json.loads(path.read_text())
        if [one["sha256"] for one in before] != [one["sha256"] for one in given]:
            names = ", ".join(one["run"] for one in before)
            raise InputError(f"{folder}: the run was begun with other teachers ({names}); give those")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(given, indent=1) + "\n")
