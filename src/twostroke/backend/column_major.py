"""The arrays of a product: which there may be, and as the arguments of a column-major GEMM; for both devices."""

from __future__ import annotations

from .base import Array


def check_product(a: Array, b: Array, out: Array) -> None:
    """Raise ``ValueError`` for arrays that are not contiguous, or whose dtypes or shapes do not match."""
    if not a.dtype == b.dtype == out.dtype or out.dtype.kind != "f":
        raise ValueError(f"gemm: dtypes {a.dtype}, {b.dtype} and {out.dtype} are not one float type")
    if (a.shape[0], b.shape[1]) != out.shape or a.shape[1] != b.shape[0]:
        raise ValueError(f"gemm: shapes {a.shape}, {b.shape} and {out.shape} do not fit")
    for x in (a, b, out):
        if not (x.flags.c_contiguous or x.flags.f_contiguous):
            raise ValueError(f"gemm: an array of shape {x.shape} with strides {x.strides} is not contiguous")


def column_major(a: Array, b: Array, out: Array) -> tuple[Array, int, Array, int, Array]:
    """The arguments of a column-major GEMM for ``out = a b``: (first, trans_first, second, trans_second, c).

    ``first``, ``second`` and ``c`` are Fortran-contiguous views, never copies. For a C-ordered ``out`` it is
    ``out.T = b.T a.T``. Raises ``ValueError`` as ``check_product`` does.
    """
    check_product(a, b, out)
    if not out.flags.f_contiguous:
        a, b, out = b.T, a.T, out.T
    (first, trans_first), (second, trans_second) = ((x, 0) if x.flags.f_contiguous else (x.T, 1) for x in (a, b))
    return first, trans_first, second, trans_second, out
