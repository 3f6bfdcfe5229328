"""Parts of ``session.py`` that ask whether a GPU's results are right. Each returns what was found, with "ok"."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from bench.processes import Done, run

SANITIZERS: Final = ("memcheck", "racecheck", "synccheck")
SANITIZER_S: Final = 60.0
FOUND: Final = 9  # the exit code of one that found something
SMALL: Final = (784, 128, 10)


def tf32_fails_parity() -> dict[str, Any]:
    from twostroke import select_backend
    from twostroke.measure import verification

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


def memory() -> dict[str, Any]:
    import cupy

    from twostroke import MLP, DeviceError, TrainConfig, load_dataset, select_backend
    from twostroke.engine.training import TrainingRun

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


def captured() -> dict[str, Any]:
    from twostroke import Dataset, load_dataset

    data = load_dataset("mnist")
    part = Dataset.from_arrays(
        data.train_images[:5000], data.train_labels[:5000], data.test_images, data.test_labels, name="part"
    )
    return same_bits(part, SMALL, 128)


def same_bits(data: Any, layers: tuple[int, ...], batch: int) -> dict[str, Any]:
    """Whether compiled steps end in the same bits however they are launched, for each optimiser; and how far they are
    from steps call by call, whose products are all cuBLAS's."""
    import numpy as np

    from twostroke import TrainConfig
    from twostroke.engine.optimizers import OPTIMIZERS

    same: dict[str, bool] = {}
    away: dict[str, float] = {}
    reasons = set()
    for optimizer in OPTIMIZERS:
        config = TrainConfig(epochs=4, batch_size=batch, optimizer=optimizer, l2=1e-4, evaluate_test=False)
        ways = {
            "kernel by kernel": make_backend("auto", captured=False),
            "a launch a step": make_backend("auto"),
            "a launch an epoch": make_backend("epoch"),
        }
        states = {name: trained(backend, data, layers, config)[0] for name, backend in ways.items()}
        expected = trained(make_backend("0"), data, layers, config)[0]
        same[optimizer] = len({state.tobytes() for state in states.values()}) == 1
        found = states["a launch a step"]
        away[optimizer] = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        for backend in ways.values():
            reasons |= {str(backend.describe()[of]["reason"]) for of in ("graphs", "compiled")}
    used = reasons == {""}
    ok = all(same.values()) and used
    return {"ok": ok, "same_bits": same, "from_call_by_call": away, "used": used, "reasons": sorted(reasons)}


def sanitizer() -> dict[str, Any]:
    """What NVIDIA's compute-sanitizer says of compiled steps: addresses, races in shared memory, barriers."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"ok": True, "seen": False, "reason": "there is no compute-sanitizer"}

    def sanitized(name: str) -> Done:
        options = [tool, "--tool", name, "--error-exitcode", str(FOUND)]
        script = Path(__file__).with_name("session.py")
        return run([*options, sys.executable, str(script), "--part", "small_runs"], SANITIZER_S)

    with ThreadPoolExecutor(len(SANITIZERS)) as pool:
        found = dict(zip(SANITIZERS, pool.map(sanitized, SANITIZERS), strict=True))
    tools = {name: {"exit": done.code, "output": done.out[-2000:] + done.err[-1000:]} for name, done in found.items()}
    return {"ok": all(done.code == 0 for done in found.values()), "seen": True, "tools": tools}


def small_runs() -> dict[str, Any]:
    """Training, evaluation and prediction in which each kind of generated kernel has a part: tiles of three sizes,
    products by row, remainders. Every array has memory of its own, so that an address beyond one is seen."""
    import cupy
    import numpy as np

    from twostroke import MLP, Dataset, TrainConfig
    from twostroke.engine.optimizers import OPTIMIZERS
    from twostroke.engine.training import TrainingRun

    cupy.cuda.set_allocator(None)
    rng, ran = np.random.default_rng(0), 0
    for layers, batch, n in (((784, 128, 10), 128, 300), ((20, 33, 17, 10), 64, 150), ((20, 33, 10), 4, 10)):
        images, labels = rng.integers(0, 256, (n, layers[0]), dtype=np.uint8), rng.integers(0, 10, n)
        data = Dataset.from_arrays(images, labels, images[: n // 2], labels[: n // 2], n_classes=10)
        for optimizer in OPTIMIZERS:
            backend = make_backend("auto")
            config = TrainConfig(epochs=3, batch_size=batch, optimizer=optimizer, dropout=0.2, l2=1e-4, lr=1e-3)
            job = TrainingRun(MLP(layers), data, config, backend)
            while not job.done:
                job.advance()
            ran += len(job.net.predict_proba(images))
    return {"ok": True, "predicted": ran}


def make_backend(mode: str, *, captured: bool = True) -> Any:
    """The GPU with steps captured in this mode (docs/gpu.md); not ``captured``: compiled, launched kernel by kernel."""
    from twostroke.backend.cuda.backend import CupyBackend

    before = os.environ.get("TWOSTROKE_CAPTURE")
    os.environ["TWOSTROKE_CAPTURE"] = mode
    try:
        backend = CupyBackend()
    finally:
        os.environ.pop("TWOSTROKE_CAPTURE")
        if before is not None:
            os.environ["TWOSTROKE_CAPTURE"] = before
    if not captured:
        backend._capture.graph = lambda work: None  # type: ignore[method-assign]
    return backend


def trained(backend: Any, data: Any, layers: tuple[int, ...], config: Any) -> tuple[Any, list[float]]:
    """Everything that training leaves behind, as one host array, and the microseconds of a step in each epoch."""
    import numpy as np

    from twostroke import MLP
    from twostroke.engine.training import TrainingRun

    run = TrainingRun(MLP(layers), data, config, backend)
    while not run.done:
        run.advance()
    state = np.concatenate([backend.to_host(array).ravel() for array in run.state.values()])
    return state, [1e6 * record.train_seconds / len(run.bounds) for record in run.history]
