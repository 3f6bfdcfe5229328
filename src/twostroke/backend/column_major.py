"""A matrix product as a column-major BLAS sees it: what both devices need."""

from __future__ import annotations

from .base import Array


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
