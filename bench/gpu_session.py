"""Everything that needs a GPU, checked and measured in one call of a few minutes: ``python bench/gpu_session.py``.

Each part runs in a process of its own with a time limit, so that a fault or a hang in one costs only that one. The
raw results go to one JSON file, in $OUT or in bench/results/MACHINE; a short table is printed last. Needs no network
and no profiler: launches are counted at the calls into CuPy and cuBLAS (a product may be more than one launch inside
cuBLAS), host time is the clock around steps that nobody waits for. ``--dry-run`` lists what would run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
BUDGET_S: Final = 520.0  # for all parts together
SMALL, LARGE = (784, 128, 10), (784, 4096, 4096, 10)
GOAL: Final = 0.85  # of the roofline, for the large network


class Part(NamedTuple):
    """What to run and for how long at most; ``argv`` None: the function of that name in this file."""

    name: str
    seconds: float
    what: str
    argv: list[str] | None = None
    environment: dict[str, str] | None = None


def _twostroke(*words: str) -> list[str]:
    return ["-m", "twostroke", *words]


def _verify(name: str) -> list[str]:
    return _twostroke("verify", name, "--device", "cuda", "--json")


FULL_BATCH: Final = ["--batch-size", "full", "--layers", "784,4096,10"]
LIMITED: Final = {"CUPY_GPU_MEMORY_LIMIT": str(256 << 20)}
CALL_BY_CALL: Final = {"TWOSTROKE_CAPTURE": "0"}
# Those that compile come last: the part may run out of time.
GPU_PEERS: Final = [
    "torch-eager",
    "torch-manual",
    "torch-graph",
    "jax-scan",
    "jax-step",
    "torch-compile",
    "torch-autotune",
]


def _script(name: str, *words: str) -> list[str]:
    return [str(ROOT / "bench" / name), *words]


DUELS: Final = [
    "--device", "cuda", "--threads", "4", "--blocks", "8", "--settle-ms", "5", "--no-save",
    "--json", "{out}/duel-cuda.json", "--peer", *GPU_PEERS,
]  # fmt: skip
TO_98: Final = ["--device", "cuda", "--seeds", "100", "--limit", "35", "--cold", "3", "--no-save"]
SUITE: Final = ["-m", "pytest", "tests", "--require-gpu", "-m", "gpu", "-q", "--maxfail=20", "-p", "no:cacheprovider"]
PARTS: Final = [
    Part("doctor", 40, "what the machine has", _twostroke("doctor", "--json")),
    Part("verify_grad", 40, "the four equations on the GPU", _verify("grad")),
    Part("verify_parity", 30, "CPU and GPU agree", _verify("parity")),
    Part("verify_resume", 40, "resume is exact on the GPU", _verify("resume")),
    Part("tf32_fails_parity", 30, "TF32 must fail the float32 limits"),
    Part("repeat", 60, "ten runs, bit for bit"),
    Part("accuracy", 60, "the same seed on both devices"),
    Part("step", 40, "launches, allocations, transfers and host time of a step call by call", None, CALL_BY_CALL),
    Part("captured", 60, "steps replayed: the same bits; time of a step, way by way"),
    Part("capture_spike", 110, "ways to capture a product", _script("capture_spike.py", "--seconds", "8")),
    Part("duels", 150, "against PyTorch and JAX", _script("duel.py", *DUELS)),
    Part(
        "time_to_accuracy",
        60,
        "many seeds to 98 %, three clocks",
        _script(
            "time_to_accuracy.py", "--device", "cuda", "--seeds", "100", "--limit", "35", "--cold", "3", "--no-save"
        ),
    ),
    Part("large", 60, "784-4096-4096-10 at batch 8192 against its GEMMs"),
    Part("memory", 40, "out of memory, then a smaller batch", None, LIMITED),
    Part(
        "memory_command",
        40,
        "the command line out of memory",
        _twostroke("train", "--device", "cuda", *FULL_BATCH, "-q", "--out", "{tmp}"),
        LIMITED,
    ),
    Part("crossover", 70, "CPU against GPU", _twostroke("bench", "--json", "--seconds", "8", "--out", "{tmp}")),
    Part("tests", 200, "the test suite's GPU tests", SUITE),
]


# --- the parts that are Python: each returns what was found, with "ok" ----------------------------------------


def tf32_fails_parity() -> dict[str, Any]:
    from twostroke import select_backend, verification

    report = verification.verify("parity", select_backend("cuda", tf32=True))
    worst = {kind: max(c.error for c in report.checks if c.what.startswith(kind)) for kind in ("float32", "float64")}
    failed = sorted({check.what for check in report.checks if not check.passed})
    only_single = all(what.startswith("float32") for what in failed)
    return {"ok": bool(failed) and only_single, "worst": worst, "failed": failed}


def repeat() -> dict[str, Any]:
    from twostroke import MLP, TrainConfig, load_dataset, select_backend, train

    backend, data = select_backend("cuda"), load_dataset("mnist")
    digests = []
    for _ in range(10):
        net = MLP(SMALL)
        list(train(net, data, TrainConfig(epochs=1, batch_size=128, evaluate_test=False), backend=backend))
        digests.append(hashlib.sha256(backend.to_host(net.parameters).tobytes()).hexdigest())
    return {"ok": len(set(digests)) == 1, "runs": len(digests), "different": len(set(digests)), "digest": digests[0]}


def accuracy() -> dict[str, Any]:
    from twostroke import MLP, TrainConfig, load_dataset, select_backend, train

    data, found = load_dataset("mnist"), {}
    for device in ("cpu", "cuda"):
        records = list(train(MLP(SMALL), data, TrainConfig(epochs=4), backend=select_backend(device)))
        found[device] = {"test_accuracy": records[-1].test_accuracy, "seconds": [r.train_seconds for r in records]}
    difference = abs(found["cpu"]["test_accuracy"] - found["cuda"]["test_accuracy"])  # type: ignore[operator]
    return {"ok": difference <= 0.003, "difference": difference, **found}


def _training_step(backend: Any, layers: tuple[int, ...], batch: int, optimizer: str) -> Callable[[], None]:
    """A step on random pixels that runs again and again, as training runs it."""
    import numpy as np

    from twostroke import MLP, TrainConfig
    from twostroke.metrics import Running
    from twostroke.training import TrainingStep, make_optimizer, upload

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (batch, layers[0]), dtype=np.uint8), rng.integers(0, layers[-1], batch)
    net = MLP(layers).to(backend)
    images, targets = upload(backend, pixels, labels.astype(np.uint8), net)
    rule = make_optimizer(net, TrainConfig(optimizer=optimizer))
    step = TrainingStep(net, images, targets, rule, batch, Running(backend, batch, "float32"))
    order = backend.asarray(rng.permutation(batch))
    return lambda: step.run(order, 0, batch, 1e-3)


@contextmanager
def _counted(backend: Any, counts: Counter[str]) -> Iterator[None]:
    """Count the calls that reach the device: each is at least one launch, or a copy."""
    import cupy

    from twostroke.backend import cupy_backend

    def wrap(owner: Any, name: str, label: str) -> Callable[[], None]:
        original = getattr(owner, name)
        own = name in vars(owner)

        def counted(*args: Any, **options: Any) -> Any:
            counts[label] += 1
            return original(*args, **options)

        setattr(owner, name, counted)
        return (lambda: setattr(owner, name, original)) if own else (lambda: delattr(owner, name))

    def fused(self: Any, *arguments: Any) -> None:
        counts["fused kernel"] += 1
        call(self, *arguments)

    call = cupy_backend._Fused.__call__
    cupy_backend._Fused.__call__ = fused  # type: ignore[method-assign]
    names = ("copyto", "take", "max", "sum", "argmax", "subtract", "zeros", "empty", "zeros_like", "mean", "stack")
    undo = [wrap(cupy, name, f"cupy.{name}") for name in names]
    undo += [wrap(backend, "gemm", "gemm"), wrap(backend, "asarray", "UP"), wrap(backend, "to_host", "DOWN")]
    undo.append(wrap(cupy, "asnumpy", "cupy.asnumpy"))
    try:
        yield
    finally:
        cupy_backend._Fused.__call__ = call  # type: ignore[method-assign]
        for restore in undo:
            restore()


def step() -> dict[str, Any]:
    import cupy

    from twostroke import MLP, TrainConfig, load_dataset, select_backend
    from twostroke.training import TrainingRun

    class Allocations(cupy.cuda.MemoryHook):  # type: ignore[misc]
        name = "allocations"

        def __init__(self) -> None:
            self.from_pool = self.from_device = 0

        def malloc_preprocess(self, **_: Any) -> None:
            self.from_pool += 1

        def alloc_preprocess(self, **_: Any) -> None:
            self.from_device += 1

    backend, found = select_backend("cuda"), {}
    with backend.active():
        for batch in (128, 1024):
            one = _training_step(backend, SMALL, batch, "momentum")
            for _ in range(20):
                one()
            backend.synchronize()
            counts: Counter[str] = Counter()
            with _counted(backend, counts), Allocations() as hook:
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
                "pool_allocations": hook.from_pool,
                "device_allocations": hook.from_device,
                "host_us_per_step": 1e6 * statistics.median(host),
                "synchronised_us_per_step": 1e6 * statistics.median(whole),
                "host_us_all": [1e6 * value for value in host],
            }
        data = load_dataset("mnist")
        run = TrainingRun(MLP(SMALL), data, TrainConfig(epochs=2, evaluate_test=False), backend)
        run.advance()
        counts = Counter()
        with _counted(backend, counts):
            run.advance(len(run.bounds) - 1)  # all steps of the epoch but the last: no result is asked for
    up_and_down = {label: counts[label] for label in ("UP", "DOWN", "cupy.asnumpy")}
    still = all(entry["calls"].get("UP", 0) + entry["calls"].get("DOWN", 0) == 0 for entry in found.values())
    # One up: the order of the samples.
    ok = still and counts["UP"] == 1 and counts["DOWN"] == counts["cupy.asnumpy"] == 0
    return {"ok": ok, "steps": found, "transfers_in_an_epoch": up_and_down, "steps_in_that_epoch": len(run.bounds) - 1}


def _backend(mode: str, *, fused: bool = True) -> Any:
    """The GPU with steps captured in this mode (see docs/gpu.md), or with kernels that are not even fused."""
    import cupy

    from twostroke.backend.cupy_backend import CupyBackend

    class Unfused(CupyBackend):
        def _bind(self, kernel: Any) -> Any:
            return partial(kernel, cupy)

    before = os.environ.get("TWOSTROKE_CAPTURE")
    os.environ["TWOSTROKE_CAPTURE"] = mode
    try:
        return (CupyBackend if fused else Unfused)()
    finally:
        os.environ.pop("TWOSTROKE_CAPTURE")
        if before is not None:
            os.environ["TWOSTROKE_CAPTURE"] = before


def _trained(backend: Any, data: Any, layers: tuple[int, ...], config: Any) -> tuple[str, list[float]]:
    """The digest of everything that training leaves behind, and the microseconds of a step in each epoch."""
    from twostroke import MLP
    from twostroke.training import TrainingRun

    run = TrainingRun(MLP(layers), data, config, backend)
    while not run.done:
        run.advance()
    state = hashlib.sha256(b"".join(backend.to_host(array).tobytes() for array in run.state.values()))
    return state.hexdigest(), [1e6 * record.train_seconds / len(run.bounds) for record in run.history]


def waterfall(data: Any, layers: tuple[int, ...], batch: int, epochs: int) -> dict[str, Any]:
    """Microseconds of a step, way by way: the best epoch of each, and the step's products alone, captured."""
    from twostroke import TrainConfig
    from twostroke.benchmark import bare_products

    config = TrainConfig(epochs=epochs, batch_size=batch, evaluate_test=False)
    ways = {
        "not fused": _backend("0", fused=False),
        "call by call": _backend("0"),
        "a launch a step": _backend("auto"),
        "a launch an epoch": _backend("epoch"),
    }
    found: dict[str, Any] = {name: _trained(backend, data, layers, config) for name, backend in ways.items()}
    graphs = {name: ways[name].describe()["graphs"] for name in ways}
    backend = ways["a launch a step"]
    with backend.active():
        products = backend.record(bare_products(backend, layers, batch))
        products(), products()
        blocks = []
        for _ in range(20):
            backend.synchronize()
            started = time.perf_counter()
            for _ in range(50):
                products()
            backend.synchronize()
            blocks.append(1e6 * (time.perf_counter() - started) / 50)
    steps = {name: min(epochs_us) for name, (_, epochs_us) in found.items()} | {"products alone": min(blocks)}
    raw = {name: epochs_us for name, (_, epochs_us) in found.items()} | {"products alone": blocks}
    return {"us_per_step": steps, "raw": raw, "graphs": graphs}


def captured() -> dict[str, Any]:
    from twostroke import Dataset, TrainConfig, load_dataset
    from twostroke.optimizers import OPTIMIZERS

    data = load_dataset("mnist")
    part = Dataset.from_arrays(
        data.train_images[:5000], data.train_labels[:5000], data.test_images, data.test_labels, name="part"
    )
    same = {}
    for optimizer in OPTIMIZERS:
        config = TrainConfig(epochs=4, batch_size=128, optimizer=optimizer, l2=1e-4, evaluate_test=False)
        digests = {mode: _trained(_backend(mode), part, SMALL, config)[0] for mode in ("0", "auto", "epoch")}
        same[optimizer] = len(set(digests.values())) == 1
    steps = {f"batch {batch}": waterfall(data, SMALL, batch, 6) for batch in (128, 1024)}
    used = all(graphs["used"] for graphs in (steps["batch 128"]["graphs"][name] for name in LAUNCHED))
    return {"ok": all(same.values()) and used, "same_bits": same, "used": used, "waterfall": steps}


LAUNCHED: Final = ("a launch a step", "a launch an epoch")


def large() -> dict[str, Any]:
    import numpy as np

    from bench.timing import flops, step_shapes
    from twostroke import select_backend

    batch, found = 8192, {}
    shapes = step_shapes(LARGE, batch)

    def seconds(backend: Any, work: Callable[[], object], times: int) -> list[float]:
        blocks = []
        for _ in range(6):
            backend.synchronize()
            started = time.perf_counter()
            for _ in range(times):
                work()
            backend.synchronize()
            blocks.append((time.perf_counter() - started) / times)
        return blocks[1:]

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
                blocks = seconds(backend, _training_step(backend, LARGE, batch, optimizer), 5)
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


def memory() -> dict[str, Any]:
    import cupy

    from twostroke import MLP, DeviceError, TrainConfig, load_dataset, select_backend
    from twostroke.training import TrainingRun

    backend, data, message = select_backend("cuda"), load_dataset("mnist"), ""
    try:
        TrainingRun(MLP([784, 4096, 10]), data, TrainConfig(batch_size="full"), backend)
    except DeviceError as error:
        message = str(error)
    held = cupy.get_default_memory_pool().used_bytes()
    run = TrainingRun(MLP(SMALL), data, TrainConfig(epochs=1, batch_size=128), backend)
    record = run.advance()
    trained = record is not None and (record.test_accuracy or 0) > 0.9
    ok = message.startswith("out of GPU memory") and "\n" not in message and trained
    return {"ok": ok, "message": message, "bytes_still_held": held, "a_smaller_batch_trained": trained}


# --- running them --------------------------------------------------------------------------------------------


def run_part(part: Part, seconds: float, results: Path | None = None) -> dict[str, Any]:
    """One part in its own process. Never raises."""
    started = time.perf_counter()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = (
        os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "PYTHONUNBUFFERED": "1"} | (part.environment or {})
    )
    with tempfile.TemporaryDirectory(prefix="gpu-session-") as folder:
        words = part.argv or [str(Path(__file__).resolve()), "--part", part.name]
        places = {"{tmp}": folder, "{out}": str(results or folder)}
        for place, name in places.items():
            words = [word.replace(place, name) for word in words]
        if results is not None:
            environment["OUT"] = str(results)
        command = [sys.executable, *words]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            code, out, err = 124, _text(error.stdout), _text(error.stderr)
        left = sorted(path.name for path in Path(folder).rglob("*.safetensors"))
    result: dict[str, Any] = {"exit": code, "seconds": time.perf_counter() - started}
    try:
        found = json.loads(out.strip().splitlines()[-1])
        result["found"] = found
    except (ValueError, IndexError):
        found, result["output"] = {}, out[-6000:]
    if err.strip():
        result["stderr"] = err[-3000:]
    ok = code == 0 and (not isinstance(found, dict) or found.get("ok", True))
    if part.name == "memory_command":
        ok = code == 3 and err.count("\n") == 1 and "out of GPU memory" in err and not left
    result["outcome"] = "TIMED OUT" if code == 124 else "ok" if ok else "FAILED"
    return result


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def headline(name: str, result: dict[str, Any]) -> str:
    """The figure of a part that a reader wants first."""
    try:
        if name in HEADLINES and "found" in result:
            return HEADLINES[name](result["found"])
        if name.startswith("verify_") and "found" in result:
            checks = result["found"]["checks"]
            return f"{len(checks)} checks, worst {max(check['error'] or 0.0 for check in checks):.2g}"
    except (KeyError, TypeError, IndexError):
        return "unreadable: see the JSON"
    lines = (result.get("output") or result.get("stderr") or "").strip().splitlines()
    return lines[-1][:110] if lines else ""


def _step_headline(found: Any) -> str:
    entry = found["steps"]["batch 128"]
    return (
        f"{entry['calls_per_step']} calls, {entry['pool_allocations']} allocations,"
        f" {entry['host_us_per_step']:.0f} us host, {entry['synchronised_us_per_step']:.0f} us in all"
    )


def _large_headline(found: Any) -> str:
    kinds = ((kind, found[kind]["sgd"]["fraction_of_roofline"], found[kind]["roofline_tflops"]) for kind in TYPES)
    return ", ".join(f"{kind} {fraction:.0%} of {rate:.1f} TFLOP/s" for kind, fraction, rate in kinds)


def _captured_headline(found: Any) -> str:
    steps = found["waterfall"]["batch 128"]["us_per_step"]
    bits = "the same bits" if all(found["same_bits"].values()) else "OTHER BITS"
    return f"{bits}; " + ", ".join(f"{name} {us:.0f} us" for name, us in steps.items())


def _spike_headline(found: Any) -> str:
    rows = [row for row in found["rows"] if row.get("batch_size") == 128 and row.get("layers") == [*SMALL]]
    return ", ".join(f"{row['way']} {row['us']:.0f} us" for row in rows if "us" in row)


def _duels_headline(found: Any) -> str:
    return ", ".join(f"{row['peer']} {row['ratio']:.2f}" for row in found["rows"] if row["status"] == "ok")


def _accuracy_headline(found: Any) -> str:
    accuracy, clock = found["accuracy"], found["clocks"]["resident_seconds"]
    return f"{accuracy['seeds']} seeds, mean {accuracy['mean']:.3%}, resident clock {clock['median']:.3f} s"


TYPES: Final = ("float32", "tf32")
HEADLINES: Final[dict[str, Callable[[Any], str]]] = {
    "doctor": lambda found: f"{found['device']}: {found['reason']}, {found['gemm_gflops']:,.0f} GFLOP/s",
    "tf32_fails_parity": lambda found: f"worst {found['worst']['float32']:.2g}, {len(found['failed'])} tensors over it",
    "repeat": lambda found: f"{found['runs']} runs, {found['different']} different result(s)",
    "accuracy": lambda found: f"difference {found['difference']:.4f}",
    "step": _step_headline,
    "captured": _captured_headline,
    "capture_spike": _spike_headline,
    "duels": _duels_headline,
    "time_to_accuracy": _accuracy_headline,
    "large": _large_headline,
    "memory": lambda found: f"{found['bytes_still_held']:,} bytes held after it",
}


def folder_of(gpu: str) -> Path:
    """$OUT, or bench/results/MACHINE."""
    if os.environ.get("OUT"):
        return Path(os.environ["OUT"])
    return ROOT / "bench" / "results" / (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="run nothing that needs a GPU: list it, with the reason")
    parser.add_argument("--only", help="names of parts, separated by commas")
    parser.add_argument("--out", type=Path, help="where gpu-session.json goes")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        print(json.dumps(globals()[options.part]()), flush=True)
        return 0
    wanted = options.only.split(",") if options.only else [part.name for part in PARTS]
    unknown = set(wanted) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    from twostroke.backend.probe import probe_cuda
    from twostroke.record import versions

    probe = probe_cuda()
    reason = "--dry-run" if options.dry_run and probe.usable else "" if probe.usable else probe.reason
    started, results = time.perf_counter(), {}
    out = options.out or folder_of(probe.reason.partition(" (")[0] if probe.usable else "no gpu")
    if options.out or not reason:
        out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if part.name not in wanted:
            continue
        remaining = BUDGET_S - (time.perf_counter() - started)
        if part.name != "doctor" and reason:
            results[part.name] = {"outcome": "SKIPPED", "reason": reason}
        elif remaining < 10:
            results[part.name] = {"outcome": "SKIPPED", "reason": "no time left"}
        else:
            print(f"{part.name}: {part.what} ...", flush=True)
            results[part.name] = run_part(part, min(part.seconds, remaining), out.resolve())
    record = {"gpu": probe.reason, "versions": versions(), "seconds": time.perf_counter() - started, "parts": results}
    if options.out or not reason:
        (out / "gpu-session.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"raw results: {out / 'gpu-session.json'}")
    for name, result in results.items():
        tail = result["reason"] if "reason" in result else headline(name, result)
        print(f"{name:18} {result['outcome']:9} {result.get('seconds', 0):5.0f} s  {tail}")
    if reason and not options.dry_run:
        print(f"no GPU was measured: {reason}", file=sys.stderr)
        return 3
    return int(any(result["outcome"] in ("FAILED", "TIMED OUT") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
