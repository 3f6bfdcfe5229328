"""BLAS: the column-major view of a product that both backends need, and SciPy's library itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import threadpoolctl

from . import Array


def column_major(a: Array, b: Array, out: Array) -> tuple[Array, int, Array, int, Array]:
    """``out = a b`` as a column-major BLAS sees it: (first, trans_first, second, trans_second, c).

    ``first``, ``second`` and ``c`` are Fortran-contiguous views, never copies. A C-ordered ``out`` is the
    Fortran-ordered ``out.T = b.T a.T``.
    """
    if not out.flags.f_contiguous:
        if not out.flags.c_contiguous:
            raise ValueError(f"gemm: out must be contiguous, found strides {out.strides}")
        a, b, out = b.T, a.T, out.T
    trans_a = trans_b = 0
    if not a.flags.f_contiguous:
        a, trans_a = a.T, 1
    if not b.flags.f_contiguous:
        b, trans_b = b.T, 1
    return a, trans_a, b, trans_b, out


class Blas(NamedTuple):
    """SciPy's BLAS functions and what is known of the library behind them."""

    sgemm: Callable[..., Any]
    dgemm: Callable[..., Any]
    sgemv: Callable[..., Any]
    dgemv: Callable[..., Any]
    pool: Any  # threadpoolctl controller of every BLAS in the process
    description: str


@cache
def scipy_blas() -> Blas:
    """SciPy's BLAS. Imported here and not at the top because it takes longer than all the rest of the package."""
    from scipy.linalg import blas

    pool = threadpoolctl.ThreadpoolController().select(user_api="blas")
    infos = pool.info()
    ours = next((info for info in infos if "scipy.libs" in info["filepath"]), infos[0] if infos else {})
    words = (ours.get(key) for key in ("internal_api", "version", "architecture", "threading_layer"))
    description = " ".join(str(word) for word in words if word) or "unknown"
    return Blas(blas.sgemm, blas.dgemm, blas.sgemv, blas.dgemv, pool, description)
