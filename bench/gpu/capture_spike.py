"""How to capture a matrix product in a CUDA graph, and what it buys: ``python bench/gpu/capture_spike.py``, on a GPU.

CuPy refuses its own cuBLAS handle while a stream is captured. Each way around that runs the same recorded training
step in a process of its own, so that one that fails or crashes costs only itself and leaves its reason:

    call-by-call   CuPy's handle, nothing captured: what the others are held against
    own-handle     cuBLAS through ctypes on a handle and workspace of our own: what the package does
    nvmath         the same through nvmath.bindings.cublas
    cutensor       cupyx.cutensor.contraction
    rawkernel      a plain tiled product as a RawKernel

For each net and batch size: the weights after ten steps against call by call (relative L2), microseconds of a step
with and without waiting for it, milliseconds to capture it; then 64 steps in one graph, and whether a graph launched
under capture becomes a part of a larger one. The rule of decision is in bench/README.md. The last line of stdout is one
JSON document, also kept in $OUT or bench/results/MACHINE.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
WAYS: Final = ("call-by-call", "own-handle", "nvmath", "cutensor", "rawkernel")
NETS: Final = ((784, 30, 10), (784, 128, 10), (784, 512, 512, 10))
BATCHES: Final = (16, 128, 1024)
SECONDS: Final = 22.0  # for one way
CHECK_STEPS, LONG = 10, 64
TOLERANCE: Final = 5e-6  # relative L2 of the weights, as in `twostroke verify parity`
RATE: Final = 1e-3

TILE: Final = 16
PRODUCT: Final = r"""
extern "C" __global__ void product(const float* A, int ai, int ak, const float* B, int bk, int bj, float* C, int ci,
                                   int cj, int M, int N, int K, float alpha, float beta) {
    __shared__ float a[TILE][TILE + 1], b[TILE][TILE + 1];
    int x = threadIdx.x, y = threadIdx.y, i = blockIdx.y * TILE + y, j = blockIdx.x * TILE + x;
    float sum = 0.0f;
    for (int k = 0; k < K; k += TILE) {
        a[y][x] = i < M && k + x < K ? A[(size_t)i * ai + (size_t)(k + x) * ak] : 0.0f;
        b[y][x] = j < N && k + y < K ? B[(size_t)(k + y) * bk + (size_t)j * bj] : 0.0f;
        __syncthreads();
        for (int l = 0; l < TILE; ++l) sum += a[y][l] * b[l][x];
        __syncthreads();
    }
    if (i < M && j < N) {
        float* c = C + (size_t)i * ci + (size_t)j * cj;
        *c = beta == 0.0f ? alpha * sum : alpha * sum + beta * *c;
    }
}
""".replace("TILE", str(TILE))


def make_backend(way: str) -> Any:
    """The package's backend with the products done in this way. Whatever is missing is raised."""
    os.environ["TWOSTROKE_CAPTURE"] = "0" if way == "call-by-call" else "auto"
    from twostroke.backend import Scalars
    from twostroke.backend.cuda import cublas
    from twostroke.backend.cuda.backend import CupyBackend

    class BakedBackend(CupyBackend):
        """Factors as numbers: they are part of the graph, so these ways can replay a fixed learning rate only."""

        def scalars(self, count: int, dtype: str) -> Scalars:
            return _Numbers(count)

    class _Numbers(Scalars):
        def __init__(self, count: int) -> None:
            self._views: list[Any] = [0.0] * count

        def set(self, *values: float) -> None:
            self._views[:] = values

    class CutensorBackend(BakedBackend):
        def gemm(self, a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
            from cupyx import cutensor  # type: ignore[import-not-found,unused-ignore]

            cutensor.contraction(alpha, a, "ik", b, "kj", beta, out, "ij")

    class RawKernelBackend(BakedBackend):
        def gemm(self, a: Any, b: Any, out: Any, alpha: float = 1.0, beta: float = 0.0) -> None:
            strides = [[np.int32(step // 4) for step in x.strides] for x in (a, b, out)]
            (m, n), k = out.shape, a.shape[1]
            arguments = [part for x, step in zip((a, b, out), strides, strict=True) for part in (x, *step)]
            numbers = [*map(np.int32, (m, n, k)), np.float32(alpha), np.float32(beta)]
            _product_kernel()((-(-n // TILE), -(-m // TILE)), (TILE, TILE), (*arguments, *numbers))

    if way == "nvmath":
        library = NvmathLibrary()
        cublas.open_library = lambda: library
    kinds = {"cutensor": CutensorBackend, "rawkernel": RawKernelBackend}
    backend = kinds.get(way, CupyBackend)()
    graphs: Any = backend.describe()["graphs"]
    if way != "call-by-call" and not graphs["used"]:
        raise RuntimeError(graphs["reason"])
    return backend


def _product_kernel() -> Any:
    import cupy

    return cupy.RawKernel(PRODUCT, "product")


class NvmathLibrary:
    """nvmath's bindings under cuBLAS's own names, for ``OwnHandle``."""

    def __init__(self) -> None:
        from nvmath.bindings import cublas

        self._cublas = cublas

    def cublasCreate_v2(self, handle: Any) -> int:
        handle._obj.value = self._cublas.create()
        return 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        names = {
            "cublasDestroy_v2": "destroy",
            "cublasSetStream_v2": "set_stream",
            "cublasSetWorkspace_v2": "set_workspace",
            "cublasSetMathMode": "set_math_mode",
            "cublasSetPointerMode_v2": "set_pointer_mode",
            "cublasSgemm_v2": "sgemm",
            "cublasDgemm_v2": "dgemm",
        }
        function = getattr(self._cublas, names[name])

        def call(handle: Any, *arguments: int) -> int:
            function(handle.value, *arguments)
            return 0

        return call


class Case:
    """A step of plain SGD on the same random samples again and again, in one way."""

    def __init__(self, backend: Any, layers: tuple[int, ...], batch: int) -> None:
        from twostroke import MLP
        from twostroke.engine.optimizers import SGD
        from twostroke.engine.step import TrainingStep
        from twostroke.engine.training import upload

        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch, layers[0]), dtype=np.uint8)
        labels = rng.integers(0, layers[-1], batch).astype(np.uint8)
        self.backend, self.net = backend, MLP(layers).to(backend)
        images, targets = upload(backend, pixels, labels, self.net)
        step = TrainingStep(self.net, images, targets, SGD(self.net), batch)
        buffers = step.workspace.rows(batch)
        backend.xp.copyto(buffers.indices, backend.asarray(np.arange(batch)))
        step.optimizer.begin_step(RATE)
        self.step = partial(step.learn_batch, buffers, batch)

    def weights(self) -> Any:
        """The parameters on the host."""
        return np.array(self.backend.to_host(self.net.parameters))


def microseconds(backend: Any, run: Callable[[], None], steps: int, seconds: float) -> dict[str, float]:
    """Of one of the ``steps`` that a run does: medians of blocks, the host's part and with the wait at the end."""
    host: list[float] = []
    whole: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(whole) < 5 or time.perf_counter() < deadline:
        backend.synchronize()
        started = time.perf_counter()
        for _ in range(50):  # few enough that the launch queue does not fill up and make the host wait
            run()
        host.append((time.perf_counter() - started) / 50 / steps)
        backend.synchronize()
        whole.append((time.perf_counter() - started) / 50 / steps)
    return {"host_us": 1e6 * statistics.median(host), "us": 1e6 * statistics.median(whole), "best_us": 1e6 * min(whole)}


def measure(way: str, nets: Sequence[tuple[int, ...]], batches: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """One way through all cases. ``way`` call-by-call is measured as a reference, and not captured."""
    backend, rows = make_backend(way), []
    reference = backend if way == "call-by-call" else make_backend("call-by-call")
    for layers in nets:
        for batch in batches:
            with backend.active():
                row: dict[str, Any] = {"way": way, "layers": list(layers), "batch_size": batch}
                rows.append(row)
                try:
                    row |= measure_case(backend, reference, layers, batch, seconds / len(nets) / len(batches))
                except Exception as error:
                    row["failed"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return rows


def measure_case(backend: Any, reference: Any, layers: tuple[int, ...], batch: int, seconds: float) -> dict[str, Any]:
    """Whether it is right, then how long it takes. Raises ``RuntimeError`` where it could not be captured."""
    from twostroke.backend import Steps

    ours, theirs = Case(backend, layers, batch), Case(reference, layers, batch)
    run = backend.capture([Steps(ours.step)]).run
    run()
    started = time.perf_counter()
    run()
    captured_s = time.perf_counter() - started
    for _ in range(CHECK_STEPS - 2):
        run()
    for _ in range(CHECK_STEPS):
        theirs.step()
    found, expected = ours.weights(), theirs.weights()
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    graphs = backend.describe()["graphs"]
    if backend is not reference and not graphs["used"]:
        raise RuntimeError(graphs["reason"])
    row: dict[str, Any] = {"relative_l2": error, "right": error <= TOLERANCE, "bits": bool((found == expected).all())}
    row |= microseconds(backend, run, 1, seconds / 2) | {"capture_ms": 1e3 * captured_s}
    if backend is not reference:
        row |= {"in_one_launch": longer(backend, ours.step, seconds / 4), "nested": nested(backend, run, seconds / 4)}
    return row


def longer(backend: Any, step: Callable[[], None], seconds: float) -> dict[str, Any]:
    """``LONG`` steps captured one after the other as one graph."""

    def many() -> None:
        for _ in range(LONG):
            step()

    started = time.perf_counter()
    launch = backend._capture.graph(many)
    captured_s = time.perf_counter() - started
    if launch is None:
        raise RuntimeError(backend.describe()["graphs"]["reason"])
    launch()
    return microseconds(backend, launch, LONG, seconds) | {"steps": LONG, "capture_ms": 1e3 * captured_s}


def nested(backend: Any, run: Callable[[], None], seconds: float) -> dict[str, Any]:
    """``LONG`` launches of a step's graph, themselves captured: much quicker to make, if CUDA takes it."""
    import cupy

    from twostroke.backend.cuda.cublas import undisturbed

    stream = cupy.cuda.Stream(non_blocking=True)
    started = time.perf_counter()
    try:
        with undisturbed(), stream:
            stream.begin_capture()
            try:
                for _ in range(LONG):
                    run()
            finally:
                graph = stream.end_capture()
        captured_s = time.perf_counter() - started
        graph.launch()
        return microseconds(backend, graph.launch, LONG, seconds) | {"steps": LONG, "capture_ms": 1e3 * captured_s}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


# --- the ways in processes of their own -----------------------------------------------------------------------


def run_way(way: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of one way; one row with the reason where it did not run."""
    from bench import processes

    command = [sys.executable, str(Path(__file__).resolve()), "--way", way, "--seconds", str(seconds)]
    done = processes.run(command, 3 * seconds + 30)
    try:
        rows: list[dict[str, Any]] = json.loads(done.out.splitlines()[-1])
    except (IndexError, ValueError):
        return [{"way": way, "failed": done.why}]
    return rows


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    if "failed" in row:
        shape = f"{'-'.join(map(str, row['layers']))} batch {row['batch_size']}: " if "layers" in row else ""
        return f"{row['way']:13} {shape}{row['failed']}"
    long = row.get("in_one_launch")
    many = f"{long['us']:9.2f} {row['capture_ms']:10.2f} {long['capture_ms']:10.1f}" if long else ""
    verdict = "bits" if row["bits"] else "right" if row["right"] else "WRONG"
    case = f"{row['way']:13} {'-'.join(map(str, row['layers'])):15} {row['batch_size']:5}"
    return f"{case} {row['relative_l2']:9.1e} {verdict:5} {row['host_us']:9.2f} {row['us']:9.2f} {many}"


HEADER: Final = f"{'way':13} {'net':15} batch  rel. L2        host us    us/step  us of 64  capture ms  64 together"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why not; needs no GPU")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"for each way (default {SECONDS:g})"
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # we are a way's process
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where capture-spike.json goes")
    options = parser.parse_args(argv)
    if options.way:
        try:
            print(json.dumps(measure(options.way, NETS, BATCHES, options.seconds)))
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            print(json.dumps([{"way": options.way, "failed": reason}]))
        return 0
    from bench.gpu.session import folder_of
    from twostroke.backend.cuda.probe import probe_cuda

    probe = probe_cuda()
    print(HEADER, flush=True)
    rows: list[dict[str, Any]] = []
    document = {"kind": "twostroke-capture-spike", "gpu": probe.reason, "tolerance": TOLERANCE, "rows": rows}
    for way in WAYS:
        skip = "--dry-run" if options.dry_run else "" if probe.usable else probe.reason
        found = [{"way": way, "failed": f"skipped: {skip}"}] if skip else run_way(way, options.seconds)
        for row in found:
            print(line(row), flush=True)
        rows += found
        if probe.usable and not options.dry_run:  # after every way: what ends the run costs only those to come
            folder = options.out or folder_of(probe.reason.partition(" (")[0])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "capture-spike.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))
    return 0 if probe.usable or options.dry_run else 3


if __name__ == "__main__":
    sys.exit(main())
