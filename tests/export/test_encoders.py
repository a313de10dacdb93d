from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgeemo.capture.clip import read_sound
from edgeemo_export.encoders import face as face_encoders
from edgeemo_export.encoders import voice as voice_encoders
from edgeemo_export.encoders.face import FaceEncoder, FaceFrontEnd
from edgeemo_export.encoders.fold import fold_batch_norms
from edgeemo_export.encoders.residual import ResidualBlock, Size, stem, trunk
from edgeemo_export.encoders.voice import AttentivePool, LogMel, VoiceEncoder, mel_filters

RATE = 16000
FLOOR, SCALE, SHIFT = 1e-3, 0.22, 0.2  # of the log-mel: trained weights hold for these alone
Enliven = Callable[..., nn.Module]


def vowel(seed: int, level: float = 0.1) -> NDArray[np.float64]:
    """One second of a gliding voice with formants, pauses and a little noise."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE) / RATE
    pitch = 120 + 60 * seed + 40 * np.sin(2 * np.pi * 1.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = np.zeros(RATE)
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        formants = sum(np.exp(-(((frequency - centre) / 200) ** 2)) for centre in (600, 1300, 2500))
        sound += (formants + 0.02) * np.sin(harmonic * phase)
    sound *= np.clip(np.sin(2 * np.pi * 2 * time), 0, None)
    sound += 0.001 * random.standard_normal(RATE)
    return level * sound / np.sqrt(np.mean(sound**2))


def reference_log_mel(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """[bands, frames] by numpy's FFT and interpolation, in double precision."""
    even = sound / (np.mean(sound**2) + 1e-7) ** 0.375
    frames = np.lib.stride_tricks.sliding_window_view(even, 400)[::240]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:-1], 512)) ** 2
    low, high = (1127.0 * np.log1p(hertz / 700) for hertz in (50, 7600))
    edges = 700 * np.expm1(np.linspace(low, high, 66) / 1127.0)
    bins = np.fft.rfftfreq(512, 1 / RATE)
    filters = np.stack([np.interp(bins, edges[i : i + 3], [0, 1, 0]) for i in range(64)])
    return np.asarray(SCALE * np.log(filters @ power.T + FLOOR) + SHIFT)


def picture(seed: int, size: int = 48) -> NDArray[np.float32]:
    """Smooth grey levels with mean 120 and deviation 40."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(random.standard_normal((size, size)))
    spectrum[6:-6], spectrum[:, 6:] = 0, 0
    smooth = np.fft.irfft2(spectrum, (size, size))
    return ((smooth - smooth.mean()) / smooth.std() * 40 + 120).astype(np.float32)


def faces(count: int = 4) -> torch.Tensor:
    stacked = np.stack([picture(seed) for seed in range(count)])
    return torch.from_numpy(stacked.clip(0, 255).round().astype(np.uint8))[..., None]


def voices(count: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.stack([vowel(seed) for seed in range(count)])).float()


# The front end of the voice


@pytest.mark.parametrize("level", [0.5, 0.1, 0.001], ids=["loud", "usual", "at the silence threshold"])
@pytest.mark.parametrize("seed", [0, 1])
def test_log_mel_equals_an_fft(seed: int, level: float) -> None:
    sound = vowel(seed, level)
    made = LogMel(stored=torch.float32)(torch.from_numpy(sound).float()[None])
    assert made.shape == (1, 1, 64, 66)
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made[0, 0].numpy(), reference_log_mel(sound), atol=1e-3)


@pytest.mark.parametrize("level", [0.5, 0.001], ids=["loud", "at the silence threshold"])
def test_tables_stored_in_half_are_exact_where_there_is_sound(level: float) -> None:
    sound = vowel(0, level)
    made = LogMel()(torch.from_numpy(sound).float()[None])[0, 0].numpy()
    reference = reference_log_mel(sound)
    assert made.dtype == np.float32
    loud = reference > reference.max() - SCALE * math.log(1e5)  # 50 dB below the loudest
    assert 0.2 < loud.mean() < 0.9
    np.testing.assert_allclose(made[loud], reference[loud], atol=0.02)
    assert np.abs(made - reference).max() < 0.1


def test_log_mel_of_a_recording_equals_an_fft(data: Path) -> None:
    samples, rate = read_sound(sorted(data.glob("emodb/*.flac"))[0])
    assert rate == RATE
    second = samples[:RATE].astype(np.float64)
    made = LogMel(stored=torch.float32)(torch.from_numpy(second).float()[None])[0, 0]
    reference = reference_log_mel(second)
    assert reference.std() > 0.3  # it is speech, not silence at the floor
    np.testing.assert_allclose(made.numpy(), reference, atol=1e-3)


@pytest.mark.parametrize("gain", [0.1, 4.0])
def test_three_quarters_of_the_level_are_taken_away(gain: float) -> None:
    # Far above the floor a band follows a quarter of the gain's decibels: 0.25 ln(gain) in amplitude,
    # twice that in energy.
    sound = torch.from_numpy(vowel(0, 0.1)).float()[None]
    front = LogMel()
    before, after = front(sound), front(gain * sound)
    loud = before > SCALE * math.log(1e4 * FLOOR) + SHIFT
    assert loud.sum() > 100
    change = (after - before)[loud]
    np.testing.assert_allclose(change.numpy(), SCALE * 2 * 0.25 * math.log(gain), atol=2e-3)


def test_silence_lies_at_the_floor() -> None:
    made = LogMel()(torch.zeros(1, RATE))
    np.testing.assert_allclose(made.numpy(), SCALE * math.log(FLOOR) + SHIFT, rtol=1e-5)


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_is_loudest_in_its_band(hertz: float) -> None:
    mel = np.linspace(*(2595 * np.log10(1 + edge / 700) for edge in (50, 7600)), 66)
    centres = 700 * (10 ** (mel[1:-1] / 2595) - 1)
    tone = 0.1 * torch.sin(2 * math.pi * hertz * torch.arange(RATE) / RATE)
    loudest = LogMel()(tone[None])[0, 0].mean(dim=1).argmax().item()
    # A bin is 31 Hz, wider than half of the lowest bands.
    assert abs(loudest - np.abs(centres - hertz).argmin()) <= 1


def test_mel_filters() -> None:
    filters = mel_filters(64, 257, RATE, 50.0, 7600.0).double().numpy()
    bins = np.linspace(0, 8000, 257)
    assert filters.shape == (64, 257)
    assert filters.min() == 0.0 and filters.max() <= 1.0
    assert (filters.max(axis=1) > 0).all()  # no band is deaf
    assert not filters[:, (bins <= 50) | (bins >= 7600)].any()
    centroids = filters @ bins / filters.sum(axis=1)
    assert (np.diff(centroids) > 0).all()
    # Neighbours share their edges, so between the first and the last centre the triangles add up to one.
    mel = 2595 * np.log10(1 + bins / 700)
    step = (2595 * np.log10((1 + 7600 / 700) / (1 + 50 / 700))) / 65
    low = 2595 * np.log10(1 + 50 / 700)
    between = (mel >= low + step) & (mel <= low + 64 * step)
    assert between.sum() > 200
    np.testing.assert_allclose(filters.sum(axis=0)[between], 1.0, atol=1e-6)


def test_mel_filters_reach_one_where_bins_are_fine() -> None:
    peaks = mel_filters(8, 100_001, RATE, 50.0, 7600.0).amax(dim=1)
    np.testing.assert_allclose(peaks.numpy(), 1.0, atol=1e-3)


# The front end of the face


@pytest.mark.parametrize(
    ("gain", "offset", "tolerance"),
    [
        (1.0, 60.0, 1e-5),
        (1.0, -40.0, 1e-5),
        # The noise floor of 4 grey levels leaves a trace of the gain.
        (0.5, 0.0, 0.05),
        (2.0, -100.0, 0.05),
    ],
)
def test_light_and_contrast_cancel(gain: float, offset: float, tolerance: float) -> None:
    level = torch.from_numpy(picture(0))[None, :, :, None]
    front = FaceFrontEnd()
    expected, found = front(level), front(gain * level + offset)
    assert expected.std() > 0.9
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=tolerance)


def test_front_end_standardises_each_picture_alone() -> None:
    crops = faces(3)
    x = crops[..., 0].double()
    mean = x.mean(dim=(1, 2), keepdim=True)
    deviation = ((x - mean).square().mean(dim=(1, 2), keepdim=True) + 16).sqrt()
    made = FaceFrontEnd()(crops)
    assert made.shape == (3, 1, 48, 48)
    np.testing.assert_allclose(made[:, 0].numpy(), ((x - mean) / deviation).numpy(), atol=1e-5)


def test_noise_of_a_blank_picture_stays_small() -> None:
    noise = torch.randint(99, 102, (1, 48, 48, 1), generator=torch.Generator().manual_seed(0))
    assert 0.0 < FaceFrontEnd()(noise.to(torch.uint8)).std() < 0.25
    assert not FaceFrontEnd()(torch.full((1, 48, 48, 1), 7, dtype=torch.uint8)).any()


# Both encoders


@pytest.mark.parametrize(("encoder", "inputs"), [(FaceEncoder, faces), (VoiceEncoder, voices)])
@pytest.mark.parametrize("width", [128, 16])
def test_tokens(
    encoder: type[nn.Module], inputs: Callable[[], torch.Tensor], width: int, enliven: Enliven
) -> None:
    x = inputs()
    with torch.no_grad():
        tokens = enliven(encoder(width))(x)
    assert tokens.shape == (len(x), width)
    assert tokens.dtype == torch.float32
    assert tokens.isfinite().all() and (tokens >= 0).all() and (tokens > 0).any()
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-2)  # it sees its input


@pytest.mark.parametrize(("encoder", "inputs"), [(FaceEncoder, faces), (VoiceEncoder, voices)])
def test_permuting_the_batch_permutes_tokens(
    encoder: type[nn.Module], inputs: Callable[[], torch.Tensor], enliven: Enliven
) -> None:
    model, x, order = enliven(encoder()), inputs(), [2, 0, 3, 1]
    with torch.no_grad():
        tokens = model(x)
        torch.testing.assert_close(model(x[order]), tokens[order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(x[1:2]), tokens[1:2], atol=1e-5, rtol=1e-5)  # rows are apart


def test_uint8_and_float_crops_agree(enliven: Enliven) -> None:
    model, crops = enliven(FaceEncoder()), faces()
    with torch.no_grad():
        assert torch.equal(model(crops), model(crops.float()))


@pytest.mark.parametrize(("encoder", "inputs"), [(FaceEncoder, faces), (VoiceEncoder, voices)])
def test_folding_leaves_tokens_equal(
    encoder: type[nn.Module], inputs: Callable[[], torch.Tensor], enliven: Enliven
) -> None:
    model, x = enliven(encoder()), inputs()
    assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    with torch.no_grad():
        before = model(x)
        folded = fold_batch_norms(model)
        assert folded is model
        torch.testing.assert_close(folded(x), before, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in folded.modules())
    # Weights stay where they were, so that a graph's initialisers are still named after the trunk.
    assert sum(name.startswith("trunk.") for name in folded.state_dict()) > 10


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "size"),
    [(4, 4, 1, (8, 6)), (4, 6, 1, (8, 6)), (4, 4, 2, (4, 3)), (4, 6, (2, 1), (4, 6))],
    ids=["identity", "wider", "strided", "strided in one axis"],
)
def test_residual_block(
    inputs: int, outputs: int, stride: int | tuple[int, int], size: tuple[int, int], enliven: Enliven
) -> None:
    block = enliven(ResidualBlock(inputs, outputs, stride))
    x = torch.randn(2, inputs, 8, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = block(x)
        assert before.shape == (2, outputs, *size)
        torch.testing.assert_close(fold_batch_norms(block)(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(5, 6), nn.BatchNorm1d(6)],
        [nn.BatchNorm1d(5), nn.Linear(5, 6)],
        [nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU()],
        [nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU()],
        [nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), nn.ReLU(), nn.Linear(4, 2)],
    ],
    ids=["behind a linear layer", "before one", "around one", "behind a convolution", "inside"],
)
def test_folding_into_the_neighbour(layers: list[nn.Module], enliven: Enliven) -> None:
    model = enliven(nn.Sequential(*layers))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)
        torch.testing.assert_close(fold_batch_norms(model)(x), before, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in model.modules())


def test_new_residual_block_is_its_skip_path() -> None:
    block = ResidualBlock(3, 3).eval()
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(block(x), x.relu())


def test_trunk_has_the_widths_blocks_and_strides_asked_for() -> None:
    net = trunk(Size((4, 6, 8), (1, 3)), [1, (2, 2)])
    blocks = [part for part in net if isinstance(part, ResidualBlock)]
    assert [block.conv1.out_channels for block in blocks] == [6, 8, 8, 8]
    assert all(a.conv2.out_channels == b.conv1.in_channels for a, b in pairwise(blocks))
    with torch.no_grad():
        assert net.eval()(stem(4, (2, 1)).eval()(torch.zeros(1, 1, 16, 16))).shape == (1, 8, 4, 8)


def test_a_trunk_can_end_squeezed() -> None:
    size = Size((4, 6), (1,), squeezed=3)
    assert size.channels == 3 and Size((4, 6), (1,)).channels == 6
    with torch.no_grad():
        made = trunk(size, [2]).eval()(torch.randn(1, 4, 8, 8))
    assert made.shape == (1, 3, 4, 4) and made.min() >= 0.0


@pytest.mark.parametrize("size", sorted(face_encoders.SIZES))
def test_every_size_of_a_face_gives_tokens(size: str) -> None:
    with torch.no_grad():
        assert FaceEncoder(16, size).eval()(faces(2)).shape == (2, 16)


@pytest.mark.parametrize("size", sorted(voice_encoders.SIZES))
def test_every_size_of_a_voice_gives_tokens(size: str) -> None:
    with torch.no_grad():
        assert VoiceEncoder(16, size).eval()(voices(2)).shape == (2, 16)


# Attentive pooling


def test_equal_attention_pools_to_mean_and_deviation() -> None:
    pool = AttentivePool(5)
    nn.init.zeros_(pool.score.weight)
    x = np.random.default_rng(0).standard_normal((2, 9, 5)).astype(np.float32)
    with torch.no_grad():
        made = pool(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(made[:, :5], x.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(made[:, 5:], np.sqrt(x.var(axis=1) + 1e-4), atol=1e-5)


def test_attention_is_a_softmax_of_scores(enliven: Enliven) -> None:
    pool = enliven(AttentivePool(5, hidden=3))
    assert isinstance(pool, AttentivePool)
    x = np.random.default_rng(0).standard_normal((1, 4, 5))
    hidden = np.tanh(x[0] @ pool.hidden.weight.detach().numpy().T + pool.hidden.bias.detach().numpy())
    weight = np.exp(hidden @ pool.score.weight.detach().numpy()[0])
    mean = (weight / weight.sum()) @ x[0]
    assert np.abs(mean - x[0].mean(axis=0)).max() > 0.05
    with torch.no_grad():
        np.testing.assert_allclose(pool(torch.from_numpy(x).float())[0, :5].numpy(), mean, atol=1e-5)


def test_pooling_with_a_mask_is_pooling_of_what_it_leaves(enliven: Enliven) -> None:
    pool = enliven(AttentivePool(5))
    x = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 0.0]])
    x[:, 5] = 300.0
    with torch.no_grad():
        torch.testing.assert_close(pool(x, mask), pool(x[:, [1, 2, 4]]), atol=1e-6, rtol=1e-6)


def test_pooling_nothing_says_the_same_whatever_is_masked(enliven: Enliven) -> None:
    pool = enliven(AttentivePool(5))
    x = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made, other = pool(x, torch.zeros(1, 6)), pool(10 * x + 3, torch.zeros(1, 6))
    assert torch.equal(made, other)
    assert not made[:, :5].any()
    assert (made[:, 5:] <= 0.01 + 1e-6).all()
