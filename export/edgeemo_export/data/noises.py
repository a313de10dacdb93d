"""Sounds that nobody speaks in, made from random numbers alone: machines, weather, beeps and music.

Nothing is recorded, so nothing here has a licence, and a kind can be kept for testing alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from ..encoders.voice import SAMPLE_RATE
from . import sounds

Maker: TypeAlias = Callable[[int, torch.Generator], Tensor]


def make(kind: str, count: int, random: torch.Generator) -> Tensor:
    """A noise of one kind, ``[count]``, with a root mean square of 1.

    Args:
        kind: one of `KINDS`.
        count: samples at 16 kHz, at least 1.
        random: source of every draw.

    Example:
        >>> round(float(make("fan", 16000, torch.Generator().manual_seed(0)).square().mean()), 3)
        1.0
    """
    return _even(KINDS[kind](count, random))


def scene(kinds: Sequence[str], count: int, random: torch.Generator) -> Tensor:
    """One noise or two of them, in a room or without one, of a microphone's colour: root mean square 1.

    Args:
        kinds: from which one is drawn, or two with a chance of 0.3.
        count: samples.
        random: source of every draw.
    """
    draw = torch.rand(4, generator=random)
    x = make(_drawn(kinds, random), count, random)
    if draw[0] < 0.3:
        x = x + _decibels(-12.0 * float(draw[1])) * make(_drawn(kinds, random), count, random)
    if draw[2] < 0.4:
        x = sounds.room(x, random)
    if draw[3] < 0.5:
        x = sounds.tilt(x, random)
    return _even(x)


def at_level(x: Tensor, random: torch.Generator, lowest: float = -50.0, highest: float = -12.0) -> Tensor:
    """A noise of root mean square 1 at a level drawn between two in dB of full scale, where it is clipped."""
    level = lowest + (highest - lowest) * float(torch.rand((), generator=random))
    return (x * _decibels(level)).clamp(-1.0, 1.0)


def add(speech: Tensor, noise: Tensor, ratio: float, spoken: Tensor) -> Tensor:
    """Speech with a noise, so far below the level that it has where it is spoken.

    Args:
        speech: ``[n]``.
        noise: ``[n]``, of root mean square 1.
        ratio: signal-to-noise ratio in dB.
        spoken: which samples are spoken, bool ``[n]``; all count where none is.

    Returns:
        ``[n]``, turned down as a whole where it would leave [-1, 1].
    """
    part = speech[spoken] if bool(spoken.any()) else speech
    x = speech + noise * part.square().mean().sqrt() * _decibels(-ratio)
    return x / x.abs().max().clamp(min=1.0)


def _decibels(level: float) -> float:
    return float(10.0 ** (level / 20.0))


def _drawn(kinds: Sequence[str], random: torch.Generator) -> str:
    return kinds[int(torch.randint(len(kinds), (), generator=random))]


def _even(x: Tensor) -> Tensor:
    return x / x.square().mean().sqrt().clamp(min=1e-9)


def _between(low: float, high: float, random: torch.Generator) -> float:
    """A number between two, evenly on a scale of ratios, as pitches and rates are heard."""
    return low * (high / low) ** float(torch.rand((), generator=random))


def _time(count: int) -> Tensor:
    return torch.arange(count) / SAMPLE_RATE


def _shaped(count: int, random: torch.Generator, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """White noise behind a filter, given as the gain at each frequency in hertz; root mean square 1."""
    spectrum = torch.fft.rfft(torch.randn(count, generator=random))
    frequencies = torch.linspace(0.0, SAMPLE_RATE / 2, len(spectrum))
    return _even(torch.fft.irfft(spectrum * gain(frequencies), count))


def _falling(power: float) -> Maker:
    return lambda count, random: _shaped(count, random, lambda f: (f + 20.0) ** -power)


def _wander(count: int, random: torch.Generator, rate: float) -> Tensor:
    """A slow random course within about [-1, 1] that turns some ``rate`` times a second."""
    points = max(4, math.ceil(count / SAMPLE_RATE * rate) + 3)
    course = torch.randn(1, 1, points, generator=random).clamp(-2.0, 2.0) / 2.0
    return torch.nn.functional.interpolate(course, size=count, mode="linear", align_corners=True)[0, 0]


def _harmonics(pitch: Tensor, powers: Tensor, random: torch.Generator) -> Tensor:
    """Harmonics of a pitch in hertz ``[n]`` with these amplitudes, those below half of the rate alone."""
    phase = 2.0 * math.pi * (pitch.double() / SAMPLE_RATE).cumsum(0)
    highest = float(pitch.max())
    x = torch.zeros(len(pitch), dtype=torch.float64)
    for place, power in enumerate(powers.tolist(), start=1):
        if place * highest < SAMPLE_RATE / 2:
            x += power * torch.sin(place * phase + 2.0 * math.pi * float(torch.rand((), generator=random)))
    return x.float()


def _hum(count: int, random: torch.Generator) -> Tensor:
    """The mains: 50 or 60 Hz, harmonics that fall, a little hiss."""
    mains = 50.0 if torch.rand((), generator=random) < 0.5 else 60.0
    fall = torch.arange(1, 25).float() ** -_between(0.3, 1.5, random)
    tones = _even(_harmonics(torch.full((count,), mains), torch.rand(24, generator=random) * fall, random))
    return tones + _between(0.01, 0.3, random) * torch.randn(count, generator=random)


def _fan(count: int, random: torch.Generator) -> Tensor:
    """A band of air, swelling with each turn, and the tone of the blades."""
    centre, width = _between(150.0, 3000.0, random), _between(0.5, 2.0, random)
    air = _shaped(count, random, lambda f: torch.exp(-((f.clamp(min=10.0) / centre).log2() / width).square()))
    turns, depth = _between(1.5, 30.0, random), 0.8 * float(torch.rand((), generator=random))
    swell = 1.0 + depth * torch.sin(2.0 * math.pi * turns * _time(count))
    blades = torch.full((count,), _between(60.0, 400.0, random))
    tones = _even(_harmonics(blades, torch.arange(1, 6).float().reciprocal(), random))
    return air * swell + _between(0.02, 0.6, random) * tones


def _bursts(count: int, random: torch.Generator) -> Tensor:
    """Scraping, breathing, a hand at the microphone: bands of noise that come and go as syllables do."""
    centre = _between(200.0, 5000.0, random)
    air = _shaped(count, random, lambda f: torch.exp(-((f.clamp(min=10.0) / centre).log2()).square()))
    return air * (_wander(count, random, _between(1.0, 12.0, random)) * 3.0).exp()


def _clicks(count: int, random: torch.Generator) -> Tensor:
    """Keys, steps and dishes: short resonances at random times over a faint hiss."""
    return _hits(
        count, random, rate=_between(1.0, 15.0, random), low=400.0, high=6000.0, seconds=(0.002, 0.03)
    )


def _hits(
    count: int,
    random: torch.Generator,
    rate: float,
    low: float,
    high: float,
    seconds: tuple[float, float],
    hiss: float = 0.003,
) -> Tensor:
    x = hiss * torch.randn(count, generator=random)
    for _ in range(max(1, round(rate * count / SAMPLE_RATE))):
        start = int(torch.randint(count, (), generator=random))
        decay = _between(*seconds, random)
        time = _time(min(count - start, int(7.0 * decay * SAMPLE_RATE) + 1))
        tone = torch.sin(2.0 * math.pi * _between(low, high, random) * time)
        x[start : start + len(time)] += _between(0.1, 1.0, random) * tone * torch.exp(-time / decay)
    return x


def _beeps(count: int, random: torch.Generator) -> Tensor:
    """An appliance's signal: one tone or two in turn, switched on and off."""
    period, share = _between(0.15, 1.5, random), 0.2 + 0.7 * float(torch.rand((), generator=random))
    first, second = _between(300.0, 3500.0, random), _between(300.0, 3500.0, random)
    turn = _time(count) / period + float(torch.rand((), generator=random))
    pitch = torch.where(
        turn.long() % 2 == 0, first, second if torch.rand((), generator=random) < 0.4 else first
    )
    tone = _harmonics(pitch, torch.tensor([1.0, 0.3, 0.1]) * torch.rand(3, generator=random), random)
    return _even(tone * (turn % 1.0 < share)) + 0.01 * torch.randn(count, generator=random)


def _melody(count: int, random: torch.Generator) -> Tensor:
    """Plucked or held notes of a scale, up to three parts."""
    x = 0.003 * torch.randn(count, generator=random)
    for _ in range(1 + int(torch.randint(3, (), generator=random))):
        lowest, length = _between(80.0, 500.0, random), _between(0.12, 0.8, random)
        powers = torch.arange(1, 9).float() ** -_between(0.7, 2.0, random)
        start, decay = 0, _between(0.1, 2.0, random)
        while start < count:
            lasts = min(
                count - start, int(length * SAMPLE_RATE * (1 + int(torch.randint(3, (), generator=random))))
            )
            step = int(torch.randint(13, (), generator=random))
            note = _harmonics(torch.full((lasts,), lowest * 2.0 ** (step / 12.0)), powers, random)
            x[start : start + lasts] += note * torch.exp(-_time(lasts) / decay)
            start += lasts
    return x


def _motor(count: int, random: torch.Generator) -> Tensor:
    """A vacuum cleaner or a drill: rushing air and many harmonics of a speed that wanders."""
    turns = _between(80.0, 450.0, random)
    speed = turns * (1.0 + 0.1 * _wander(count, random, 2.0))
    tones = _even(_harmonics(speed, torch.rand(30, generator=random), random))
    air = _shaped(count, random, lambda f: (f + 500.0) ** -0.6)
    return tones + _between(0.5, 3.0, random) * air


def _siren(count: int, random: torch.Generator) -> Tensor:
    """A tone with harmonics that sweeps up and down."""
    middle, rate = _between(400.0, 1500.0, random), _between(0.2, 3.0, random)
    sweep = torch.sin(2.0 * math.pi * (rate * _time(count) + float(torch.rand((), generator=random))))
    tone = _harmonics(middle * 2.0 ** (0.5 * sweep), torch.tensor([1.0, 0.4, 0.2, 0.1]), random)
    return _even(tone) + 0.03 * torch.randn(count, generator=random)


def _rain(count: int, random: torch.Generator) -> Tensor:
    """Drops, hundreds a second, over a rush of high frequencies."""
    rush = _shaped(count, random, lambda f: f / (f + 3000.0))
    rate = _between(50.0, 400.0, random)
    drops = _even(_hits(count, random, rate=rate, low=1000.0, high=7000.0, seconds=(0.0005, 0.004)))
    return drops + _between(0.1, 1.5, random) * rush


def _bells(count: int, random: torch.Generator) -> Tensor:
    """Chimes and dishes: partials that are no harmonics, ringing long."""
    return _hits(count, random, rate=_between(3.0, 25.0, random), low=300.0, high=5000.0, seconds=(0.1, 0.8))


KINDS: Mapping[str, Maker] = MappingProxyType(
    {
        "white": _falling(0.0),
        "pink": _falling(0.5),
        "brown": _falling(1.0),
        "hum": _hum,
        "fan": _fan,
        "bursts": _bursts,
        "clicks": _clicks,
        "beeps": _beeps,
        "melody": _melody,
        "motor": _motor,
        "siren": _siren,
        "rain": _rain,
        "bells": _bells,
    }
)
"""Every kind, by its name."""

HELD = ("motor", "siren", "rain", "bells")
"""Kinds for testing alone."""

LEARNT = tuple(kind for kind in KINDS if kind not in HELD)
"""Kinds to learn from."""
