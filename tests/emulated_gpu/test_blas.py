"""The emulated cuBLAS against NumPy: every transpose, leading dimension, factor, pointer mode; what it must refuse."""

from __future__ import annotations

import pytest

from .conftest import Over

START = """
import itertools
import cupy as cp, numpy as np
from cupy_backends.cuda.libs import cublas
rng, handle = np.random.default_rng(0), cp.cuda.device.get_cublas_handle()

def column_major(rows, cols, leading, kind):
    whole = rng.standard_normal((cols, leading)).astype(kind)
    return whole, cp.asarray(whole), whole.T[:rows]

def product(kind, ta, tb, m, n, k, alpha, beta, extra=0, out=None):
    a = column_major(*((k, m) if ta else (m, k)), (k if ta else m) + extra, kind)
    b = column_major(*((n, k) if tb else (k, n)), (n if tb else k) + extra, kind)
    c = column_major(m, n, m + extra, kind)
    if out is not None:
        c[1].fill(out)
    factors = np.array([alpha, beta], kind)
    call = cublas.sgemm if kind == "f" else cublas.dgemm
    call(handle, ta, tb, m, n, k, factors.ctypes.data, a[1].data.ptr, a[1].shape[1], b[1].data.ptr, b[1].shape[1],
         factors.ctypes.data + factors.itemsize, c[1].data.ptr, c[1].shape[1])
    first, second = (a[2].T if ta else a[2]).astype("d"), (b[2].T if tb else b[2]).astype("d")
    wanted = c[0].astype("d").T.copy()
    wanted[:m] = alpha * (first @ second) + (beta * wanted[:m] if beta else 0)
    return c[1].get().T, wanted, m
"""


def test_products_agree_with_numpy(over: Over) -> None:
    done = over(
        START
        + """
for kind, ta, tb, alpha, beta in itertools.product("fd", (0, 1), (0, 1), (1, -0.5, 0), (0, 1, 0.25)):
    for m, n, k in ((1, 1, 1), (5, 3, 7), (16, 16, 16), (33, 1, 2)):
        for extra in (0, 3):
            found, wanted, rows = product(kind, ta, tb, m, n, k, alpha, beta, extra)
            assert np.allclose(found, wanted, rtol=1e-5 if kind == "f" else 1e-13, atol=1e-6), (kind, ta, tb, m, n, k)
"""
    )
    assert done.returncode == 0, done.stderr


def test_a_zero_factor_leaves_nan_unread(over: Over) -> None:
    done = over(
        START
        + """
found, wanted, rows = product("f", 0, 0, 4, 5, 6, 1.0, 0.0, out=np.nan)
assert np.allclose(found, wanted, rtol=1e-5)
found, wanted, rows = product("f", 0, 0, 4, 5, 6, 1.0, 0.5, out=np.nan)
assert np.isnan(found).all()
"""
    )
    assert done.returncode == 0, done.stderr


def test_tf32_rounds_the_factors_to_ten_bits(over: Over) -> None:
    done = over(
        START
        + """
cublas.setMathMode(handle, 3)
found, wanted, rows = product("f", 0, 0, 32, 32, 64, 1.0, 0.0)
error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
assert 1e-5 < error < 1e-3, error
found, wanted, rows = product("d", 0, 0, 8, 8, 8, 1.0, 0.0)
assert np.allclose(found, wanted, rtol=1e-13)
"""
    )
    assert done.returncode == 0, done.stderr


REFUSED = {
    "a leading dimension that is too small": "product('f', 0, 0, 4, 5, 6, 1.0, 0.0, extra=-1)",
    "a function that is not emulated": "cublas.sasum(handle, 3, cp.ones(3, 'f').data.ptr, 1, cp.ones(1, 'f').data.ptr)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(over: Over, name: str) -> None:
    done = over(f"{START}\n{REFUSED[name]}")
    assert done.returncode == 1
    assert "CUBLASError" in done.stderr
    if "not emulated" in name:
        assert "emulated GPU: cublasSasum_v2 is not emulated" in done.stderr


def test_a_handle_belongs_to_one_device(over: Over) -> None:
    done = over(f"{START}\nwith cp.cuda.Device(1):\n    product('f', 0, 0, 2, 2, 2, 1.0, 0.0)", DEVICES="2")
    assert done.returncode == 1
    assert "a product on device 1 is given a handle or a stream of another device" in done.stderr
