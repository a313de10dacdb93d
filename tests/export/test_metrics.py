from __future__ import annotations

import pytest
import torch

from edgeemo_export.metrics import accuracies, temperature


@pytest.mark.parametrize(
    ("predicted", "truth", "wa", "ua"),
    [
        ([0, 1, 2], [0, 1, 2], 1.0, 1.0),
        ([1, 2, 0], [0, 1, 2], 0.0, 0.0),
        # Recalls 3/4, 1/1 and 0/1; label 5 is answered but not present, so it has no recall.
        ([0, 0, 0, 5, 1, 0], [0, 0, 0, 0, 1, 2], 4 / 6, (3 / 4 + 1 + 0) / 3),
        # Everything is called the frequent class: WA flatters, UA does not.
        ([4] * 10, [4] * 9 + [6], 0.9, 0.5),
    ],
)
def test_accuracies(predicted: list[int], truth: list[int], wa: float, ua: float) -> None:
    found = accuracies(torch.tensor(predicted), torch.tensor(truth))
    assert found == {"wa": pytest.approx(wa), "ua": pytest.approx(ua)}


@pytest.mark.parametrize("known", [0.5, 1.0, 1.7, 4.0])
def test_temperature_is_recovered(known: float) -> None:
    random = torch.Generator().manual_seed(0)
    calibrated = 1.5 * torch.randn(5000, 7, generator=random)
    truth = torch.multinomial(calibrated.softmax(1), 1, generator=random)[:, 0]
    assert temperature(known * calibrated, truth) == pytest.approx(known, rel=0.06)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ([0, 0, 0], 1 / 16),  # always right: the surer the better
        ([1, 1, 1], 8.0),  # always wrong: the less sure the better
    ],
)
def test_temperature_stays_within_its_range(truth: list[int], expected: float) -> None:
    logits = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    assert temperature(logits, torch.tensor(truth)) == pytest.approx(expected)
