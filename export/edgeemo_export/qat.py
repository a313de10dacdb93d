"""Quantisation-aware training: an encoder learns to say in INT8 what it says in FP32.

The teacher is the encoder itself, before. The student begins as the same encoder, computes as its INT8 graph
does (`fake_quant`) and is fitted to the teacher's tokens, so that whatever reads tokens goes on as it is, and
through the frozen classifier to the teacher's answers. No label is looked at: the fusion has learnt from the
teacher's tokens, and labels would pull them elsewhere.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgeemo_calibration import measure
from edgeemo_calibration.encode import Encoding, encode
from edgeemo_calibration.probe import values
from edgeemo_calibration.table import Table

from . import bundle, processes
from .config import keep, kept, refuse
from .data import ferplus, sounds, voices
from .data.pictures import jitter
from .encoders.face import FaceEncoder
from .encoders.fold import fold_batch_norms
from .encoders.voice import VoiceEncoder
from .fake_quant import clip_as, insert, remove, trained, unsigned_of
from .recipes.default import Trained
from .recipes.voice import VoiceModel, record
from .to_onnx import ExportError
from .train import Batches, Schedule, fit

log = logging.getLogger("edgeemo.export")

TABLE, STATE = "table.json", "state.pt"
MODALITIES = ("face", "voice")
BY_ANSWERS = ("kept", "set", "class")
"""The rules of the gate that are about answers."""

HELD = 256
"""Inputs of the development cut on which the curve shows the noise."""

COMPARED = 8
"""Calibration feeds on which an INT8 graph is held to the module that was trained."""

SCHEDULE = Schedule(epochs=2, rate=1e-5, decay=0.0, average=0.99)
"""Slow, as all is nearly right from the start: at 3e-4 the weights stray further than rounding ever was."""

Feeds = Iterable[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Config:
    """Settings of the training of one encoder.

    Attributes:
        schedule: see `edgeemo_export.train.Schedule`.
        batch: pictures, or clips, of a step.
        learned: whether the steps of the activations are trained too.
        answers: weight of the divergence of the answers, beside that of the tokens, which is 1.
        windows: one-second contexts of a clip in a step.
        takes: how often each clip is recorded, once as it is and else distorted.

    Raises:
        InputError: one of them is out of its range.
    """

    schedule: Schedule = SCHEDULE
    batch: int = 64
    learned: bool = True
    answers: float = 0.1
    windows: int = 4
    takes: int = 2

    def __post_init__(self) -> None:
        refuse(
            "qat",
            self,
            ("batch", self.batch >= 1, "1 or more"),
            ("answers", self.answers >= 0, "0 or more"),
            ("windows", self.windows >= 1, "1 or more"),
            ("takes", self.takes >= 1, "1 or more"),
        )


FACE, VOICE = Config(), Config(dataclasses.replace(SCHEDULE, epochs=5), batch=16)


@dataclass(frozen=True)
class Configs:
    """Settings of both encoders."""

    face: Config = FACE
    voice: Config = VOICE


DEFAULTS = Configs()


@dataclass(frozen=True)
class Material:
    """What an encoder is fine-tuned on, and what of it is to stay as it is.

    Attributes:
        batches: of one epoch, see `edgeemo_export.train.fit`.
        steps: their number.
        draw: makes the inputs of a batch.
        reads: what of an encoder is read: of inputs, the tokens ``[N, D]`` and, if other heads read them,
            other features.
        answer: logits ``[N, K]`` that a frozen classifier gives to tokens.
        held: gives inputs that are not trained on.
    """

    batches: Batches
    steps: int
    draw: Callable[[Any, torch.Generator], Tensor]
    reads: Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
    answer: nn.Module
    held: Callable[[], Tensor]


class Student(nn.Module):
    """An encoder that is fitted to its teacher's tokens: with dropout it could not be."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def train(self, mode: bool = True) -> Student:
        """Stay in evaluation mode; batch normalisations are folded, so nothing else differs."""
        return super().train(False)


def needed(proof: Mapping[str, Any]) -> bool:
    """Whether INT8 misses the gate by what it answers, which training can change, and not by its speed.

    Args:
        proof: the figures that ``edgeemo-calibrate prove`` writes as JSON.

    Example:
        >>> needed({"rules": [{"name": "kept", "passed": True}, {"name": "faster", "passed": False}]})
        False
        >>> needed({"rules": [{"name": "class", "passed": False}]})
        True
    """
    return any(rule["name"] in BY_ANSWERS and not rule["passed"] for rule in proof["rules"])


def settings(run: Path, otherwise: Configs) -> Configs:
    """The settings that the training of each encoder of a run was begun with; else ``otherwise``."""
    return Configs(kept(run / "face-qat", otherwise.face), kept(run / "voice-qat", otherwise.voice))


def finetune(
    encoder: nn.Module,
    table: Table,
    unsigned: Collection[str],
    material: Material,
    folder: Path,
    config: Config,
) -> nn.Module:
    """Fit an encoder to its own tokens, computing in steps of INT8; it goes on where it was stopped.

    Args:
        encoder: in evaluation mode, batch normalisations folded; it stays as it is.
        table: of its graph; training begins with its steps.
        unsigned: what of it the CPU's encoding clips later, see `fake_quant.unsigned_of`.
        material: what it is trained on.
        folder: of the settings, the state and the curve.
        config: the settings.

    Returns:
        the fake-quantised encoder, in evaluation mode on the CPU: see `fake_quant.remove` and
        `fake_quant.trained`.

    Raises:
        InputError: the table does not fit, or the run in ``folder`` was begun with other settings.
    """
    student = Student(insert(copy.deepcopy(encoder), table, unsigned, config.learned))
    keep(config, folder)
    where = processes.device()
    teacher, answer = (
        copy.deepcopy(part).eval().requires_grad_(False).to(where) for part in (encoder, material.answer)
    )

    def loss(model: nn.Module, batch: Any, random: torch.Generator) -> Mapping[str, Tensor]:
        assert isinstance(model, Student)
        x = material.draw(batch, random).to(where)
        with torch.no_grad():
            wanted = material.reads(teacher, x)
        # By turns as the one encoding and as the other: fitted to one alone, an encoder learns to make use of
        # its clipping, and then is another one in the other encoding and in FP32.
        clip_as(model, signed=bool(torch.randint(2, (), generator=random)))
        given = material.reads(model.encoder, x)
        differs = torch.stack([noise(mine, theirs) for mine, theirs in zip(given, wanted, strict=True)]).sum()
        return {
            "tokens": differs,
            "answers": config.answers * divergence(answer(given[0]), answer(wanted[0])),
        }

    @torch.no_grad()
    def develop(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, Student)
        held = material.held().to(where)
        wanted, figures = material.reads(teacher, held)[0], {}
        for name, signed in (("sqnr_u8", False), ("sqnr_s8", True)):
            clip_as(model, signed=signed)
            given = material.reads(model.encoder, held)[0]
            figures[name] = decibels(noise(given, wanted).item())
        return figures

    student.to(where)
    if not (folder / STATE).exists():
        log.info("%s begins with %s", folder.name, develop(student))
    averaged = fit(student, material.batches, material.steps, loss, develop, config.schedule, folder)
    assert isinstance(averaged, Student)
    return averaged.encoder.cpu()


def noise(given: Tensor, wanted: Tensor) -> Tensor:
    """The energy of the difference over that of what was wanted."""
    return (given - wanted).square().sum() / wanted.square().sum()


def decibels(share: float) -> float:
    """The signal-to-quantisation-noise ratio of a `noise`, in dB.

    Example:
        >>> decibels(0.001)
        30.0
    """
    return -10.0 * float(np.log10(max(share, 1e-12)))


def divergence(given: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the given answers from the wanted ones, both logits ``[N, K]``."""
    return F.kl_div(
        given.log_softmax(dim=1), wanted.log_softmax(dim=1), log_target=True, reduction="batchmean"
    )


def graph_of(fake: nn.Module, write: Callable[[nn.Module], Path], feeds: Feeds) -> tuple[nn.Module, Table]:
    """The encoder that was trained, its graph written, and the table by which it is encoded.

    Args:
        fake: gave `finetune`; it stays as it is.
        write: writes the FP32 graph of an encoder and gives its path.
        feeds: calibration items, which say how far the new encoder's tensors reach.

    Raises:
        ExportError: the INT8 graph does not compute what was trained.
    """
    encoder = remove(copy.deepcopy(fake))
    path, items = write(encoder), list(feeds)
    table = trained(fake, measure(path, items, method="min-max"))
    _compare(fake, path, table, items[:COMPARED])
    return encoder, table


def _compare(fake: nn.Module, path: Path, table: Table, feeds: Feeds) -> None:
    """Hold the INT8 graph to the module, in the encoding that is both: each result rounded, S8's range."""
    encoded = encode(onnx.load(path), table, Encoding("trained", signed=True, results=True))
    found, floating = (_tokens(model, feeds) for model in (encoded, onnx.load(path)))
    clip_as(fake, signed=True)
    with torch.no_grad():
        given = torch.cat([fake(*(torch.from_numpy(value) for value in feed.values())) for feed in feeds])
    apart, quantised = noise(given, found).item(), noise(found, floating).item()
    # Sums in another order put a few values on the other side of a rounding; a tensor that is rounded in one
    # of both alone, or otherwise, puts many there.
    if not apart <= 0.3 * quantised:
        raise ExportError(
            f"{path.name}: its INT8 graph is {decibels(apart):.1f} dB from the module that was trained, and "
            f"{decibels(quantised):.1f} dB from the FP32 graph; the first must be the larger by far"
        )


def _tokens(model: onnx.ModelProto, feeds: Feeds) -> Tensor:
    """What a graph answers, run as it is written: an optimiser would round biases too."""
    runs = values(model, feeds, ["tokens"], exact=True)
    return torch.cat([torch.from_numpy(tokens) for _, _, (tokens,) in runs])


def finetune_default(
    given: Trained, data: Path, run: Path, configs: Configs = DEFAULTS, modalities: Sequence[str] = MODALITIES
) -> tuple[Trained, dict[str, Table]]:
    """Fine-tune encoders of the default system; a finished training is read back at once.

    Args:
        given: the parts of a finished run; they stay as they are.
        data: the corpora, of which the training splits are seen and heard.
        run: folder of the run; the trainings are kept in ``face-qat`` and ``voice-qat`` in it.
        configs: the settings.
        modalities: ``face``, ``voice`` or both.

    Returns:
        the parts with the new encoders, and the tables by which `bundle.write` is to encode them.

    Raises:
        InputError: a training was begun with other settings.
        ExportError: an INT8 graph does not compute what was trained.
    """
    found, tables = copy.deepcopy(given), {}
    if "face" in modalities:
        found, tables["face"] = finetune_face(found, data, run / "face-qat", configs.face)
    if "voice" in modalities:
        found, tables["voice"] = finetune_voice(found, data, run / "voice-qat", configs.voice)
    return found, tables


def finetune_face(given: Trained, data: Path, folder: Path, config: Config = FACE) -> tuple[Trained, Table]:
    """Fine-tune the face encoder on FER+ train, jittered; see `finetune_default`."""
    images = torch.from_numpy(ferplus.read(data / "ferplus", "train").images)

    def held() -> Tensor:
        return torch.from_numpy(ferplus.read(data / "ferplus", "develop").images)[:HELD, :, :, None]

    batches, steps = _batches(len(images), config.batch)
    material = Material(
        batches,
        steps,
        draw=lambda rows, random: jitter(images[rows], random).round(),
        reads=lambda encoder, x: (encoder(x),),
        answer=given.face.head,
        held=held,
    )

    def put(encoder: nn.Module) -> Trained:
        face = copy.deepcopy(given.face)
        face.encoder = cast(FaceEncoder, encoder)
        return dataclasses.replace(given, face=face)

    feeds = bundle.face_feeds(data, config.schedule.seed)
    return _finetuned("face", given.face.encoder, put, feeds, material, folder, config)


def finetune_voice(given: Trained, data: Path, folder: Path, config: Config = VOICE) -> tuple[Trained, Table]:
    """Fine-tune the voice encoder on contexts of the training speakers; see `finetune_default`.

    What is pooled before the token is held to the teacher too: the presence of speech is told by it.
    """
    clips = voices.read(data, "train")
    front = copy.deepcopy(given.voice.encoder.front)  # stays on the CPU, where sounds are recorded
    takes: list[list[Tensor]] = []
    order, steps = _batches(len(clips), config.batch)

    def batches(random: torch.Generator) -> Iterable[Tensor]:
        if not takes:  # a finished run that is only read back needs none
            takes.extend(record(front, clips, config.schedule.seed, config.takes))
        return order(random)

    def draw(rows: Tensor, random: torch.Generator) -> Tensor:
        drawn = torch.randint(config.takes, (len(rows),), generator=random).tolist()
        chosen = [takes[take][row] for take, row in zip(drawn, rows.tolist(), strict=True)]
        return torch.cat([sounds.draw(mels, config.windows, random) for mels in chosen]).float()[:, None]

    def held() -> Tensor:
        random = torch.Generator().manual_seed(config.schedule.seed)
        some = voices.read(data, "develop")[:HELD]
        return front(
            torch.cat([sounds.draw(sounds.contexts(sounds.load(clip.path)), 1, random) for clip in some])
        )

    def put(encoder: nn.Module) -> Trained:
        voice = copy.deepcopy(given.voice)
        voice.encoder = cast(VoiceEncoder, encoder)
        return dataclasses.replace(given, voice=voice)

    material = Material(batches, steps, draw, _token_and_features, _Alone(given.voice), held)
    feeds = bundle.voice_feeds(data, config.schedule.seed)
    return _finetuned("voice", given.voice.encoder, put, feeds, material, folder, config)


def _finetuned(
    name: str,
    encoder: nn.Module,
    put: Callable[[nn.Module], Trained],
    feeds: Feeds,
    material: Material,
    folder: Path,
    config: Config,
) -> tuple[Trained, Table]:
    """Measure the graph of an encoder, fine-tune the encoder and measure its new graph."""
    items = list(feeds)
    folded = fold_batch_norms(copy.deepcopy(encoder).eval())
    with tempfile.TemporaryDirectory() as work:

        def write(encoder: nn.Module) -> Path:
            parts = copy.deepcopy(put(encoder))
            return bundle.write_encoder(Path(work), name, bundle.encoders_of(parts)[name])

        source = write(folded)
        table = measure(source, items, method="percentile")
        unsigned = unsigned_of(onnx.load(source), table)
        fake = finetune(folded, table, unsigned, material, folder, config)
        found, table = graph_of(fake, write, items)
    table.write(folder / TABLE)
    return put(found), table


class _Alone(nn.Module):
    """Answers by single contexts."""

    def __init__(self, model: VoiceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[N, D]`` to logits ``[N, K]``."""
        return self.model.classify(tokens[:, None])


def _token_and_features(encoder: nn.Module, mel: Tensor) -> tuple[Tensor, ...]:
    assert isinstance(encoder, VoiceEncoder)
    features = encoder.pooled(mel)
    return encoder.project(features), features


def _batches(count: int, batch: int) -> tuple[Callable[[torch.Generator], Iterable[Tensor]], int]:
    """Whole batches of rows in a new order each epoch, and their number."""
    size = min(batch, count)
    steps = count // size

    def batches(random: torch.Generator) -> Iterable[Tensor]:
        return torch.randperm(count, generator=random)[: steps * size].split(size)

    return batches, steps
