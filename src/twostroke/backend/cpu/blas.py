"""SciPy's BLAS, which multiplies where there is no C library; and how many threads a BLAS in this process may use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl

from ..column_major import column_major
from ..machine import available_cores


class ThreadCount(NamedTuple):
    """Gets and sets a library's number of threads."""

    get: Callable[[], int]
    set: Callable[[int], None]


class Pools:
    """The number of threads of every BLAS in the process: of all Python threads together.

    ``enter`` and ``leave`` enclose a block of work that wants a number; blocks nest. Where Python threads want
    different numbers at a time, the smallest holds for all: with more than it asked for, a block would compute other
    bits. After the last block the numbers are those from before the first.
    """

    def __init__(self, libraries: list[ThreadCount]) -> None:
        self._libraries = libraries
        # A fork waits for it: OpenBLAS starts its threads where a number is set, and a child forked meanwhile hangs.
        self._lock = threading.RLock()
        self._wanted: dict[int, list[int]] = {}  # by thread, the numbers of its blocks; the last is the innermost
        self._before: list[int] = []
        self._now = self._before
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._in_child
            )

    def _in_child(self) -> None:
        """The other threads are not there."""
        self._wanted = {key: counts for key, counts in self._wanted.items() if key == threading.get_ident()}
        self._lock.release()

    @property
    def threads(self) -> list[int]:
        """The number of each library."""
        return [library.get() for library in self._libraries]

    def enter(self, count: int) -> None:
        """Begin a block of this thread that wants ``count`` threads."""
        with self._lock:
            if not self._wanted:
                self._before = self._now = self.threads
            self._wanted.setdefault(threading.get_ident(), []).append(count)
            self._apply()

    def change(self, count: int) -> None:
        """Let this thread's innermost block, if there is one, want another number."""
        with self._lock:
            if mine := self._wanted.get(threading.get_ident()):
                mine[-1] = count
                self._apply()

    def leave(self) -> None:
        """End this thread's innermost block."""
        with self._lock:
            mine = self._wanted[threading.get_ident()]
            mine.pop()
            if not mine:
                del self._wanted[threading.get_ident()]
            self._apply()

    def _apply(self) -> None:
        counts = self._before
        if self._wanted:
            counts = [min(blocks[-1] for blocks in self._wanted.values())] * len(self._libraries)
        if counts != self._now:
            for library, count, now in zip(self._libraries, counts, self._now, strict=True):
                if count != now:  # OpenBLAS takes microseconds to set what is set
                    library.set(count)
            self._now = counts


class Blas(NamedTuple):
    """SciPy's BLAS functions, and the library behind them."""

    sgemm: Callable[..., Any]
    dgemm: Callable[..., Any]
    sgemv: Callable[..., Any]
    dgemv: Callable[..., Any]
    sger: Callable[..., Any]
    dger: Callable[..., Any]
    pool: Pools
    description: str


@cache
def scipy_blas() -> Blas:
    """SciPy's BLAS. Imported here: it takes longer than all the rest of the package."""
    from scipy.linalg import blas

    # Anew: the import has brought one more.
    controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
    infos = controller.info()
    pools = Pools([ThreadCount(one.get_num_threads, partial(_set, one)) for one in controller.lib_controllers])
    ours = next((info for info in infos if "scipy.libs" in info["filepath"]), infos[0] if infos else {})
    words = (ours.get(key) for key in ("internal_api", "version", "architecture", "threading_layer"))
    description = " ".join(str(word) for word in words if word) or "unknown"
    return Blas(blas.sgemm, blas.dgemm, blas.sgemv, blas.dgemv, blas.sger, blas.dger, pools, description)


@cache
def _loaded() -> list[Any]:
    """Every BLAS that is in the process; NumPy's is from the beginning."""
    return list(threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers)


def allowed_threads() -> int:
    """The number of threads that "auto" may use: as many as there are cores, unless BLAS may use fewer.

    So all limits hold that hold for NumPy: ``OMP_NUM_THREADS``, a block of ``threadpoolctl.threadpool_limits``, and
    what joblib gives its workers.
    """
    allowed: list[int] = [library.get_num_threads() for library in _loaded()]
    return max(1, min([available_cores(), *allowed]))


def multiply(blas: Blas, alpha: float, a: Any, b: Any, beta: float, out: Any) -> None:
    """out <- alpha a b + beta out, by the quickest routine of ``blas``."""
    single = out.dtype == np.float32
    first, trans_first, second, trans_second, c = column_major(a, b, out)
    if out.shape[0] == 1 and out.shape[1] > 1 and out.flags.c_contiguous:
        # One row: a matrix-vector product is several times faster than a GEMM of one row.
        gemv = blas.sgemv if single else blas.dgemv
        matrix, trans = (b, 1) if b.flags.f_contiguous else (b.T, 0)
        # alpha, a, x, beta, y, offx, incx, offy, incy, trans, overwrite_y
        gemv(alpha, matrix, a.reshape(-1), beta, out.reshape(-1), 0, 1, 0, 1, trans, 1)
    elif a.shape[1] == 1 and isinstance(beta, float) and beta == 1.0:
        # What a batch of one sample adds to the weights.
        ger = blas.sger if single else blas.dger
        # alpha, x, y, incx, incy, a, overwrite_x, overwrite_y, overwrite_a
        ger(alpha, first.reshape(-1), second.reshape(-1), 1, 1, c, 1, 1, 1)
    else:
        gemm = blas.sgemm if single else blas.dgemm
        # alpha, a, b, beta, c, trans_a, trans_b, overwrite_c
        gemm(alpha, first, second, beta, c, trans_first, trans_second, 1)


def _set(library: Any, count: int) -> None:
    """Set a BLAS's number. In threadpoolctl from 3.6 on one thread alone may, and the others' calls do nothing; here
    ``Pools`` sees to it that threads agree."""
    library.set_num_threads(count)
    if library.get_num_threads() != count and hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
        library.set_num_threads(count)
