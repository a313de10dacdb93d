from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeemo.errors import InputError
from edgeemo_export.data.degrade import blurred, noisy, occluded


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("decibels", [-6.0, 0.0, 20.0])
@pytest.mark.parametrize("level", [1e-3, 0.9])
def test_noise_is_in_exactly_that_ratio(decibels: float, level: float) -> None:
    samples = level * torch.sin(torch.arange(16000) / 7)
    noise = noisy(samples, seeded(), decibels) - samples
    ratio = 10 * torch.log10(samples.double().square().mean() / noise.double().square().mean())
    assert ratio == pytest.approx(decibels, abs=1e-3)


def test_noise_is_white_and_drawn() -> None:
    samples = torch.full((20000,), 0.1)
    noise = noisy(samples, seeded()) - samples
    halves = torch.fft.rfft(noise).abs().square().split(5000)[:2]
    assert float(halves[0].mean() / halves[1].mean()) == pytest.approx(1.0, abs=0.06)
    again = noisy(samples, seeded())
    assert torch.equal(again, samples + noise)
    assert not torch.equal(again, noisy(samples, torch.Generator().manual_seed(1)))


def test_silence_has_no_ratio() -> None:
    with pytest.raises(InputError, match="all are zero"):
        noisy(torch.zeros(100), seeded())


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    images = np.zeros((2, 49, 49), np.uint8)
    images[1] = 90
    images[0, 24, 24] = 255
    images[0, 20:29, 20:29] = 200
    made = blurred(images, 3.0)
    assert made.shape == images.shape and made.dtype == np.uint8
    assert (made[1] == 90).all()  # what is even stays so, borders too
    assert made[0].astype(int).sum() == pytest.approx(images[0].astype(int).sum(), rel=0.02)
    rows = np.arange(49) - 24.0
    mass = made[0].sum(axis=1) / made[0].sum()
    before = images[0].sum(axis=1) / images[0].sum()
    assert (mass * rows**2).sum() - (before * rows**2).sum() == pytest.approx(9.0, rel=0.05)


@pytest.mark.parametrize(("side", "share"), [(48, 1 / 3), (48, 0.1), (33, 0.5), (20, 1.0)])
def test_occlusion_covers_its_share(side: int, share: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, side, side), dtype=np.uint8)
    made = occluded(images, seeded(), share)
    places = set()
    for before, after in zip(images, made, strict=True):
        changed = before != after
        rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
        box = after[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert len(set(box.flat)) == 1  # one level, nothing outside of it
        assert box.size / side**2 == pytest.approx(share, abs=0.5 / side + 1e-9)
        places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 20 or share == 1.0
    assert np.array_equal(occluded(images, seeded(), share), made)


def test_no_picture_is_changed_in_place() -> None:
    images = np.full((3, 48, 48), 7, np.uint8)
    occluded(images, seeded())
    blurred(images)
    assert (images == 7).all()
    assert occluded(images[:0], seeded()).shape == blurred(images[:0]).shape == (0, 48, 48)
