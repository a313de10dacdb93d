"""Sound on the rate and in the form that the voice graphs take."""

from __future__ import annotations

from math import ceil, gcd
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeemo.errors import InputError, shown

_LOWEST, _HIGHEST = 4000, 192000  # samples per second
_MOST_CHANNELS = 32
_ATTENUATION = 60.0  # dB beyond half of the lower rate
_CROSSINGS = 72  # zero crossings of the sinc on each side of its centre, where the delay allows
_MOST_DELAY = 0.0045  # seconds: at 16 kHz the passband reaches 7.6 kHz
_MOST_WEIGHTS = 1 << 19  # weights of one exact block: 4 MiB; beyond it the phases are interpolated
_PHASES = 256  # interpolated between linearly: an error of at most (pi / 256)^2 / 8, -94 dB
_PIECE = 1 << 16  # samples that are worked on at once, so that an hour in one call needs little memory
_GATHERED = 1 << 15  # weights that the interpolated way works on at once: what a cache holds


def to_mono(samples: ArrayLike) -> NDArray[np.float32]:
    """Mono float32 of what microphones, files and other packages give.

    Args:
        samples: Shape (n,) or (n, channels): floating point with full scale at 1, or int16, int32 or uint8
            (silence at 128), which are scaled to [-1, 1). Channels are averaged.

    Returns:
        Shape (n,); the array itself where it is mono float32 already.

    Raises:
        InputError: Another type or shape, or values that are not finite.

    Example:
        >>> to_mono(np.array([[16384, -16384], [16384, 16384]], np.int16)).tolist()
        [0.0, 0.5]
    """
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise InputError(f"samples are no array ({error}): give (n,) or (n, channels)") from error
    if array.ndim not in (1, 2):
        raise InputError(f"samples have shape {array.shape}: give (n,) or (n, channels)")
    if array.ndim == 2 and not 1 <= array.shape[1] <= _MOST_CHANNELS:
        raise InputError(
            f"samples have shape {array.shape}: give (n, channels) with 1 to {_MOST_CHANNELS} channels; "
            "transpose (channels, n)"
        )
    scaled = _scaled(array)
    if not np.isfinite(scaled).all():
        raise InputError("samples hold NaN or infinity: give finite numbers")
    if scaled.ndim == 1:
        return scaled
    return scaled[:, 0] if scaled.shape[1] == 1 else scaled.mean(axis=1, dtype=np.float32)


def _scaled(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused
            return array.astype(np.float32, copy=False)
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 128.0 - 1.0
    if array.dtype in (np.int16, np.int32):
        return array.astype(np.float32) / float(1 << (8 * array.dtype.itemsize - 1))
    raise InputError(f"samples are {array.dtype}: give floating point, int16, int32 or uint8")


class Resampler:
    """Changes the rate of a stream of mono sound that comes in chunks of any size.

    Output sample n belongs to the time n / target_rate, needs no input after that time and is given out as
    soon as the input has reached it; how the input is cut changes nothing. It is the input of `delay` seconds
    earlier, low-passed to half of the lower of the two rates: y[n] = sum over m of x[m] h(n / target_rate -
    m / source_rate), where h is a sinc under a Kaiser window (Oppenheim and Schafer, Discrete-Time Signal
    Processing, section 7.5). Before the first sample the input is taken as silent.

    Args:
        source_rate: Samples per second of the input, 4000 to 192000.
        target_rate: Samples per second of the output, likewise. Equal rates pass sound through unchanged.

    Attributes:
        delay: Seconds, below 0.005.

    Raises:
        InputError: A rate that is not an integer or out of range.

    Example:
        >>> resampler = Resampler(48000, 16000)
        >>> [len(resampler.push(np.zeros(4, np.float32))) for _ in range(3)]
        [2, 1, 1]
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        source, target = _checked_rate(source_rate), _checked_rate(target_rate)
        common = gcd(source, target)
        # Output sample n is at input sample n * down / up.
        self._up, self._down = target // common, source // common
        self._same = source == target
        self.delay = 0.0 if self._same else min(_CROSSINGS / min(source, target), _MOST_DELAY)
        self._source = source
        self._cutoff = _cutoff(min(source, target), self.delay) if not self._same else 0.0
        self._taps = int(2 * self.delay * source) + 1
        # Outputs after which the phases repeat, for about as long as the filter: few of the weights are 0.
        repeats = ceil(self._taps / self._down)
        self._block_out, self._block_in = repeats * self._up, repeats * self._down
        self._width = self._taps - 1 + self._block_in
        self._exact = self._block_out * self._width <= _MOST_WEIGHTS
        self._weights = np.empty(0) if self._same or self._exact else self._phases()
        self._groups = self._grouped(self._block()) if self._exact and not self._same else []
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next sample is the first."""
        # Input sample 0 of the counting below is behind `taps - 1` older ones in the buffer.
        self._buffer = np.zeros(self._taps - 1)
        # Where the next output is, in input samples times `up`, which makes it an integer.
        self._next = 0
        self._made: list[NDArray[np.float32]] = []

    def push(self, samples: ArrayLike) -> NDArray[np.float32]:
        """Take the next chunk, mono or not, and give what it completes, float32 of shape (n,).

        Raises:
            InputError: What `to_mono` refuses; the stream goes on as if it had not been pushed.
        """
        self.take(samples)
        return self.give()

    def take(self, samples: ArrayLike) -> int:
        """Take the next chunk, and tell how many samples it completes; `give` makes them.

        Five chunks that are given at once cost a third of five that are pushed.

        Raises:
            InputError: What `to_mono` refuses; the stream goes on as if it had not been taken.
        """
        mono, before = to_mono(samples), self._ready()
        for start in range(0, len(mono), _PIECE):
            self._buffer = np.concatenate((self._buffer, mono[start : start + _PIECE]))
            if len(self._buffer) > _PIECE + self._width:
                self._made.append(self._make())
        return self._ready() - before

    def give(self) -> NDArray[np.float32]:
        """All that was completed since the last call, float32 of shape (n,)."""
        made, self._made = [*self._made, self._make()], []
        return np.concatenate(made) if len(made) > 1 else made[0]

    def _ready(self) -> int:
        """Samples that are complete and were not given."""
        return sum(map(len, self._made)) + self._complete()

    def _complete(self) -> int:
        """Samples that the buffer completes."""
        return max(ceil((self._received() * self._up - self._next) / self._down), 0)

    def _received(self) -> int:
        return len(self._buffer) - (self._taps - 1)

    def _make(self) -> NDArray[np.float32]:
        if self._same:
            made, self._buffer = self._buffer, self._buffer[:0]
            return made.astype(np.float32)
        count = self._complete()
        if not count:
            return np.zeros(0, np.float32)
        made = self._make_exact(count) if self._exact else self._make_interpolated(count)
        self._next += count * self._down
        # The exact way always starts at a block, the other one anywhere.
        unit = self._block_in if self._exact else 1
        used = min(self._next // self._up, self._received()) // unit * unit
        self._buffer = self._buffer[used:]
        self._next -= used * self._up
        # Sums are in double precision: their order depends on the chunks, and rounding to single hides it.
        return made.astype(np.float32)

    def _make_exact(self, count: int) -> NDArray[np.float64]:
        begin = self._next // self._down
        rows = ceil((begin + count) / self._block_out)
        padded = np.zeros(self._taps - 1 + rows * self._block_in)
        known = min(len(self._buffer), len(padded))
        padded[:known] = self._buffer[:known]
        windows = np.lib.stride_tricks.sliding_window_view(padded, self._width)[:: self._block_in]
        blocks = np.empty((rows, self._block_out))
        for inputs, outputs, weights in self._groups:
            # Overlapping rows are copied first: BLAS takes none.
            blocks[:, outputs] = np.ascontiguousarray(windows[:, inputs]) @ weights
        return blocks.reshape(-1)[begin : begin + count]

    def _make_interpolated(self, count: int) -> NDArray[np.float64]:
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer, self._taps)
        made = np.empty(count)
        step = max(_GATHERED // self._taps, 1)
        for first in range(0, count, step):
            outputs = slice(first, min(first + step, count))
            numbers = np.arange(outputs.start, outputs.stop)
            whole, part = np.divmod(self._next + numbers * self._down, self._up)
            rest, phase = np.modf(part * (_PHASES / self._up))
            index = phase.astype(np.intp)
            weights = self._weights[index]
            weights += rest[:, None] * (self._weights[index + 1] - weights)
            made[outputs] = np.einsum("ij,ij->i", windows[whole], weights)
        return made

    def _block(self) -> NDArray[np.float64]:
        """Weights of the inputs of one block, shape (width, block_out)."""
        positions = np.arange(self._block_out) * self._down / self._up
        ages = positions[None, :] - (np.arange(self._width) - (self._taps - 1))[:, None]
        weights = self._kernel(ages)
        return np.ascontiguousarray(weights / weights.sum(axis=0))

    def _grouped(self, block: NDArray[np.float64]) -> list[tuple[slice, slice, NDArray[np.float64]]]:
        """Neighbouring outputs with the inputs that they need: half of a block's weights are 0 otherwise."""
        groups = []
        for numbers in np.array_split(np.arange(self._block_out), max(1, 2 * self._block_in // self._taps)):
            first, last = int(numbers[0]), int(numbers[-1])
            # A weight at the very end of the support may be one input further, by rounding.
            oldest = max(first * self._down // self._up - 1, 0)
            newest = last * self._down // self._up + self._taps + 1
            inputs, outputs = slice(oldest, min(newest, self._width)), slice(first, last + 1)
            groups.append((inputs, outputs, np.ascontiguousarray(block[inputs, outputs])))
        return groups

    def _phases(self) -> NDArray[np.float64]:
        """Weights of the inputs of one output per phase, oldest input first, shape (phases + 1, taps)."""
        ages = np.arange(_PHASES + 1)[:, None] / _PHASES + np.arange(self._taps - 1, -1, -1)[None, :]
        weights = self._kernel(ages)
        return np.ascontiguousarray(weights / weights.sum(axis=1, keepdims=True))

    def _kernel(self, ages: NDArray[np.float64]) -> NDArray[np.float64]:
        """The impulse response at ages in input samples, zero outside of its support."""
        offset = ages / self._source - self.delay
        within = np.abs(offset) <= self.delay
        # The Bessel function is dear, and most of a block lies outside.
        inner = offset[within]
        window = np.i0(_beta() * np.sqrt(np.clip(1.0 - (inner / self.delay) ** 2, 0.0, None)))
        response = np.zeros(ages.shape)
        response[within] = np.sinc(2.0 * self._cutoff * inner) * window
        return response


def _checked_rate(rate: int) -> int:
    whole = isinstance(rate, (int, np.integer)) and not isinstance(rate, bool)
    if not whole or not _LOWEST <= rate <= _HIGHEST:
        raise InputError(f"sample rate {shown(rate)}: give an integer from {_LOWEST} to {_HIGHEST}")
    return int(rate)


def _beta() -> float:
    # Kaiser's formula for attenuations above 50 dB.
    return 0.1102 * (_ATTENUATION - 8.7)


def _cutoff(lower_rate: int, delay: float) -> float:
    """The middle of the transition band in Hz, so that the band ends at half of the lower rate."""
    # Kaiser: attenuation - 7.95 = 2.285 * width in radians per sample * order; order / rate = 2 * delay.
    width = (_ATTENUATION - 7.95) / (2.285 * 2.0 * np.pi * 2.0 * delay)
    return lower_rate / 2.0 - float(width) / 2.0
