"""Parts of ``session.py`` that ask how quick a GPU is. Each returns what was found, with "ok" where that is a
question of yes or no: copies and allocations are, a speed is not."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.gpu.right import SMALL, make_backend, trained

LARGE: Final = (784, 4096, 4096, 10)
GOAL: Final = 0.85  # of the roofline, for the large network
LAUNCHED: Final = ("a launch a step", "a launch an epoch")
A_FEW: Final = 32  # copies, waits and allocations of a whole epoch: its order up, its result down
MANY: Final = 64  # steps of empty kernels in one graph


def training_step(backend: Any, layers: tuple[int, ...], batch: int, optimizer: str) -> Callable[[], object]:
    """A step on random pixels that runs again and again, as training runs it."""
    import numpy as np

    from twostroke import MLP, TrainConfig
    from twostroke.engine.epoch import Epoch
    from twostroke.engine.evaluation import upload
    from twostroke.engine.metrics import Running
    from twostroke.engine.step import TrainingStep
    from twostroke.engine.training import make_optimizer

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (batch, layers[0]), dtype=np.uint8), rng.integers(0, layers[-1], batch)
    net = MLP(layers).to(backend)
    images, targets = upload(backend, pixels, labels.astype(np.uint8), net)
    rule = make_optimizer(net, TrainConfig(optimizer=optimizer))
    epoch = Epoch(TrainingStep(net, images, targets, rule, batch, Running(backend, batch, "float32")), [(0, batch)])
    epoch.begin(rng.permutation(batch), [rule.numbers(1e-3, 1, rule.l2)])
    return lambda: epoch.run(0, 1)


# --- what reaches the device ----------------------------------------------------------------------------------


@contextmanager
def counted(backend: Any, counts: Counter[str]) -> Iterator[None]:
    """Count the calls that reach the device: each is at least one launch, or a copy."""
    import cupy

    from twostroke.backend.cuda.calls import MAPS, REDUCTIONS

    def wrap(owner: Any, name: str, label: str) -> Callable[[], None]:
        original = getattr(owner, name)
        own = name in vars(owner)

        def counting(*args: Any, **options: Any) -> Any:
            counts[label] += 1
            return original(*args, **options)

        setattr(owner, name, counting)
        return (lambda: setattr(owner, name, original)) if own else (lambda: delattr(owner, name))

    names = (*MAPS, *REDUCTIONS, "copyto", "take", "zeros", "empty", "zeros_like", "mean", "stack")
    undo = [wrap(cupy, name, f"cupy.{name}") for name in names]
    undo += [wrap(backend, "gemm", "gemm"), wrap(backend, "asarray", "UP"), wrap(backend, "to_host", "DOWN")]
    undo.append(wrap(cupy, "asnumpy", "cupy.asnumpy"))
    try:
        yield
    finally:
        for restore in undo:
            restore()


@contextmanager
def allocations() -> Iterator[Counter[str]]:
    """What CuPy's pool is asked for inside ("pool"), and what it asks CUDA for ("device")."""
    import cupy

    counts: Counter[str] = Counter()

    class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "allocations"

        def malloc_preprocess(self, **_: Any) -> None:
            counts["pool"] += 1

        def alloc_preprocess(self, **_: Any) -> None:
            counts["device"] += 1

    with Hook():
        yield counts


def step() -> dict[str, Any]:
    from twostroke import MLP, TrainConfig, load_dataset, select_backend
    from twostroke.engine.training import TrainingRun

    backend = select_backend("cuda")
    found: dict[str, dict[str, Any]] = {}
    with backend.active():
        for batch in (128, 1024):
            one = training_step(backend, SMALL, batch, "momentum")
            for _ in range(20):
                one()
            backend.synchronize()
            counts: Counter[str] = Counter()
            with counted(backend, counts), allocations() as asked:
                one()
            backend.synchronize()
            host, whole = [], []
            for _ in range(7):
                started = time.perf_counter()
                for _ in range(50):  # few enough that the launch queue does not fill up and make the host wait
                    one()
                host.append((time.perf_counter() - started) / 50)
                backend.synchronize()
                whole.append((time.perf_counter() - started) / 50)
            found[f"batch {batch}"] = {
                "calls": dict(counts),
                "calls_per_step": sum(counts.values()),
                "pool_allocations": asked["pool"],
                "device_allocations": asked["device"],
                "host_us_per_step": 1e6 * statistics.median(host),
                "synchronised_us_per_step": 1e6 * statistics.median(whole),
                "host_us_all": [1e6 * value for value in host],
            }
        data = load_dataset("mnist")
        run = TrainingRun(MLP(SMALL), data, TrainConfig(epochs=2, evaluate_test=False), backend)
        run.advance()
        counts = Counter()
        with counted(backend, counts):
            run.advance(len(run.bounds) - 1)  # all steps of the epoch but the last: no result is asked for
    up_and_down = {label: counts[label] for label in ("UP", "DOWN", "cupy.asnumpy")}
    still = all(entry["calls"].get("UP", 0) + entry["calls"].get("DOWN", 0) == 0 for entry in found.values())
    none = all(entry["pool_allocations"] == 0 for entry in found.values())
    # Two up: the order of the samples, and the scalars of every step.
    ok = still and none and counts["UP"] == 2 and counts["DOWN"] == counts["cupy.asnumpy"] == 0
    return {"ok": ok, "steps": found, "transfers_in_an_epoch": up_and_down, "steps_in_that_epoch": len(run.bounds) - 1}


# --- a profiler's trace ---------------------------------------------------------------------------------------


def trace() -> dict[str, Any]:
    from twostroke import TrainConfig, load_dataset

    config = TrainConfig(epochs=3, batch_size=128, evaluate_test=False)
    return traced(load_dataset("mnist"), SMALL, config)


def traced(data: Any, layers: tuple[int, ...], config: Any) -> dict[str, Any]:
    """What the GPU did in an epoch, way by way: kernels, copies, waits, by PyTorch's profiler, and CuPy's allocations.

    The profiler is CUPTI's and sees the whole process. Should it not see CuPy's work after all, or not be there, the
    allocations alone decide, and the counters of the part ``step`` stand for the rest.
    """
    from twostroke import MLP
    from twostroke.engine.training import TrainingRun

    found: dict[str, Any] = {}
    for name, backend in {
        "call by call": make_backend("0"),
        "a launch a step": make_backend("auto"),
        "a launch an epoch": make_backend("epoch"),
    }.items():
        run = TrainingRun(MLP(layers), data, config, backend)
        run.advance()
        with backend.active():
            one = training_step(backend, layers, int(config.batch_size), config.optimizer)
            one(), one(), one()
            backend.synchronize()
            with allocations() as asked:
                one()
        run.advance()
        steps = len(run.bounds)
        with allocations() as of_epoch:
            seen = profiled(run.advance)
        entry: dict[str, Any] = {"steps": steps, "pool_allocations": asked["pool"]}
        entry["pool_allocations_of_an_epoch"] = of_epoch["pool"]
        entry |= judged(seen, steps)
        entry["ok"] = entry["ok"] and asked["pool"] == 0 and of_epoch["pool"] <= A_FEW
        found[name] = entry
    return {"ok": all(entry["ok"] for entry in found.values()), "ways": found}


def profiled(work: Callable[[], object]) -> Counter[str] | str:
    """What CUDA did during the work, by kind; or why that is not known. The work is done in either case."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile

        if not torch.cuda.is_available():
            raise ImportError("this PyTorch finds no GPU")
        torch.cuda.init()
    except Exception as error:  # no PyTorch, or one that does not start
        work()
        return f"no profiler: {(str(error).splitlines() or [''])[0]}"
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            work()
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            found.export_chrome_trace(str(file))
            return kinds(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])
    except Exception as error:  # whatever CUPTI says
        return f"no profiler: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def kinds(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """A Chrome trace's events, counted by what they are to the device and the host that drives it."""
    counts: Counter[str] = Counter()
    for event in events:
        category, name = str(event.get("cat", "")), str(event.get("name", ""))
        if category == "kernel":
            counts["kernels"] += 1
        elif category == "gpu_memset":
            counts["memsets"] += 1
        elif category == "gpu_memcpy":
            ways = {"HtoD": "copies up", "DtoH": "copies down", "DtoD": "copies on the device"}
            counts[next((label for way, label in ways.items() if way in name), "other copies")] += 1
        elif category in ("cuda_runtime", "cuda_driver"):
            if "GraphLaunch" in name:
                counts["graph launches"] += 1
            elif "LaunchKernel" in name:
                counts["kernel launches"] += 1
            elif "Synchronize" in name:
                counts["waits"] += 1
    return counts


def judged(seen: Counter[str] | str, steps: int) -> dict[str, Any]:
    """Whether an epoch's copies and waits are a few, whatever its steps; and whether its work was seen at all."""
    if isinstance(seen, str):
        return {"seen": False, "reason": seen, "ok": True}
    counts = {"profile": dict(seen)}
    if seen["kernels"] < steps:
        return {"seen": False, "reason": f"{seen['kernels']} kernels in {steps} steps", "ok": True, **counts}
    ok = all(seen[kind] <= A_FEW for kind in ("copies up", "copies down", "other copies", "waits"))
    return {"seen": True, "kernels_per_step": seen["kernels"] / steps, "ok": ok, **counts}


# --- the first run, and inference -----------------------------------------------------------------------------


def first_run() -> dict[str, Any]:
    """A first ``twostroke train`` with an empty cache, and a second: NVRTC's calls, its seconds and all seconds."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUPY_CACHE_DIR"] = f"{folder}/cache"  # read when CuPy is imported
        from cupy.cuda import compiler

        from twostroke.cli import main

        spent: list[float] = []
        compiling = compiler._NVRTCProgram.compile

        def counted(program: Any, *args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return compiling(program, *args, **options)
            finally:
                spent.append(time.perf_counter() - started)

        compiler._NVRTCProgram.compile = counted
        runs = []
        for turn in ("first", "second"):
            spent.clear()
            started = time.perf_counter()
            code = main(["train", "--device", "cuda", "--out", f"{folder}/{turn}"])
            seconds = time.perf_counter() - started
            runs.append({"exit": code, "nvrtc_calls": len(spent), "nvrtc_seconds": sum(spent), "seconds": seconds})
    return {"ok": not any(one["exit"] for one in runs), "first": runs[0], "again": runs[1]}


def inference() -> dict[str, Any]:
    """Microseconds of ``predict_proba`` on host images, and of an evaluation of the test set, both ways."""
    import numpy as np

    from twostroke import MLP, load_dataset
    from twostroke.engine.evaluation import Evaluation

    data = load_dataset("mnist")
    found: dict[str, dict[str, float]] = {}
    outputs = []
    for name, backend in {"call by call": make_backend("0"), "compiled": make_backend("auto")}.items():
        net, times = MLP(SMALL, backend=backend), found.setdefault(name, {})
        for n in (1, 16, 128, 1024, 10_000):
            work = partial(net.predict_proba, data.test_images[:n])
            work(), work(), work()
            times[f"{n} images"] = statistics.median(microseconds(backend, work, 9, 20))
        outputs.append(net.predict_proba(data.test_images))
        evaluation = Evaluation(net, data.test_images, data.test_labels)
        evaluation.run(), evaluation.run(), evaluation.run()
        times["evaluation"] = statistics.median(microseconds(backend, evaluation.run, 9, 20))
    away = float(np.abs(outputs[0] - outputs[1]).max())
    return {"ok": away < 1e-5, "away": away, "us": found}


# --- times ----------------------------------------------------------------------------------------------------


def waterfall() -> dict[str, Any]:
    from twostroke import load_dataset

    data = load_dataset("mnist")
    found = {f"batch {batch}": waterfall_of(data, SMALL, batch, 6) for batch in (128, 1024)}
    used = all(graphs["used"] for graphs in (found["batch 128"]["graphs"][name] for name in LAUNCHED))
    return {"ok": used, "used": used, "waterfall": found}


def waterfall_of(data: Any, layers: tuple[int, ...], batch: int, epochs: int) -> dict[str, Any]:
    """Microseconds of a step, way by way: the best epoch of each; then the floors, captured: the step's products alone,
    and as many kernels that do nothing as a step has."""
    import cupy

    from twostroke import TrainConfig
    from twostroke.measure.throughput import bare_products

    config = TrainConfig(epochs=epochs, batch_size=batch, evaluate_test=False)
    ways = {
        "call by call": make_backend("0"),
        "kernel by kernel": make_backend("auto", captured=False),
        "a launch a step": make_backend("auto"),
        "a launch an epoch": make_backend("epoch"),
    }
    raw: dict[str, list[float]] = {name: trained(backend, data, layers, config)[1] for name, backend in ways.items()}
    graphs = {name: way.describe()["graphs"] for name, way in ways.items()}
    backend = ways["a launch a step"]
    kernels = backend.describe()["compiled"]["launches"]
    empty = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")

    def nothing(steps: int) -> None:
        for _ in range(kernels * steps):
            empty((1,), (1,), ())

    floors: dict[str, tuple[Callable[[], None], int]] = {
        "products alone": (bare_products(backend, layers, batch), 1),
        **{name: (many(work), MANY) for name, work in single_products(backend, layers, batch).items()},
        "empty kernels, a launch a step": (partial(nothing, 1), 1),
        f"empty kernels, {MANY} steps a launch": (partial(nothing, MANY), MANY),
    }
    with backend.active():
        for name, (work, steps) in floors.items():
            run = backend._capture.graph(work)
            run(), run()
            raw[name] = [us / steps for us in microseconds(backend, run, 20, max(1, 50 // steps))]
    return {
        "us_per_step": {name: min(blocks) for name, blocks in raw.items()},
        "kernels_per_step": kernels,
        "raw": raw,
        "graphs": graphs,
    }


def many(work: Callable[[], None]) -> Callable[[], None]:
    """The work ``MANY`` times."""

    def run() -> None:
        for _ in range(MANY):
            work()

    return run


def single_products(backend: Any, layers: tuple[int, ...], batch: int) -> dict[str, Callable[[], None]]:
    """Each product of a step by itself, with those that sum the gradients of biases."""
    import cupy

    from twostroke.engine.workspace import Workspace

    found: dict[str, Callable[[], None]] = {}
    with backend.active():
        buffers = Workspace(backend, layers, "float32", batch).rows(batch)
        for array in (*buffers.A, *buffers.dA):
            array.fill(0.1)
        for index, (A, Z, dZ) in enumerate(zip(buffers.A, buffers.A[1:], buffers.dA, strict=False)):
            W, b = cupy.full((A.shape[1], Z.shape[1]), 0.01, "float32"), cupy.zeros((1, Z.shape[1]), "float32")
            found[f"Z = X W, layer {index + 1}"] = partial(backend.gemm, A, W, Z)
            if index:
                found[f"dX = dZ W^T, layer {index + 1}"] = partial(backend.gemm, dZ, W.T, buffers.dA[index - 1])
            found[f"dW = X^T dZ, layer {index + 1}"] = partial(backend.gemm, A.T, dZ, W, 1e-9, 1.0)
            found[f"db = 1^T dZ, layer {index + 1}"] = partial(backend.gemm, buffers.ones, dZ, b, 1e-9, 1.0)
    return found


def microseconds(backend: Any, work: Callable[[], object], blocks: int, times: int) -> list[float]:
    """Of one call, for each of the blocks."""
    from bench.timing import run_seconds

    return [1e6 * run_seconds(backend, work, times) / times for _ in range(blocks)]


def large() -> dict[str, Any]:
    import numpy as np

    from bench.timing import flops, step_shapes
    from twostroke import select_backend

    batch, found = 8192, {}
    shapes = step_shapes(LARGE, batch)

    def seconds(backend: Any, work: Callable[[], object], times: int) -> list[float]:
        return [us / 1e6 for us in microseconds(backend, work, 6, times)[1:]]

    for name, tf32 in (("float32", False), ("tf32", True)):
        backend = select_backend("cuda", tf32=tf32)
        with backend.active():
            rng = np.random.default_rng(0)

            def random(*shape: int, rng: Any = rng, backend: Any = backend) -> Any:
                return backend.asarray(rng.standard_normal(shape, dtype=np.float32))

            products = 0.0
            for rows, inner, columns, kind in shapes:
                a = random(inner, rows).T if kind == "XtdZ" else random(rows, inner)
                b = random(columns, inner).T if kind == "dZWt" else random(inner, columns)
                out = random(rows, columns)
                products += min(seconds(backend, partial(backend.gemm, a, b, out), 5))
            entry: dict[str, Any] = {"roofline_tflops": flops(shapes) / products / 1e12, "gemm_seconds": products}
            for optimizer in ("sgd", "momentum"):
                blocks = seconds(backend, training_step(backend, LARGE, batch, optimizer), 5)
                spent = statistics.median(blocks)
                entry[optimizer] = {
                    "step_seconds": spent,
                    "all": blocks,
                    "tflops": flops(shapes) / spent / 1e12,
                    "fraction_of_roofline": products / spent,
                }
            found[name] = entry
    fractions = [found[name]["sgd"]["fraction_of_roofline"] for name in found]
    return {"ok": max(fractions) <= 1.02, "goal_reached": min(fractions) >= GOAL, "gflop": flops(shapes) / 1e9, **found}
