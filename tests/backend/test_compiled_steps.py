"""Steps compiled for a GPU: random tapes against NumPy, planted mistakes, launches, and what is not compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from twostroke import MLP, Dataset, TrainConfig
from twostroke.backend import Backend, Steps, select_backend
from twostroke.engine.evaluation import Evaluation
from twostroke.engine.kernels import ACTIVATIONS, LOSSES
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.training import TrainingRun

Arrays = dict[str, Any]
TAPES = 12
SNAPSHOT = Path(__file__).with_name("compiled_step.cu")
LARGEST = 2.0**40  # numbers of a tape: integers and halves up to here are exact in float64, in any order of summation


@pytest.fixture
def fresh_cuda(cuda: Backend) -> Backend:
    """The GPU, with nothing compiled yet."""
    from twostroke.backend.cuda.backend import CupyBackend

    return CupyBackend()


@pytest.fixture
def cpu() -> Backend:
    return select_backend("cpu", 1)


# --- random tapes -----------------------------------------------------------------------------------------------------


class Note(NamedTuple):
    """A call of a tape, by the names of its arrays."""

    name: str
    out: str
    operands: tuple[Any, ...]


def arrays_of(buffers: list[Any], shape: tuple[int, int, int]) -> Arrays:
    """Views of the buffers, many of which overlap: (rows, columns) in both orders, shifted, vectors and single rows."""
    rows, columns, other = shape
    found: Arrays = {}
    for index, flat in enumerate(buffers):
        size = rows * columns
        found[f"C{index}"] = flat[:size].reshape(rows, columns)
        found[f"F{index}"] = flat[:size].reshape(columns, rows).T
        found[f"S{index}"] = flat[columns : columns + size].reshape(rows, columns)
        found[f"N{index}"] = flat[: rows * other].reshape(rows, other)
        found[f"W{index}"] = flat[: columns * other].reshape(columns, other)
        found[f"v{index}"] = flat[:rows]
        found[f"w{index}"] = flat[rows : 2 * rows]
        found[f"b{index}"] = flat[:columns].reshape(1, columns)
        found[f"p{index}"] = flat  # as the parameters of a network are
    return found


def overlap(x: np.ndarray, y: np.ndarray) -> bool:
    return bool(np.shares_memory(x, y))


def same(x: np.ndarray, y: np.ndarray) -> bool:
    return x.shape == y.shape and x.strides == y.strides and x.ctypes.data == y.ctypes.data


def random_tape(rng: np.random.Generator, arrays: Arrays, calls: int) -> list[Note]:
    """Calls that CuPy and NumPy define alike: an operand is the result's own memory, or none of it."""
    tape: list[Note] = []
    names = list(arrays)

    def fits(name: str, out: str) -> bool:
        return same(arrays[name], arrays[out]) or not overlap(arrays[name], arrays[out])

    def of_shape(out: str, *shapes: tuple[int, ...]) -> list[str]:
        return [name for name in names if arrays[name].shape in shapes and fits(name, out)]

    while len(tape) < calls:
        out = str(rng.choice(names))
        shape, kind = arrays[out].shape, rng.integers(10)
        if kind < 2 and len(shape) == 1:  # a reduction, or rows picked by a position
            apart = [name for name in names if arrays[name].ndim == 2 and not overlap(arrays[name], arrays[out])]
            whole = [name for name in apart if arrays[name].shape[0] == shape[0]]
            if whole:
                tape.append(Note(str(rng.choice(["max", "sum"])), out, (str(rng.choice(whole)),)))
        elif kind < 4 and len(shape) == 2 and shape[0] > 1:  # a product
            pairs = [
                (a, b)
                for a in names
                for b in names
                if arrays[a].ndim == arrays[b].ndim == 2
                and (arrays[a].shape[0], arrays[b].shape[1]) == shape
                and arrays[a].shape[1] == arrays[b].shape[0]
                and not overlap(arrays[a], arrays[out])
                and not overlap(arrays[b], arrays[out])
            ]
            if pairs:
                a, b = pairs[rng.integers(len(pairs))]
                tape.append(Note("gemm", out, (a, b, *((1.0, 0.0), (0.5, 1.0), (1.0, 0.5))[rng.integers(3)])))
        else:
            broadcast = [(shape[0], 1), (1, shape[-1])] if len(shape) == 2 else []
            near = of_shape(out, shape, *broadcast)
            number = [0.5, 1, 2.0][rng.integers(3)]
            first, second = str(rng.choice(near)), number if rng.integers(3) == 0 else str(rng.choice(near))
            name = str(rng.choice(["add", "subtract", "maximum", "greater", "multiply", "copyto"]))
            if name == "multiply":
                second = number
            tape.append(Note(name, out, (first,) if name == "copyto" else (first, second)))
    return tape


def play(backend: Backend, arrays: Arrays, tape: list[Note]) -> None:
    for note in tape:
        out, operands = arrays[note.out], [arrays[x] if isinstance(x, str) else x for x in note.operands]
        if note.name == "gemm":
            backend.gemm(operands[0], operands[1], out, *operands[2:])
        elif note.name == "copyto":
            backend.xp.copyto(out, operands[0])
        elif note.name in ("max", "sum"):
            getattr(backend.xp, note.name)(operands[0], axis=1, out=out)
        else:
            getattr(backend.xp, note.name)(*operands, out=out)


class Plain:
    """NumPy, product for product."""

    xp = np

    @staticmethod
    def gemm(a: Any, b: Any, out: Any, alpha: float, beta: float) -> None:
        out[...] = alpha * (a @ b) + beta * out


def tapes() -> Iterator[tuple[int, tuple[int, int, int], list[np.ndarray], list[Note], list[np.ndarray]]]:
    """Seeds, sizes, buffers, a tape, and the buffers after it."""
    seed = 0
    while True:
        seed += 1
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(2, 40)), int(rng.choice([2, 3, 10, 33, 40])), int(rng.choice([2, 5, 36])))
        size = max(2 * shape[0], shape[0] * max(shape[1:]) + shape[1], shape[1] * shape[2])
        before = [rng.integers(-3, 4, size).astype(np.float64) for _ in range(4)]
        after = [flat.copy() for flat in before]
        arrays = arrays_of(after, shape)
        tape = random_tape(rng, arrays, int(rng.integers(5, 25)))
        largest = 0.0
        for note in tape:
            play(Plain(), arrays, [note])
            largest = max(largest, *(float(np.abs(flat).max()) for flat in after))
        if largest < LARGEST:
            yield seed, shape, before, tape, after


def wrong(cuda: Any, count: int) -> list[int]:
    """The seeds of those of the first ``count`` tapes that leave something else than NumPy does.

    Each runs twice: once with all arrays kept, then with the first buffer as scratch, whose contents do not count.
    """
    found = []
    for (seed, shape, before, tape, after), _ in zip(tapes(), range(count), strict=False):
        for kept in (0, 1):
            with cuda.active():
                buffers = [cuda.copy_of(flat, "float64") for flat in before]
                arrays = arrays_of(buffers, shape)
                run = cuda.capture([Steps(lambda: play(cuda, arrays, tape), scratch=buffers[:kept])])  # noqa: B023
                run.run()
            if any(not np.array_equal(cuda.to_host(x), y) for x, y in zip(buffers[kept:], after[kept:], strict=True)):
                found.append(seed)
    return found


def test_random_tapes_leave_what_numpy_leaves(cuda: Any) -> None:
    assert wrong(cuda, TAPES) == []
    assert cuda.describe()["compiled"]["reason"] == ""


@pytest.mark.parametrize(
    "mistake", ["nothing waits for readers", "nothing waits for writers", "threads own all", "all values pass"]
)
def test_a_mistake_in_the_schedule_is_seen(cuda: Any, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from twostroke.backend.cuda import launches
    from twostroke.backend.cuda.calls import Call

    if mistake.startswith("nothing"):
        conflicts, writers = Call.conflicts, "writers" in mistake
        monkeypatch.setattr(Call, "conflicts", lambda a, b: (p for p in conflicts(a, b) if (p[1] != b.out) == writers))
    elif mistake == "threads own all":
        monkeypatch.setattr(launches.Section, "_own", lambda self, a, b: True)
    else:
        monkeypatch.setattr(launches, "_passes", lambda value, later: True)
    assert wrong(cuda, TAPES)


# --- networks ---------------------------------------------------------------------------------------------------------


def dataset(n: int = 70, width: int = 6, classes: int = 3, *, kind: str = "uint8") -> Dataset:
    rng = np.random.default_rng(5)
    images: Any = rng.integers(0, 256, (n, width), dtype=np.uint8)
    if kind != "uint8":
        images = (images / 255).astype(kind)
    labels = rng.integers(0, classes, n)
    return Dataset.from_arrays(images, labels, images[:20], labels[:20], n_classes=classes, name="random")


def run_of(backend: Backend, net: MLP, data: Dataset, **settings: Any) -> TrainingRun:
    run = TrainingRun(net, data, TrainConfig(epochs=2, evaluate_test=False, **settings), backend)
    while not run.done:
        run.advance()
    return run


@pytest.mark.parametrize(
    ("optimizer", "launches"), [("sgd", 4), ("momentum", 5), ("nesterov", 5), ("adam", 5), ("adamw", 5)]
)
def test_a_step_is_a_few_launches(fresh_cuda: Any, optimizer: str, launches: int) -> None:
    """784-128-10 at batch 128: gather; first layer; the rest of the row, there and back; gradients; update."""
    run_of(fresh_cuda, MLP([784, 128, 10]), dataset(300, 784, 10), batch_size=128, optimizer=optimizer)
    assert fresh_cuda.describe()["compiled"]["launches"] == launches


def test_the_kernels_of_a_step_are_those_of_the_snapshot(fresh_cuda: Any) -> None:
    """What a change of the compiler changes is seen. After a look: RENEW_SNAPSHOT=1 python -m pytest -k snapshot."""
    run_of(fresh_cuda, MLP([6, 7, 3]), dataset(), batch_size=20, dropout=0.4, optimizer="adam")
    found = "\n".join(f"// {n}\n{text}" for n, text in enumerate(fresh_cuda._compiler._functions))
    if os.environ.get("RENEW_SNAPSHOT"):
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text()


SETTINGS = [
    {"batch_size": 1, "lr": 0.01},
    {"batch_size": 32, "lr": 0.01},  # with a last batch of 6
    {"batch_size": 20, "lr": 0.003, "dropout": 0.4, "l2": 1e-3},  # of 10
    {"batch_size": 32, "lr": 0.01, "class_weight": {0: 3.0, 2: 0.5}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", [(loss, output) for loss in LOSSES for output in LOSSES[loss]], ids="/".join)
def test_every_loss_is_compiled_and_agrees_with_the_cpu(
    fresh_cuda: Any, cpu: Backend, network: tuple[str, str], dtype: str, settings: dict[str, Any]
) -> None:
    loss, output = network
    found, optimizers, activations = {}, list(OPTIMIZERS), list(ACTIVATIONS)
    chosen = sum(map(ord, loss + output + dtype)) + int(settings["batch_size"])
    for backend in (cpu, fresh_cuda):
        net = MLP([6, 7, 5, 3], activations[chosen % len(activations)], loss, dtype=dtype, output=output)
        data = dataset(kind="uint8" if chosen % 2 else dtype)
        run = run_of(backend, net, data, optimizer=optimizers[chosen % len(optimizers)], **settings)
        found[backend.name] = backend.to_host(run.net.parameters).astype(np.float64)
    assert fresh_cuda.describe()["compiled"]["reason"] == ""
    away = np.linalg.norm(found["numpy"] - found["cupy"]) / np.linalg.norm(found["numpy"])
    assert away < (2e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", [(loss, output) for loss in LOSSES for output in LOSSES[loss]], ids="/".join)
def test_evaluation_and_prediction_are_compiled(
    fresh_cuda: Any, cpu: Backend, network: tuple[str, str], dtype: str
) -> None:
    loss, output = network
    data, found = dataset(50), {}
    for backend in (cpu, fresh_cuda):
        net = MLP([6, 7, 5, 3], "tanh", loss, dtype=dtype, output=output, backend=backend)
        evaluation = Evaluation(net, data.train_images, data.train_labels)
        for _ in range(3):  # kernel by kernel, captured, replayed
            result, outputs = evaluation.run(), net.predict_proba(data.train_images)
            found[backend.name] = np.array([*result, *outputs.ravel()], "float64")
    assert fresh_cuda.describe()["compiled"]["reason"] == ""
    assert fresh_cuda.describe()["compiled"]["kernels"] > 0
    np.testing.assert_allclose(found["cupy"], found["numpy"], rtol=2e-5 if dtype == "float32" else 1e-12)


FIRST_RUN = """
import numpy, cupy
from cupy.cuda import compiler
calls, compiling = [], compiler._NVRTCProgram.compile
def counted(self, *args, **options):
    calls.append(self.src)
    return compiling(self, *args, **options)
compiler._NVRTCProgram.compile = counted
from twostroke import MLP, Dataset, TrainConfig, select_backend, train
rng = numpy.random.default_rng(0)
images, labels = rng.integers(0, 256, (300, 20), dtype="uint8"), rng.integers(0, 10, 300)
data = Dataset.from_arrays(images, labels, images[:90], labels[:90])
net = MLP([20, 16, 10], backend=select_backend("cuda"))
for _ in train(net, data, TrainConfig(epochs=2, batch_size=64, optimizer="momentum")): pass
print(len(calls))
"""


def test_a_first_training_run_compiles_ten_times(cuda: Any, tmp_path: Path) -> None:
    """With an empty cache: probe, training and evaluation. Each call costs a twentieth of a second or more."""
    environment = os.environ | {"CUPY_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", FIRST_RUN]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=300)
    assert int(found.stdout) <= 10


def test_a_last_batch_of_one_is_a_step_like_any_other(fresh_cuda: Any, cpu: Backend) -> None:
    found = {}
    for backend in (cpu, fresh_cuda):
        run = run_of(backend, MLP([6, 7, 3]), dataset(), batch_size=23, dropout=0.4, l2=1e-3)
        found[backend.name] = backend.to_host(run.net.parameters)
    away = np.linalg.norm(found["numpy"] - found["cupy"]) / np.linalg.norm(found["numpy"])
    assert away < 2e-5


def test_other_batch_sizes_and_rates_need_no_new_kernel(fresh_cuda: Any) -> None:
    data = dataset()
    run_of(fresh_cuda, MLP([6, 7, 3]), data, batch_size=20, lr=0.1)
    kernels = fresh_cuda.describe()["compiled"]["kernels"]
    run_of(fresh_cuda, MLP([6, 7, 3]), data, batch_size=30, lr=0.3)
    assert fresh_cuda.describe()["compiled"]["kernels"] == kernels


@pytest.mark.parametrize("rest", [7, 31, 96])
def test_the_last_batch_has_the_kernels_of_the_others(fresh_cuda: Any, rest: int) -> None:
    """Also where a batch has as many samples as a layer has units: MNIST's preset."""
    run_of(fresh_cuda, MLP([784, 192, 10]), dataset(192 + rest, 784, 10), batch_size=192)
    assert fresh_cuda.describe()["compiled"]["kernels"] == fresh_cuda.describe()["compiled"]["launches"]


def test_nan_wins(cuda: Any) -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 0.0], [-np.inf, -np.inf, -np.inf], [2.0, 5.0, 5.0]])
    with cuda.active():
        x, top, at = cuda.copy_of(values, "float64"), cuda.empty(4, "float64"), cuda.empty(4, "int64")
        positive = cuda.empty((4, 3), "float64")

        def step() -> None:
            cuda.xp.max(x, axis=1, out=top)
            cuda.xp.argmax(x, axis=1, out=at)
            cuda.xp.maximum(x, 0, out=positive)

        cuda.capture([Steps(step)]).run()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(cuda.to_host(top), values.max(axis=1))
        np.testing.assert_array_equal(cuda.to_host(positive), np.maximum(values, 0))
    np.testing.assert_array_equal(cuda.to_host(at), values.argmax(axis=1))


def test_what_cannot_be_compiled_runs_call_by_call_and_says_why(fresh_cuda: Any) -> None:
    with fresh_cuda.active():
        x, out = fresh_cuda.copy_of(np.ones((2, 3)), "float64"), fresh_cuda.empty((2, 3), "float64")
        run = fresh_cuda.capture([Steps(lambda: fresh_cuda.xp.sin(x, out=out))])
        for _ in range(3):
            run.run()
    np.testing.assert_allclose(fresh_cuda.to_host(out), np.sin(1))
    assert fresh_cuda.describe()["compiled"]["reason"] == "it calls sin"
    assert fresh_cuda.describe()["graphs"]["launches"] == 2


def test_more_classes_than_a_warp_holds_run_call_by_call(fresh_cuda: Any, cpu: Backend) -> None:
    data, found = dataset(40, 6, 1500), {}
    for backend in (cpu, fresh_cuda):
        run = run_of(backend, MLP([6, 7, 1500]), data, batch_size=16)
        found[backend.name] = backend.to_host(run.net.parameters)
    assert fresh_cuda.describe()["compiled"]["reason"] == "it reduces rows of 1500 columns"
    away = np.linalg.norm(found["numpy"] - found["cupy"]) / np.linalg.norm(found["numpy"])
    assert away < 2e-5
