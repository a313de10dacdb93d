from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeemo.errors import BackendError
from edgeemo.inference import graph
from edgeemo.inference.graph import FeedCheck, check_feeds
from edgeemo.inference.spec import GraphSpec, TensorSpec

SPEC = GraphSpec(
    "fusion",
    "fuse",
    1,
    {
        "tokens": TensorSpec("tokens", "float32", ("N", 5, 4)),
        "mask": TensorSpec("mask", "float32", ("N", 5)),
    },
    {},
    {},
)


def feeds(**changes: Any) -> dict[str, Any]:
    return {"tokens": np.zeros((2, 5, 4), np.float32), "mask": np.zeros((2, 5), np.float32)} | changes


@pytest.mark.parametrize("count", [1, 2, 16])
def test_any_size_for_a_symbol(count: int) -> None:
    check_feeds(
        SPEC, {"mask": np.zeros((count, 5), np.float32), "tokens": np.zeros((count, 5, 4), np.float32)}
    )


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "input names are none; they must be tokens, mask"),
        (feeds(other=np.zeros(1)), "input names are tokens, mask, other; they must be tokens, mask"),
        (feeds(mask=[[1.0] * 5] * 2), "'mask' is list; it must be an array, float32 [N, 5]"),
        (feeds(mask=np.zeros((2, 5))), "'mask' is float64 [2, 5]; it must be float32 [N, 5]"),
        (feeds(mask=np.zeros((2, 5), ">f4")), "'mask' is >f4 [2, 5]"),  # bytes the other way round
        (feeds(mask=np.zeros(5, np.float32)), "'mask' is float32 [5]; it must be float32 [N, 5]"),
        (feeds(mask=np.zeros((2, 6), np.float32)), "'mask' is float32 [2, 6]"),
        (
            feeds(mask=np.zeros((3, 5), np.float32)),
            "'mask' is float32 [3, 5]; it must be float32 [N, 5], N = 2",
        ),
        (feeds(tokens=np.zeros((0, 5, 4), np.float32)), "'tokens' is float32 [0, 5, 4]"),  # no track, no call
    ],
)
def test_wrong_feeds(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(BackendError) as caught:
        check_feeds(SPEC, given)
    assert str(caught.value).startswith("graph 'fusion': input ")
    assert wrong in str(caught.value)


def test_feeds_that_were_right_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def look(spec: GraphSpec, given: Any) -> None:
        looked.append(given)
        check_feeds(spec, given)

    monkeypatch.setattr(graph, "check_feeds", look)
    check = FeedCheck(SPEC)
    for count in (1, 2, 1, 2, 1):
        check({"tokens": np.zeros((count, 5, 4), np.float32), "mask": np.zeros((count, 5), np.float32)})
    assert len(looked) == 2
    for _ in range(2):  # what was wrong stays wrong
        with pytest.raises(BackendError, match=r"'mask' is float32 \[3, 5\]"):
            check(feeds(mask=np.zeros((3, 5), np.float32)))
    with pytest.raises(BackendError, match="'mask' is list"):
        check(feeds(mask=[[1.0] * 5] * 2))
