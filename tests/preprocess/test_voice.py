from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeemo.errors import InputError
from edgeemo.preprocess.voice import Resampler, to_mono

RATES = [
    (48000, 16000),
    (44100, 16000),
    (22050, 16000),
    (22051, 16000),  # coprime up to 1: phases are interpolated
    (11025, 16000),
    (4000, 16000),
    (8000, 16000),
    (191999, 16000),
    (192000, 16000),
    (16000, 48000),
    (16000, 4000),
]


def sine(frequency: float, rate: int, seconds: float = 0.2) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def fit(samples: np.ndarray, frequency: float, rate: int) -> tuple[float, float]:
    """The amplitude of a tone in samples and the RMS of everything else."""
    phase = 2 * np.pi * frequency * np.arange(len(samples)) / rate
    basis = np.stack([np.cos(phase), np.sin(phase)], axis=1)
    weights = np.linalg.lstsq(basis, samples.astype(np.float64), rcond=None)[0]
    return float(np.hypot(*weights)), float(np.std(samples - basis @ weights))


def decibels(ratio: float) -> float:
    return 20 * math.log10(max(ratio, 1e-12))


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.37])
def test_tones_below_the_limit_pass(source: int, target: int, share: float) -> None:
    frequency = share * min(source, target)
    out = Resampler(source, target).push(sine(frequency, source))[int(0.02 * target) :]
    amplitude, rest = fit(out, frequency, target)
    assert decibels(amplitude) == pytest.approx(0, abs=0.1)
    assert decibels(rest) < -55  # images and interpolation


@pytest.mark.parametrize(("source", "target"), [rates for rates in RATES if rates[0] > rates[1]])
@pytest.mark.parametrize("share", [0.501, 0.53, 0.6, 0.9, 1.0])
def test_tones_above_the_limit_do_not_come_back(source: int, target: int, share: float) -> None:
    frequency = share * target
    if frequency >= source / 2:
        pytest.skip("the input cannot hold this tone")
    out = Resampler(source, target).push(sine(frequency, source))[int(0.02 * target) :]
    assert decibels(math.sqrt(2) * float(np.std(out))) < -50


@pytest.mark.parametrize(("source", "target"), [*RATES, (16000, 16000)])
def test_chunks_do_not_matter(source: int, target: int) -> None:
    random = np.random.default_rng(0)
    samples = random.uniform(-1, 1, source // 5).astype(np.float32)
    whole = Resampler(source, target).push(samples)
    resampler = Resampler(source, target)
    cuts = np.sort(random.integers(0, len(samples), 60))
    parts = [resampler.push(part) for part in np.split(samples, cuts)]
    parts += [resampler.push(samples[:0])]
    assert np.abs(np.concatenate(parts) - whole).max() <= 1e-7
    resampler.reset()
    assert np.abs(resampler.push(samples) - whole).max() <= 1e-7


@pytest.mark.parametrize(("source", "target"), [*RATES, (16000, 16000)])
def test_what_is_taken_is_given_later(source: int, target: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, source // 5).astype(np.float32)
    whole = Resampler(source, target).push(samples)
    resampler = Resampler(source, target)
    assert resampler.give().shape == (0,)
    parts, counts = [], []
    for place, part in enumerate(np.array_split(samples, 11)):
        counts.append(resampler.take(part))
        if place % 3 == 2:
            parts.append(resampler.give())
            assert len(parts[-1]) == sum(counts[-3:])
    parts.append(resampler.give())
    assert sum(counts) == len(whole)
    assert np.abs(np.concatenate(parts) - whole).max() <= 1e-7


def test_samples_one_by_one_and_an_hour_at_once_agree() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 150_000).astype(np.float32)  # more than one piece
    whole = Resampler(44100, 16000).push(samples)
    resampler = Resampler(44100, 16000)
    single = np.concatenate([resampler.push(samples[k : k + 1]) for k in range(2000)])
    assert np.abs(single - whole[: len(single)]).max() <= 1e-7
    assert len(single) == math.ceil(2000 * 16000 / 44100)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_output_needs_no_later_input_and_does_not_wait(source: int, target: int) -> None:
    random = np.random.default_rng(0)
    first, later = random.uniform(-1, 1, (2, source // 10)).astype(np.float32)
    resampler = Resampler(source, target)
    out = resampler.push(first)
    # Output k is at k / target, which the input has reached when its last sample is not before it.
    assert len(out) == math.ceil(len(first) * target / source)
    joined = Resampler(source, target).push(np.concatenate((first, later)))
    assert np.abs(joined[: len(out)] - out).max() <= 1e-7


@pytest.mark.parametrize(("source", "target"), RATES)
def test_the_delay_is_constant_and_short(source: int, target: int) -> None:
    resampler = Resampler(source, target)
    assert 0 < resampler.delay < 0.005
    times = np.arange(source // 2) / source
    pulse = np.exp(-(((times - 0.2) / 0.002) ** 2)).astype(np.float32)
    out = resampler.push(pulse)
    centre = float((np.arange(len(out)) * out).sum() / out.sum()) / target
    assert centre - 0.2 == pytest.approx(resampler.delay, abs=1e-5)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_constant_stays_what_it_is(source: int, target: int) -> None:
    out = Resampler(source, target).push(np.full(source // 10, 0.5, np.float32))
    assert np.abs(out[int(0.01 * target) :] - 0.5).max() < 1e-4


def test_equal_rates_pass_through() -> None:
    samples = np.array([0.1, -0.2], np.float32)
    resampler = Resampler(16000, 16000)
    assert resampler.push(samples).tolist() == samples.tolist()
    assert resampler.delay == 0


@pytest.mark.parametrize("rate", [191999, 127997, 4001, 100003])
def test_tables_and_buffers_are_bounded(rate: int) -> None:
    resampler = Resampler(rate, 16000)
    for _ in range(20):
        resampler.push(np.zeros(rate // 10, np.float32))
    held = sum(value.nbytes for value in vars(resampler).values() if isinstance(value, np.ndarray))
    assert held < 8 << 20


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (3999, 16000),
        (192001, 16000),
        (16000, 0),
        (-16000, 16000),
        (44100.0, 16000),
        ("48000", 16000),
        (True, 1),
    ],
)
def test_rates_that_are_refused(source: Any, target: Any) -> None:
    with pytest.raises(InputError, match="give an integer from 4000 to 192000"):
        Resampler(source, target)


def test_a_refusal_shows_no_samples() -> None:
    with pytest.raises(InputError, match=r"^sample rate ndarray: give an integer"):
        Resampler(np.full(3, 0.25), 16000)  # type: ignore[arg-type]


def test_an_error_leaves_the_stream_as_it_was() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 4800).astype(np.float32)
    resampler = Resampler(48000, 16000)
    first = resampler.push(samples[:1000])
    with pytest.raises(InputError):
        resampler.push(np.array([np.nan], np.float32))
    joined = np.concatenate((first, resampler.push(samples[1000:])))
    assert np.abs(joined - Resampler(48000, 16000).push(samples)).max() <= 1e-7


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0.5, -0.5], np.float32), [0.5, -0.5]),
        (np.array([0.5, -0.5], np.float64), [0.5, -0.5]),
        (np.array([0.5, -0.5], np.float16), [0.5, -0.5]),
        ([0.5, -0.5], [0.5, -0.5]),
        (np.array([-32768, 16384], np.int16), [-1.0, 0.5]),
        (np.array([-(2**31), 2**30], np.int32), [-1.0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1.0, 0.0, 0.5]),
        (np.array([[0.5, 0.0], [1.0, -1.0]]), [0.25, 0.0]),
        (np.array([[0.5], [1.0]]), [0.5, 1.0]),
        (np.array([[16384, 0, 16384, 0]], np.int16), [0.25]),
        (np.array([0.25, 9, 0.5], np.float32)[::2], [0.25, 0.5]),  # not contiguous
        (np.zeros(0, np.float32), []),
        (np.zeros((0, 2), np.int16), []),
    ],
)
def test_what_is_made_mono(samples: Any, expected: list[float]) -> None:
    mono = to_mono(samples)
    assert (mono.dtype, mono.ndim) == (np.float32, 1)
    assert mono.tolist() == expected


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.float32(0.5), "shape"),
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.zeros((5, 0), np.float32), "channels"),
        (np.zeros((2, 16000), np.float32), "transpose"),
        (np.array([0.0, np.nan], np.float32), "finite"),
        (np.array([0.0, np.inf]), "finite"),
        (np.array([1e300]), "finite"),  # beyond float32
        (np.zeros(3, np.int64), "int16, int32 or uint8"),
        (np.zeros(3, np.uint16), "int16, int32 or uint8"),
        (np.zeros(3, bool), "int16, int32 or uint8"),
        (np.zeros(3, complex), "int16, int32 or uint8"),
        ("sound", "shape"),
        (None, "shape"),
        (["a", "b"], "int16, int32 or uint8"),
    ],
)
def test_samples_that_are_refused(samples: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        to_mono(samples)


def test_ragged_lists_are_refused() -> None:
    with pytest.raises(InputError):
        to_mono([[0.1, 0.2], [0.3]])


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000, 192000])
def test_no_weight_is_left_out_where_outputs_are_grouped(rate: int) -> None:
    resampler = Resampler(rate, 16000)
    if not resampler._exact:
        pytest.skip("its weights are interpolated")
    block = resampler._block()
    grouped = np.zeros_like(block)
    for inputs, outputs, weights in resampler._groups:
        grouped[inputs, outputs] = weights
    assert np.array_equal(grouped, block)
