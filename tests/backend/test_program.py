"""Played steps against the same steps replayed from Python: the same bits, for everything that the engine can do."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from twostroke import MLP, Dataset, TrainConfig
from twostroke.backend import Steps
from twostroke.backend.cpu import player, program
from twostroke.backend.cpu.backend import NumpyBackend
from twostroke.backend.cpu.library import PRODUCT_FLOAT, ROWWISE, Products, library
from twostroke.backend.cpu.player import Player
from twostroke.backend.cpu.program import Program, Unplayable
from twostroke.backend.tape import Tape
from twostroke.engine.batches import batch_bounds
from twostroke.engine.epoch import Epoch
from twostroke.engine.kernels import ACTIVATIONS, LOSSES
from twostroke.engine.metrics import Running
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.step import TrainingStep
from twostroke.engine.training import TrainingRun, make_optimizer

pytestmark = pytest.mark.skipif(library().native is None, reason=f"nothing is played here: {library().reason}")

SAMPLES = 70
NETWORKS = [
    (loss, output, activation) for loss in LOSSES for output in LOSSES[loss] for activation in ACTIVATIONS
]  # fmt: skip


def strictly(tape: Tape) -> Callable[[], None]:
    """Played, or an error."""
    native = library().native
    assert native is not None
    return Program(tape, native.play).run


class Unused(Exception):
    """Raised in place of what a test does not want used."""


def after_two_epochs(how: str, net: MLP, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What training leaves behind, ``how``: "played" by the library or an error, or "replayed" from Python."""

    def refuse(*_: Any) -> Any:
        raise Unplayable("for this test")

    rng, backend = np.random.default_rng(0), NumpyBackend(1)
    size = int(config.batch_size)
    images: Any = rng.integers(0, 256, (SAMPLES, net.layers[0]), dtype=np.uint8)
    if size == 2:
        images = (images / 255).astype(net.dtype)
    labels = rng.integers(0, net.layers[-1], SAMPLES).astype(np.uint8)
    net.to(backend)
    running, bounds = Running(backend, SAMPLES, net.dtype), list(batch_bounds(SAMPLES, size))
    with backend.active(), monkeypatch.context() as patch:
        if how == "replayed":
            patch.setattr(player, "Program", refuse)
        else:
            patch.setattr(player, "Unplayable", Unused)
        rule = make_optimizer(net, config)
        epoch = Epoch(TrainingStep(net, images, labels, rule, size, running), bounds)
        for number in range(2):
            steps = range(number * len(bounds), (number + 1) * len(bounds))
            epoch.begin(rng.permutation(SAMPLES), [rule.numbers(0.05, step + 1, rule.l2) for step in steps])
            epoch.run(0, len(bounds))
    return [array.tobytes() for array in (net.parameters, running.losses, running.predictions)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "output", "activation"), NETWORKS)
def test_every_network_every_optimizer(
    loss: str, output: str, activation: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for (number, optimizer), size in itertools.product(enumerate(OPTIMIZERS), (1, 2, 32)):
        config = TrainConfig(optimizer=optimizer, batch_size=size, l2=0.01 * (number % 2))
        made = partial(MLP, (11, 9, 8, 10), activation, loss, output=output, dtype=dtype)
        played, replayed = (after_two_epochs(how, made(), config, monkeypatch) for how in ("played", "replayed"))
        assert played == replayed, (optimizer, size)


def test_a_call_that_is_not_known_is_replayed() -> None:
    x = np.array([3.0, 1.0, 2.0])
    tape: Tape = [partial(np.add, x, 1.0, out=x), partial(np.ndarray.sort, x)]
    with pytest.raises(Unplayable, match="sort"):
        strictly(tape)
    native = library().native
    assert native is not None
    # The first step gives the tape, the second one runs it.
    captured = Player([Steps(lambda: None, 2)], lambda step: tape, lambda tape: None, native.play)
    captured.run(0, 2)
    assert x.tolist() == [2.0, 3.0, 4.0]


NINE = np.zeros(9)
UNKNOWN: dict[str, Callable[[], Any]] = {
    "a function": lambda: print,
    "into its own input": lambda: partial(np.add, NINE[:-1], 1.0, out=NINE[1:]),
    "no such loop": lambda: partial(np.add, np.zeros(3, np.int16), 1.0, out=np.zeros(3)),
    "a scalar of another type": lambda: partial(np.add.reduce, np.zeros((3, 4)), 1, None, np.zeros(3)),
    "another axis": lambda: partial(np.add.reduce, np.zeros((3, 4), order="F"), 0, None, np.zeros(4)),
    "indices of another type": lambda: partial(
        np.take, np.zeros(3), np.zeros(2, np.int32), axis=0, out=np.zeros(2), mode="clip"
    ),
    "another mode": lambda: partial(np.take, np.zeros(3), np.zeros(2, int), axis=0, out=np.zeros(2), mode="wrap"),
    "no rows to take": lambda: partial(
        np.take, np.zeros((0, 3)), np.zeros(2, int), axis=0, out=np.zeros((2, 3)), mode="clip"
    ),
    "another byte order": lambda: partial(np.add, np.zeros(3, ">f4"), np.zeros(3, "f4"), out=np.zeros(3, "f4")),
    "not aligned": lambda: partial(np.negative, np.zeros(25, np.uint8)[1:].view(np.float64), out=np.zeros(3)),
    "three axes": lambda: partial(np.negative, np.zeros((2, 2, 2)), out=np.zeros((2, 2, 2))),
    "more arguments": lambda: partial(np.add, np.zeros(3), 1.0, out=np.zeros(3), where=np.ones(3, bool)),
    "no output": lambda: partial(np.add, np.zeros(3), 1.0),
    "a reduction with more arguments": lambda: partial(np.add.reduce, np.zeros((3, 4), order="F"), axis=1),
    "another reduction": lambda: partial(np.multiply.reduce, np.zeros((3, 4), order="F"), 1, None, np.zeros(3)),
    "argmax of integers": lambda: partial(np.argmax, np.zeros((3, 4), int), axis=1, out=np.zeros(3, int)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_player_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(Unplayable):
        strictly([UNKNOWN[name]()])


# --- a step on other rows ------------------------------------------------------------------------------------------


def source_step() -> tuple[Player, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """out (30, 5) <- rows of ``source`` (30, 200), scaled and multiplied: captured, and run once."""
    native = library().native
    assert native is not None
    backend, W = NumpyBackend(1), np.random.default_rng(1).random((200, 5), np.float32)
    source, x, out = np.zeros((30, 200), np.uint8), np.zeros((30, 200), np.float32), np.zeros((30, 5), np.float32)

    def step() -> None:
        backend.xp.true_divide(source, np.float32(255), out=x)
        backend.gemm(x, W, out)

    captured = backend.capture([Steps(step, source=source)])
    assert isinstance(captured, Player)
    captured.run_part(0, 0, 1)
    return captured, source, out


@pytest.mark.parametrize("copied", [0, 1 << 30], ids=["in place", "copied"])
def test_a_step_runs_on_other_rows(copied: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bits of those rows in the source; the rows are not written, and the next step reads the source again."""
    monkeypatch.setattr(player, "COPIED", copied)
    captured, source, out = source_step()
    rng = np.random.default_rng(2)
    for layout in ("part of an array", "strides", "read only"):
        rows = rng.integers(0, 256, (33, 200), dtype=np.uint8)[3:]
        if layout == "strides":
            rows = np.asfortranarray(rows)
        elif layout == "read only":
            rows.flags.writeable = False
        before = rows.copy()
        captured.run_on(0, rows)
        found = out.copy()
        assert (rows == before).all()
        source[:] = rows
        captured.run_part(0, 0, 1)
        assert found.tobytes() == out.tobytes()
        source[:] = 0
        captured.run_part(0, 0, 1)
        assert (out == 0).all()


def test_rows_in_place_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player, "COPIED", 0)
    captured, source, out = source_step()
    captured.run_on(0, np.full((30, 200), 255, np.uint8))
    assert not source.any()
    assert (out > 0).all()


def test_a_step_that_writes_its_source_gets_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(player, "COPIED", 0)
    backend, source = NumpyBackend(1), np.zeros((30, 200), np.float32)
    captured = backend.capture([Steps(lambda: backend.xp.add(source, 1, out=source), source=source)])
    captured.run_part(0, 0, 1)
    rows = np.zeros((30, 200), np.float32)
    captured.run_on(0, rows)
    assert not rows.any()
    assert (source == 1).all()


def test_ufuncs_of_another_layout_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(program._UfuncHead):
        _fields_ = (("more", ctypes.c_byte * np.ufunc.__basicsize__),)

    for head in (Longer, type("Moved", (ctypes.Structure,), {"_fields_": program._UfuncHead._fields_[1:]})):
        program._loop.cache_clear()
        monkeypatch.setattr(program, "_UfuncHead", head)
        with pytest.raises(Unplayable, match="lays its ufuncs out in another way"):
            strictly([partial(np.add, NINE, 1.0, out=NINE)])


def test_indices_out_of_range_are_clipped() -> None:
    """As NumPy's mode "clip" does: never memory that is not ours."""
    source, out = np.arange(12.0).reshape(4, 3), np.zeros((5, 3))
    indices = np.array([0, 3, -1, 4, 2**62])
    call = partial(np.take, source, indices, axis=0, out=out, mode="clip")
    call()
    expected = out.copy()
    out[:] = -1
    strictly([call])()
    assert np.array_equal(out, expected)


def test_argmax_of_ties_and_nan() -> None:
    rows = np.array([[1, 3, 3, 0], [np.nan, 1, 2, 3], [1, np.nan, np.nan, 9], [-np.inf] * 4, [0, -0.0, 0, 0]])
    for x in (rows, np.asfortranarray(rows), rows.astype(np.float32)):
        out = np.full(5, -1)
        strictly([partial(np.argmax, x, axis=1, out=out)])()
        assert out.tolist() == np.argmax(x, axis=1).tolist()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1030, 101), (33_003, 10), (3, 40_001), (300, 300)])
def test_large_calls_are_shared_with_the_same_bits(threads: int, shape: tuple[int, int]) -> None:
    """Every kind of loop, large enough for several threads, each part of it once: repeated, it would change again."""
    native, rng = library().native, np.random.default_rng(0)
    assert native is not None
    orders: Any = ("C", "F")
    ufuncs: Any = (np.add, np.maximum)
    rows, columns = shape
    before = native.threads()
    native.set_threads(threads)
    try:
        for order in orders:
            x: Any = np.asarray(rng.standard_normal(shape, dtype=np.float32), order=order)
            b, column = rng.standard_normal((1, columns), dtype=np.float32), np.ones((rows, 1), np.float32)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            calls: list[tuple[Any, ...]] = [
                (np.add, x, b),
                (np.add, ..., b),  # into its own input
                (np.divide, x, column),
                (np.tanh, x),
                (np.greater, x, 0.5),
                (np.divide, pixels, np.float32(255)),
            ]
            for function, *args in calls:
                played, plain = (np.ones(shape, np.float32, order) for _ in range(2))
                strictly([partial(function, *(played if x is ... else x for x in args), out=played)])()
                function(*(plain if x is ... else x for x in args), out=plain)
                assert played.tobytes() == plain.tobytes()
            if order == "F":
                sums, expected = np.empty(rows, np.float32), np.empty(rows, np.float32)
                for ufunc in ufuncs:
                    strictly([partial(ufunc.reduce, x, 1, None, sums)])()
                    ufunc.reduce(x, 1, None, expected)
                    assert sums.tobytes() == expected.tobytes()
    finally:
        native.set_threads(before)


def test_no_array_is_printed_on_the_way_to_a_program() -> None:
    """A message for a call that is not known is made only then: to print a step's arrays takes longer than a thousand
    steps."""

    def refuse(_: Any) -> str:
        raise AssertionError("an array was printed")

    x = np.ones((40, 30), np.float32)
    with np.printoptions(override_repr=refuse):
        strictly([partial(np.add, x, x, out=x), partial(np.add.reduce, np.asfortranarray(x), 1, None, x[:, 0].copy())])


# --- rows gathered in blocks ------------------------------------------------------------------------------------------


def trained(threads: int, net: MLP, images: np.ndarray[Any, Any], batch: int, **settings: Any) -> TrainingRun:
    """Seven steps of a run of two epochs, whose last batch is smaller."""
    labels = np.arange(len(images)) % net.layers[-1]
    data = Dataset.from_arrays(images, labels, images[:10], labels[:10], n_classes=net.layers[-1])
    config = TrainConfig(epochs=2, batch_size=batch, evaluate_test=False, **{"optimizer": "adam", **settings})
    run = TrainingRun(net, data, config, NumpyBackend(threads))
    while run.steps < 7:
        run.advance(7 - run.steps)
    return run


@pytest.mark.parametrize(
    ("layers", "batch", "dtype", "kind"),
    [
        ((784, 128, 10), 128, "float32", "uint8"),
        ((784, 128, 10), 128, "float64", "uint8"),
        ((784, 128, 10), 128, "float32", "float32"),
        ((784, 100, 10), 100, "float64", "float64"),
        ((784, 250, 10), 390, "float32", "uint8"),
        ((784, 128, 10), 500, "float32", "uint8"),
        ((300, 60, 3), 1024, "float64", "uint8"),
        ((300, 60, 3), 1025, "float32", "uint8"),  # more samples than the gradient sums at once
        ((1300, 255, 10), 650, "float32", "uint8"),  # more deltas than a thread packs for itself
        ((300, 33, 20, 3), 120, "float32", "uint8"),
        ((1300, 17, 3), 27, "float32", "float32"),
        ((784, 16, 10), 128, "float32", "uint8"),  # too narrow
        ((784, 300, 10), 128, "float32", "uint8"),  # too wide
    ],
)
def test_rows_in_blocks_change_no_bit(layers: tuple[int, ...], batch: int, dtype: Any, kind: str) -> None:
    rng = np.random.default_rng(0)
    images: Any = rng.integers(0, 256, (3 * batch + 5, layers[0]), dtype=np.uint8)
    images[rng.random(images.shape) < 0.8] = 0
    if kind != "uint8":
        images = (images / 255).astype(kind)
    nets = [MLP(layers, seed=1, dtype=dtype) for _ in range(3)]
    runs = [trained(threads, net, images, batch) for threads, net in enumerate(nets, start=1)]
    for run in runs[1:]:
        assert np.array_equal(run.net.parameters, runs[0].net.parameters)
    whole = layers[1] in (16, 255, 300) or batch == 1025
    # In whole rows for one thread; in blocks of columns for several, where that pays.
    X = [run._step.workspace.rows(batch).A[0] for run in runs]
    assert np.array_equal(X[0], X[1]) == np.array_equal(X[0], X[2]) == whole
    assert sorted(X[1].ravel()) == sorted(X[0].ravel())


def test_rows_that_others_read_stay_whole() -> None:
    """Only products may read them, as they are or turned, and only where nobody reads them after the step."""
    rng = np.random.default_rng(0)
    source, indices = rng.integers(0, 256, (50, 300), dtype=np.uint8), np.arange(40)
    taken, X = np.empty((40, 300), np.uint8), np.empty((40, 300), np.float32)
    W, Z, dW = np.ones((300, 20), np.float32), np.empty((40, 20), np.float32), np.empty((300, 20), np.float32)
    native = library().native
    assert native is not None
    multiply = Products(native).product
    start: Tape = [
        partial(np.take, source, indices, axis=0, out=taken, mode="clip"),
        partial(np.multiply, taken, np.float32(1 / 255), out=X),
    ]
    products: Tape = [partial(multiply, 1.0, X, W, 0.0, Z), partial(multiply, 1.0, X.T, Z, 0.0, dW)]

    def found(*more: Any, scratch: Any = (taken, X)) -> list[int]:
        return [columns for _, columns, _ in program._gathers([*start, *products, *more], scratch)]

    assert found() == [20]
    assert found(partial(np.add, W, W, out=W)) == [20]
    by_column = partial(np.multiply, taken, np.ones(300, np.float32), out=X)  # not one number for all
    assert [*program._gathers([start[0], by_column, *products], (taken, X))] == []
    assert found(scratch=(X,)) == []
    assert found(scratch=(taken,)) == []
    for other in (
        partial(np.add, X, X, out=X),
        partial(np.add, taken, taken, out=taken),
        partial(np.sum, X[3:5], axis=1),
        partial(multiply, 1.0, W.T, X.T, 0.0, Z.T),
        partial(multiply, 1.0, X[:20], W, 0.0, Z[:20]),
        partial(multiply, 1.0, Z, dW.T, 0.0, X),
    ):
        assert found(other) == [], other


# --- what is done together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "batch", "settings", "by_row"),
    [
        ((300, 128, 10), 150, {"optimizer": "momentum"}, True),
        ((300, 130, 10), 1, {"optimizer": "momentum", "l2": 0.01}, True),  # the decay of the velocity
        ((200, 130, 40, 3), 600, {"optimizer": "momentum", "dropout": 0.3}, True),
        ((1200, 64, 5), 40, {"optimizer": "momentum"}, False),
        ((20, 600, 2), 200, {"optimizer": "adam"}, True),
        ((300, 128, 10), 150, {"optimizer": "momentum", "l2": 0.01}, True),  # the product adds to a velocity
        ((40, 600, 2), 1, {"optimizer": "momentum"}, False),
        ((20, 1100, 2), 600, {"optimizer": "momentum"}, True),  # few rows of W, and wide
        ((60, 256, 64, 3), 128, {"optimizer": "momentum", "momentum": 0.0}, True),  # adds, and by rows too
        ((40, 500, 2), 1100, {"optimizer": "momentum"}, True),  # more samples than are summed at once
    ],
)
def test_rows_and_sums_together_change_no_bit(
    layers: Any, batch: int, settings: Any, by_row: bool, monkeypatch: Any
) -> None:
    """Elementwise work row by row, and velocities added by the product that computes them: on one, two and three
    threads the bits of the same calls one after the other from Python."""
    images: Any = np.random.default_rng(0).integers(0, 256, (3 * batch + 5, layers[0]), dtype=np.uint8)
    images[:, : layers[0] // 2] = 0  # so that whole tiles are skipped
    made: list[Program] = []

    class Kept(Program):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(player, "Program", Kept)
    nets = [MLP(layers, seed=1) for _ in range(4)]
    for threads, net in enumerate(nets[:3], start=1):
        trained(threads, net, images, batch, **settings)
    operations = [operation for each in made for operation in each._calls]
    assert any(one.kind == PRODUCT_FLOAT and one.product.p for one in operations) == (settings["optimizer"] != "adam")
    assert any(one.kind == ROWWISE for one in operations) == by_row

    def refuse(*_: Any) -> Any:
        raise Unplayable("for this test")

    monkeypatch.setattr(player, "Program", refuse)
    trained(1, nets[3], images, batch, **settings)
    for net in nets[1:]:
        assert net.parameters.tobytes() == nets[0].parameters.tobytes()


def added(*between: Any, p: Any, v: Any, a: Any, b: Any) -> list[dict[int, tuple[int, int]]]:
    """What the product adds, if these calls are between it and the sum."""
    native = library().native
    assert native is not None
    c = v[10 : 10 + 200 * 100].reshape(200, 100)
    tape = [partial(Products(native).product, 1.0, a, b, 0.9, c), *between, partial(np.add, p, v, out=p)]
    return [products for _, products in program._added_products(tape)]


def test_a_product_adds_only_what_nobody_reads_in_between() -> None:
    p, v, x = (np.ones(20_100, np.float32) for _ in range(3))
    a, b = np.ones((200, 30), np.float32), np.ones((30, 100), np.float32)
    found = partial(added, p=p, v=v, a=a, b=b)
    assert found() == found(partial(np.add, x, x, out=x)) == [{0: (10, 20_010)}]
    assert found(partial(np.add, p[:5], v[:5], out=x[:5])) == found()  # not of the product's part
    for other in (p, v):
        assert found(partial(np.add, other[:50], 1.0, out=x[:50])) == []  # read
        assert found(partial(np.add, x[:50], 1.0, out=other[:50])) == []  # written
    assert added(p=p, v=v, a=a, b=p[10:3010].reshape(30, 100)) == []  # the product reads it
    assert added(p=p.astype(float), v=v, a=a, b=b) == []
    assert added(p=v, v=v, a=a, b=b) == []


def test_no_subnormal_number_is_left_behind(monkeypatch: Any) -> None:
    """Velocities that nothing feeds decay through the subnormal numbers: they are zeros, played and from Python."""
    images = np.zeros((3 * 20 + 5, 300), np.uint8)
    for how in ("played", "replayed"):
        if how == "replayed":
            monkeypatch.setattr(player, "Program", lambda *_: (_ for _ in ()).throw(Unplayable("for this test")))
        for optimizer in ("momentum", "nesterov", "adam"):
            labels = np.arange(len(images)) % 3
            data = Dataset.from_arrays(images, labels, images[:9], labels[:9], n_classes=3)
            config = TrainConfig(epochs=5, batch_size=20, optimizer=optimizer, evaluate_test=False)
            run = TrainingRun(MLP((300, 70, 3), seed=1), data, config, NumpyBackend(2))
            state = run.optimizer.state
            tiny = np.finfo("float32").tiny
            for array in state.values():
                array[: 300 * 70] = tiny * np.float32(1.5)
            while not run.done:
                run.advance()
            for array in state.values():
                left = np.abs(array)
                assert not ((left > 0) & (left < tiny)).any(), (how, optimizer)
    x, y = np.full((300, 100), np.finfo("float32").tiny, "float32"), np.ones((300, 100), "float32")
    assert (x * np.float32(0.5)).all()
    strictly([partial(np.multiply, x, 0.5, out=y)])()
    assert not y.any()
