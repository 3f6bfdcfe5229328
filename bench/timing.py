"""The clock of every benchmark here, the roofline it is held against, its machine, and where results are kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from twostroke import __version__
from twostroke.backend import Backend, Steps
from twostroke.backend.machine import available_cores, processor_name
from twostroke.files.atomic_file import write_atomically

RESULTS: Final = Path(__file__).parent / "results"
# What moves the speed of a BLAS or a thread pool without a trace in the code.
ENVIRONMENT: Final = re.compile(r"(OPENBLAS|MKL|OMP|GOMP|KMP|BLIS|GOTO|XLA|CUPY|CUBLAS|NVIDIA)_\w+|(PJRT_)?NPROC")
# Options of every pytest-benchmark marker but the timer: rounds of at least 5 ms hide the cost of synchronising.
OPTIONS: Final[dict[str, Any]] = {
    "min_time": 0.005,
    "max_time": 0.4,
    "min_rounds": 5,
    "warmup": True,
    "disable_gc": True,
}
_synchronize: list[Callable[[], None]] = []
_measured: dict[tuple[Any, ...], float] = {}


def synchronize_with(backend: Backend) -> None:
    """Let ``synchronized_time`` wait for this backend from now on."""
    _synchronize[:] = [backend.synchronize]


def synchronized_time() -> float:
    """The time once the device is done. THE timer of all benchmarks: pytest-benchmark spends 1 s on each new one."""
    for synchronize in _synchronize:
        synchronize()
    return time.perf_counter()


# --- the roofline: the same matrix products and nothing else ---------------------------------------------


def step_shapes(layers: Sequence[int], n: int) -> list[tuple[int, int, int, str]]:
    """(rows, inner, columns, kind) of the products of one training step: Z = X W, dX = dZ W^T, dW = X^T dZ."""
    shapes = []
    for index, (fan_in, fan_out) in enumerate(pairwise(layers)):
        shapes += [(n, fan_in, fan_out, "XW"), (fan_in, n, fan_out, "XtdZ")]
        if index:
            shapes.append((n, fan_out, fan_in, "dZWt"))
    return shapes


def forward_shapes(layers: Sequence[int], n: int) -> list[tuple[int, int, int, str]]:
    """The products of one pass of inference."""
    return [(n, fan_in, fan_out, "XW") for fan_in, fan_out in pairwise(layers)]


def flops(shapes: Sequence[tuple[int, int, int, str]]) -> int:
    """Floating-point operations of these products."""
    return sum(2 * rows * inner * columns for rows, inner, columns, _ in shapes)


def roofline(backend: Backend, shapes: Sequence[tuple[int, int, int, str]]) -> float:
    """GFLOP/s of these float32 products one after the other, each called in the fastest way known here.

    On the CPU by our own products and straight from SciPy's BLAS, on operands laid out beforehand, for one row also as
    gemv and ger: for these the limit is memory, and the figure says what the memory gives. Each product is timed
    alone, its operands warm.
    """
    seconds = sum(_product_seconds(backend, *shape) for shape in shapes)
    return flops(shapes) / seconds / 1e9


def _product_seconds(backend: Backend, *shape: Any) -> float:
    """Measured once per process, product and device: the number of threads does not change within a run."""
    key = (backend.device, *shape)
    if key not in _measured:
        calls = _calls(backend, *shape)
        with backend.active():
            _measured[key] = min(_best_seconds(backend, call) for call in calls)
    return _measured[key]


def _calls(backend: Backend, rows: int, inner: int, columns: int, kind: str) -> list[Callable[[], object]]:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        return backend.asarray(rng.standard_normal(shape, dtype=np.float32))

    # Stored as the engine stores them: C order, transposed operands as .T views.
    a = random(inner, rows).T if kind == "XtdZ" else random(rows, inner)
    b = random(columns, inner).T if kind == "dZWt" else random(inner, columns)
    out = random(rows, columns)
    if backend.name != "numpy":
        return [partial(backend.xp.matmul, a, b, out=out)]
    from scipy.linalg import blas

    # out^T = b^T a^T, column by column. ``(matrix, 1)`` is the transpose of a matrix in Fortran order.
    (first, trans_first), (second, trans_second) = ((m.T, 0) if m.flags.c_contiguous else (m, 1) for m in (b, a))
    calls: list[Callable[[], object]] = [
        partial(blas.sgemm, 1.0, first, second, 0.0, out.T, trans_first, trans_second, 1)
    ]
    if rows == 1:
        calls.append(partial(blas.sgemv, 1.0, first, a.ravel(), 0.0, out.ravel(), trans=trans_first, overwrite_y=1))
    if inner == 1:
        calls.append(partial(blas.sger, 1.0, b.ravel(), a.ravel(), a=out.T, overwrite_a=1))
    # Our own product where there is one: the ceiling is whatever is quickest.
    return [*calls, backend.capture([Steps(partial(backend.gemm, a, b, out))]).run]


def _best_seconds(backend: Backend, call: Callable[[], object], block: float = 0.003, blocks: int = 12) -> float:
    """The fastest block: a roofline is a ceiling, and a neighbour must not lower it."""
    n, elapsed = 1, 0.0
    while elapsed < block:
        n *= 2
        elapsed = run_seconds(backend, call, n)
    return min(run_seconds(backend, call, n) / n for _ in range(blocks))


def run_seconds(backend: Backend, call: Callable[[], object], n: int) -> float:
    """Of ``n`` calls, one after the other, and of the device until it is done with them."""
    backend.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        call()
    backend.synchronize()
    return time.perf_counter() - start


# --- the machine -----------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The variables that are set and change how fast a BLAS or a pool of threads is."""
    # threadpoolctl sets the exception itself, for everybody, when it is imported.
    names = [name for name in sorted(os.environ) if ENVIRONMENT.fullmatch(name) and name != "KMP_DUPLICATE_LIB_OK"]
    return {name: os.environ[name] for name in names}


@cache
def blas_description() -> str:
    """SciPy's BLAS, the one the engine uses: library, version, architecture it chose, threading layer."""
    from twostroke.backend.cpu.blas import scipy_blas

    return scipy_blas().description


def processor_family() -> str:
    """What tells processors of one name apart; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("cpu family")), "")


def machine_name() -> str:
    """processor, its family, cores, BLAS architecture: a folder's name, without the host's."""
    architecture = blas_description().split()[-2] if len(blas_description().split()) > 2 else "unknown"
    text = f"{processor_name()}-{processor_family()}-{available_cores()}c-{architecture}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def describe_machine() -> dict[str, object]:
    """What every figure is published with."""
    import scipy

    return {
        "machine": machine_name(),
        "processor": processor_name(),
        "family": processor_family(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.release()}",
        "blas": blas_description(),
        "environment": environment(),
        "versions": {
            "twostroke": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "commit": _commit(),
    }


@cache
def _commit() -> str:
    """The commit of the tree, with + if files differ from it; empty without git."""
    try:
        command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# --- results ---------------------------------------------------------------------------------------------


def result_file(document: Mapping[str, Any], name: str, folder: Path | None = None) -> Path:
    """``NAME-TIME.json`` in the results of the document's machine, or in ``folder``."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return (folder or RESULTS / str(document["machine"])) / f"{name}-{stamp}.json"


def write_result(file: Path, document: Mapping[str, Any]) -> None:
    """The whole document, raw pairs included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, f"{json.dumps(document, indent=1)}\n".encode())


def keeper(document: dict[str, Any], arguments: argparse.Namespace, name: str) -> Callable[[dict[str, Any]], None]:
    """Writes a document to the results and to --json: each time to the same files."""
    files = [arguments.json] if arguments.json else []
    files += [] if arguments.no_save else [result_file(document, name)]

    def keep(document: dict[str, Any]) -> None:
        for file in files:
            write_result(file, document)

    return keep
