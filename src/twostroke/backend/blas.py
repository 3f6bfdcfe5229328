"""BLAS: the column-major view of a product that both backends need, and SciPy's library itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import threadpoolctl

from . import Array


def column_major(a: Array, b: Array, out: Array) -> tuple[Array, int, Array, int, Array]:
    """``out = a b`` as a column-major BLAS sees it: (first, trans_first, second, trans_second, c).

    ``first``, ``second`` and ``c`` are Fortran-contiguous views, never copies: ``ValueError`` where that cannot
    be, or where dtypes or shapes do not fit. A C-ordered ``out`` is the Fortran-ordered ``out.T = b.T a.T``.
    """
    if not a.dtype == b.dtype == out.dtype or out.dtype.kind != "f":
        raise ValueError(f"gemm: dtypes {a.dtype}, {b.dtype} and {out.dtype} are not one float type")
    if (a.shape[0], b.shape[1]) != out.shape or a.shape[1] != b.shape[0]:
        raise ValueError(f"gemm: shapes {a.shape}, {b.shape} and {out.shape} do not fit")
    c, transposed = _fortran(out)
    if transposed:
        a, b = b.T, a.T
    first, trans_first = _fortran(a)
    second, trans_second = _fortran(b)
    return first, trans_first, second, trans_second, c


def _fortran(x: Array) -> tuple[Array, int]:
    """The Fortran-contiguous one of x and x.T, and whether it is x.T."""
    if x.flags.f_contiguous:
        return x, 0
    if x.flags.c_contiguous:
        return x.T, 1
    raise ValueError(f"gemm: an array of shape {x.shape} with strides {x.strides} is not contiguous")


class ThreadCount(NamedTuple):
    """How a library with threads of its own is asked for their number, and told."""

    get: Callable[[], int]
    set: Callable[[int], None]


class Pools:
    """The number of threads of every BLAS in the process, and of our own library.

    OpenBLAS takes the number from the main thread only: work in other threads runs with the one that is set.
    """

    def __init__(self, libraries: list[ThreadCount]) -> None:
        self._libraries = libraries

    def and_also(self, library: ThreadCount) -> Pools:
        """These and one more."""
        return Pools([*self._libraries, library])

    def set_threads(self, count: int) -> None:
        """Set the number now."""
        for library in self._libraries:
            library.set(count)

    @contextmanager
    def limited(self, count: int) -> Iterator[None]:
        """``count`` threads inside the block."""
        before = [library.get() for library in self._libraries]
        self.set_threads(count)
        try:
            yield
        finally:
            for library, number in zip(self._libraries, before, strict=True):
                library.set(number)


class Blas(NamedTuple):
    """SciPy's BLAS functions and what is known of the library behind them."""

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
    """SciPy's BLAS. Imported here and not at the top because it takes longer than all the rest of the package."""
    from scipy.linalg import blas

    controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
    infos = controller.info()
    pools = Pools([ThreadCount(one.get_num_threads, one.set_num_threads) for one in controller.lib_controllers])
    ours = next((info for info in infos if "scipy.libs" in info["filepath"]), infos[0] if infos else {})
    words = (ours.get(key) for key in ("internal_api", "version", "architecture", "threading_layer"))
    description = " ".join(str(word) for word in words if word) or "unknown"
    return Blas(blas.sgemm, blas.dgemm, blas.sgemv, blas.dgemv, blas.sger, blas.dger, pools, description)
