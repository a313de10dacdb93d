"""What every alignment owes, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgeemo_export import to_onnx
from edgeemo_export.alignment import (
    AVEL,
    BY_NAME,
    CCC,
    CORAL,
    DANN,
    IDA,
    LMMD,
    MEM,
    MMD,
    Alignment,
    GranularIDA,
    Side,
)
from edgeemo_export.encoders.voice import VoiceEncoder

WIDTH, CLASSES = 6, 3
GROUPS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


class Matcher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Bilinear(WIDTH, WIDTH, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.score(a, b)[:, 0]  # type: ignore[no-any-return]


EVERY: dict[str, Callable[[], Alignment]] = {
    "coral": CORAL,
    "mmd": MMD,
    "lmmd": LMMD,
    "dann": lambda: DANN(WIDTH, hidden=8),
    "ida": IDA,
    "ida within": lambda: IDA(within=True),
    "granular-ida": lambda: GranularIDA(GROUPS),
    "avel": AVEL,
    "mem": lambda: MEM(Matcher()),
    "ccc": CCC,
}
LEARNT = {"dann": 6, "avel": 1, "mem": 2}  # parameters that the alignment itself brings

NEED_TWO = ("coral", "lmmd", "ida within", "avel", "mem", "ccc")  # samples of a side, or of a class

every = pytest.mark.parametrize("name", EVERY)


def make(name: str) -> Alignment:
    torch.manual_seed(0)
    return EVERY[name]()


def draw(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def one_hot(*labels: int) -> Tensor:
    return nn.functional.one_hot(torch.tensor(labels, dtype=torch.long), CLASSES).float()


def sides(name: str, n: int = 8, m: int = 5) -> tuple[Side, Side]:
    """An ordinary batch: all classes, more samples of the first side unless they are pairs."""
    m = n if EVERY[name]().paired else m
    labels = one_hot(*(i % CLASSES for i in range(max(n, m))))
    return Side(draw(n), labels[:n]), Side(0.7 * draw(m, seed=1) + 0.3, labels[:m])


def leaves(value: Tensor) -> set[int]:
    """The ids of the leaves that a graph ends in."""
    found, stack, seen = set(), [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack += [one for one, _ in node.next_functions]
    return found


def test_by_name_has_the_losses_between_two_corpora() -> None:
    assert set(BY_NAME) == {"coral", "mmd", "lmmd", "dann", "ida", "granular-ida"}
    given: dict[str, tuple[object, ...]] = {"dann": (WIDTH,), "granular-ida": (GROUPS,)}
    for name, build in BY_NAME.items():
        alignment = build(*given.get(name, ()))
        assert isinstance(alignment, Alignment)
        assert torch.isfinite(alignment(*sides(name)))


@every
def test_it_is_a_scalar_above_zero(name: str) -> None:
    value = make(name)(*sides(name))
    assert value.shape == () and value.dtype == torch.float32 and value.item() > 1e-4


@every
def test_every_parameter_is_returned_and_gets_a_gradient(name: str) -> None:
    alignment, (first, second) = make(name), sides(name)
    for side in (first, second):
        side.features.requires_grad_()
    value = alignment(first, second)
    parameters = list(alignment.parameters())
    assert len(parameters) == LEARNT.get(name, 0)
    # Whatever the loss depends on and could be learnt is either a feature or a parameter.
    assert leaves(value) == {id(one) for one in (first.features, second.features, *parameters)}
    value.backward()
    for leaf in (first.features, second.features, *parameters):
        assert leaf.grad is not None
        # A shift of all logits, the bias of the last layer, is neutral where the sides are balanced.
        assert leaf.grad.any() or leaf.shape == (1,)


@every
def test_the_order_of_a_batch_does_not_matter(name: str) -> None:
    alignment, (first, second) = make(name), sides(name)
    orders = [
        torch.randperm(len(side), generator=torch.Generator().manual_seed(3)) for side in (first, second)
    ]
    if alignment.paired:
        orders[1] = orders[0]
    moved = [
        Side(side.features[order], side.given_labels()[order])
        for side, order in zip((first, second), orders, strict=True)
    ]
    torch.testing.assert_close(alignment(*moved), alignment(first, second), rtol=1e-4, atol=1e-6)


@every
def test_masked_rows_do_not_matter(name: str) -> None:
    alignment, (first, second) = make(name), sides(name)
    filled = []
    for side in (first, second):
        junk = torch.full((3, WIDTH), torch.nan)
        mask = torch.cat([torch.ones(len(side)), torch.zeros(3)])
        labels = torch.cat([side.given_labels(), one_hot(0, 1, 2)])
        filled.append(Side(torch.cat([side.features, junk]).requires_grad_(), labels, mask))
    value = alignment(*filled)
    torch.testing.assert_close(value, alignment(first, second), rtol=1e-4, atol=1e-6)
    value.backward()
    for side in filled:
        assert side.features.grad is not None and not side.features.grad[-3:].any()


def _batch(n: int, m: int, labels: tuple[Tensor, Tensor] | None = None) -> tuple[Side, Side]:
    one, other = labels or (
        one_hot(*(i % CLASSES for i in range(n))),
        one_hot(*((i + 1) % CLASSES for i in range(m))),
    )
    return Side(draw(n), one), Side(draw(m, seed=1), other)


def _masked(first: Tensor, second: Tensor) -> tuple[Side, Side]:
    one, other = _batch(len(first), len(second))
    return Side(one.features, one.labels, first), Side(other.features, other.labels, second)


def _constant(value: float, second: float | None = None) -> tuple[Side, Side]:
    labels = one_hot(0, 1, 2, 0)
    other = value if second is None else second
    return Side(torch.full((4, WIDTH), value), labels), Side(torch.full((4, WIDTH), other), labels)


def _identical() -> tuple[Side, Side]:
    side = Side(draw(5), one_hot(0, 1, 2, 0, 1))
    return side, Side(side.features.clone(), side.labels)


DEGENERATE: dict[str, Callable[[], tuple[Side, Side]]] = {
    "one sample each": lambda: _batch(1, 1),
    "one sample each, one label": lambda: _batch(1, 1, (one_hot(1), one_hot(1))),
    "one class": lambda: _batch(4, 4, (one_hot(1, 1, 1, 1), one_hot(1, 1, 1, 1))),
    "one class, another on the other side": lambda: _batch(3, 3, (one_hot(1, 1, 1), one_hot(2, 2, 2))),
    "no labels": lambda: _batch(3, 3, (torch.zeros(3, CLASSES), torch.zeros(3, CLASSES))),
    "soft labels that are all alike": lambda: _batch(
        3, 3, (torch.full((3, CLASSES), 1 / 3), torch.full((3, CLASSES), 1 / 3))
    ),
    "empty": lambda: _batch(0, 0),
    "nothing counts": lambda: _masked(torch.zeros(4), torch.zeros(4)),
    "nothing counts on the first side": lambda: _masked(torch.zeros(4), torch.ones(4)),
    "nothing counts on the second side": lambda: _masked(torch.ones(4), torch.zeros(4)),
    "one counts": lambda: _masked(torch.tensor([0, 1, 0, 0]), torch.tensor([0, 1, 0, 0])),
    "zeros": lambda: _constant(0.0),
    "tiny": lambda: _constant(1e-30),
    "constant": lambda: _constant(0.1),
    "great": lambda: _constant(1e4),
    "two constants": lambda: _constant(0.1, -3.0),
    "one side of zeros": lambda: _constant(0.0, 1.0),
    "identical": _identical,
    "far apart": lambda: (_batch(4, 4)[0], Side(draw(4) + 1e5, one_hot(0, 1, 2, 0))),
    "half": lambda: (
        Side(draw(4).half(), one_hot(0, 1, 2, 0).half()),
        Side(draw(4, seed=1).half(), one_hot(0, 1, 2, 0).half()),
    ),
}
UNEQUAL: dict[str, Callable[[], tuple[Side, Side]]] = {
    "one against many": lambda: _batch(1, 6),
    "many against one": lambda: _batch(6, 1),
    "none against many": lambda: _batch(0, 6),
    "many against none": lambda: _batch(6, 0),
}
CASES = [(name, case) for name in EVERY for case in DEGENERATE] + [
    (name, case) for name in EVERY if not EVERY[name]().paired for case in UNEQUAL
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_degenerate_batches_are_finite_with_finite_gradients(name: str, case: str) -> None:
    alignment, (first, second) = make(name), (DEGENERATE | UNEQUAL)[case]()
    for side in (first, second):
        side.features.requires_grad_()
    value = alignment(first, second)
    assert value.shape == () and torch.isfinite(value)
    value.backward()
    for leaf in (first.features, second.features, *alignment.parameters()):
        # Data-parallel training waits for each, so a gradient of zero is not the same as none.
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize(
    ("name", "n"),
    [*((name, 0) for name in EVERY), *((name, 1) for name in NEED_TWO)],
)
def test_without_samples_to_compare_it_is_zero(name: str, n: int) -> None:
    labels = (one_hot(*[0] * n), one_hot(*[1] * n))
    assert make(name)(*_batch(n, n, labels)).item() == 0.0


@every
def test_autocast_changes_nothing(name: str) -> None:
    alignment, given = make(name), sides(name)
    with torch.autocast("cpu", torch.bfloat16):
        value = alignment(*given)
    assert value.dtype == torch.float32
    assert torch.equal(value, alignment(*given))


@every
def test_features_of_autocast_are_taken(name: str) -> None:
    alignment, (first, second) = make(name), sides(name)
    layer = nn.Linear(WIDTH, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        halves = [Side(layer(side.features), side.labels) for side in (first, second)]
        assert halves[0].features.dtype == torch.bfloat16
        value = alignment(*halves)
    value.backward()
    assert value.dtype == torch.float32 and layer.weight.grad is not None


@every
def test_float64_stays(name: str) -> None:
    given = [Side(side.features.double(), side.given_labels()) for side in sides(name)]
    value = make(name).double()(*given)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value.float(), make(name)(*sides(name)), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", EVERY.keys() - {"granular-ida"})  # its terms are those of IDA
def test_it_follows_the_device_of_its_input(name: str) -> None:
    # What mixes in a tensor of the default device, or reads a value back to the host, fails on this one.
    first, second = (Side(one.features.to("meta"), one.given_labels().to("meta")) for one in sides(name))
    value = make(name).to("meta").loss(first, second)
    assert value.device.type == "meta" and value.shape == ()


@pytest.mark.gpu
@every
def test_a_gpu_computes_the_same(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    given = [Side(side.features.cuda(), side.given_labels().cuda()) for side in sides(name)]
    with torch.autocast("cuda", torch.float16):
        value = make(name).cuda()(*given)
    assert value.device.type == "cuda" and value.dtype == torch.float32
    torch.testing.assert_close(value.cpu(), make(name)(*sides(name)), rtol=1e-3, atol=1e-5)


# What is exported


class Trained(nn.Module):
    """A model as it is trained: an encoder and the alignments that its loss uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VoiceEncoder(width=WIDTH)
        self.alignments = nn.ModuleList(
            [DANN(WIDTH, hidden=8), AVEL(), MEM(Matcher()), GranularIDA(GROUPS), LMMD()]
        )

    def loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        one, other = Side(self.encoder(first), labels), Side(self.encoder(second), labels)
        return torch.stack([alignment(one, other) for alignment in self.alignments]).sum()


def test_no_alignment_is_in_an_exported_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Trained()
    voices = 0.1 * torch.randn(2, 4, VoiceEncoder.context)
    descent = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.loss(voices[0], voices[1], one_hot(0, 1, 2, 0)).backward()
    descent.step()
    to_onnx.write(model.encoder, {"voice": voices[0, :1]}, ["tokens"], tmp_path / "voice.onnx")
    graph = onnx.load(tmp_path / "voice.onnx").graph
    held = {one.name: onnx.numpy_helper.to_array(one).ravel().tolist() for one in graph.initializer}
    assert held.keys() & model.encoder.state_dict().keys()
    foreign = model.alignments.state_dict()
    for name, value in foreign.items():
        kept = name.partition(".")[2]  # without its place in the list
        assert not [one for one in held if one.endswith(kept) or "align" in one]
        assert value.ravel().tolist() not in held.values()
    # No operator that only a loss or a reversed gradient brings, and nothing of a second side.
    assert not {node.op_type for node in graph.node} & {"Softplus", "ArgMax", "Bilinear", "Einsum", "Exp"}
    assert [one.name for one in graph.input] == ["voice"] and [one.name for one in graph.output] == ["tokens"]
