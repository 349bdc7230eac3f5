"""PyTorch tensors. Skipped where it is not installed: it is large, and no dependency."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import theus

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def engine() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


def some() -> Any:
    return torch.arange(6.0).reshape(2, 3)


def augmented(h: Any) -> None:
    h.x += 1


WRITES: dict[str, Callable[[Any], Any]] = {
    "item": lambda h: h.x.__setitem__((0, 1), 9),
    "slice": lambda h: h.x.__setitem__(slice(0, 1), 9),
    "part": lambda h: h.x[0].add_(5),
    "view": lambda h: h.x.view(-1)[1:].mul_(2),
    "+=": augmented,
    "part +=": lambda h: h.x[0].__iadd__(1),
    "method": lambda h: h.x.add_(1),
    "data": lambda h: h.x.data.fill_(5),
    "detach": lambda h: h.x.detach().zero_(),
    "out": lambda h: torch.add(h.x, 1, out=h.x),
    "numpy": lambda h: h.x.numpy().__setitem__((0, 1), 9),
    "get_shadow": lambda h: h.transaction.get_shadow("x").add_(1),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_commits_and_a_snapshot_refuses_it(name: str, engine: theus.Engine) -> None:
    engine.write("x", some())

    class Plain:
        x = some()

        class transaction:  # noqa: N801
            get_shadow = staticmethod(lambda path: Plain.x)

    WRITES[name](Plain)
    wanted = Plain.x
    with engine.snapshot() as ctx:
        with pytest.raises((theus.ReadOnlyError, ValueError)):
            WRITES[name](ctx)
        assert torch.equal(theus.plain(ctx.x), some())
    with pytest.raises(ZeroDivisionError):
        with engine.transaction() as ctx:
            WRITES[name](ctx)
            raise ZeroDivisionError
    assert torch.equal(theus.plain(engine.state["x"]), some())
    with engine.transaction() as ctx:
        WRITES[name](ctx)
    assert torch.equal(theus.plain(engine.state["x"]), wanted) and not torch.equal(wanted, some())


def test_reading_writes_nothing(engine: theus.Engine) -> None:
    engine.write("x", some())
    version = engine.version
    with engine.transaction() as ctx:
        assert ctx.x.sum().item() == 15 and ctx.x[0, 1].item() == 1 and ctx.x.shape == (2, 3)
        assert torch.equal(torch.ones(2, 3) + ctx.x, some() + 1)
        assert torch.cat([ctx.x, ctx.x]).shape == (4, 3) and len(ctx.x) == 2
        assert not np.asarray(ctx.x).flags.writeable
        # Its C++ would take what says to be a tensor apart.
        assert not isinstance(ctx.x, torch.Tensor)
    assert engine.version == version


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_dtypes_and_shapes(dtype: Any, shape: tuple[int, ...], engine: theus.Engine) -> None:
    tensor = torch.ones(shape).to(dtype)
    engine.write("x", {"inside": [tensor, tensor.t() if tensor.dim() == 2 else tensor]})
    found = theus.plain(engine.state["x"])["inside"]
    for one, other in zip(
        found, [tensor, tensor.t() if tensor.dim() == 2 else tensor], strict=True
    ):
        assert one.dtype == dtype and one.shape == other.shape and torch.equal(one, other)


def test_modules_and_gradients(engine: theus.Engine) -> None:
    model = torch.nn.Linear(2, 1)
    engine.write("x", {"model": model, "weights": theus.leaf(dict(model.state_dict()))})
    assert torch.equal(theus.plain(engine.state["x"])["weights"]["weight"], model.weight)
    with engine.transaction() as ctx:
        with torch.no_grad():
            ctx.x.model.weight.add_(1)
    assert torch.equal(theus.plain(engine.state["x"]["model"]).weight, model.weight + 1)
    assert theus.plain(engine.state["x"]["model"]).weight.requires_grad


def private_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def test_reading_copies_nothing(engine: theus.Engine) -> None:
    """PyTorch has no read-only tensors: what is read is one's own, a page at a time."""
    size = 16 << 20
    engine.write("t", torch.ones(size // 4))
    reads: dict[str, Callable[[], Any]] = {
        "read": lambda: engine.read("t"),
        "plain": lambda: theus.plain(engine.state["t"]),
        "snapshot": lambda: engine.state["t"][3].item(),
        "transaction": lambda: engine.run(lambda ctx: ctx.t.sum().item()),
    }
    for read in reads.values():
        read()
    for name, read in reads.items():
        before = private_bytes()
        kept = read()
        assert private_bytes() - before < size / 4, name
        del kept
    mine = engine.read("t")
    mine[5] = 7
    assert mine.sum().item() == size / 4 + 6
    assert engine.read("t").sum().item() == size / 4
    with engine.transaction() as ctx:
        before = private_bytes()
        ctx.t[5] = 7
        assert private_bytes() - before < size / 4
    assert torch.equal(engine.read("t"), mine)
    engine.write("t", None)
