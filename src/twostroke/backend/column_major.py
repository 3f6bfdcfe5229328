"""Map a product of C- or Fortran-ordered arrays to a column-major GEMM; used by both devices."""

from __future__ import annotations

from .base import Array


def column_major(a: Array, b: Array, out: Array) -> tuple[Array, int, Array, int, Array]:
    """The arguments of a column-major GEMM for ``out = a b``: (first, trans_first, second, trans_second, c).

    ``first``, ``second`` and ``c`` are Fortran-contiguous views, never copies. Raises ``ValueError`` for arrays that
    are not contiguous, or whose dtypes or shapes do not match. For a C-ordered ``out`` it is ``out.T = b.T a.T``.
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
    """(x, 0) or (x.T, 1), whichever is Fortran-contiguous."""
    if x.flags.f_contiguous:
        return x, 0
    if x.flags.c_contiguous:
        return x.T, 1
    raise ValueError(f"gemm: an array of shape {x.shape} with strides {x.strides} is not contiguous")
