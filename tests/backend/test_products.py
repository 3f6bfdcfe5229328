"""Our own matrix products against NumPy's: every layout and type, sizes around the edges of tiles, any threads."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from twostroke.backend.cpu import library as loading
from twostroke.backend.cpu.library import Native, Products, Unusable, library, product_call

ROWS = (1, 2, 4, 11, 12, 13, 24, 49, 300)
COLUMNS = (1, 8, 10, 16, 17, 30, 33, 64, 100, 129, 600)
DEPTHS = (1, 2, 30, 129, 1300)
SCALES = ((1.0, 0.0), (-0.3, 1.0), (0.5, 0.9))
LIMIT = {"float32": 5e-6, "float64": 1e-14}  # relative L2, of |A| |B|


@pytest.fixture(params=loading.VARIANTS)
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    """Each variant that this processor can run."""
    if library().native is None:
        pytest.skip(f"no products of our own: {library().reason}")
    try:
        found = loading.load(loading.FOLDER, (request.param,)).native
    except Unusable as error:
        pytest.skip(str(error))
    assert found is not None
    before = found.threads()
    yield found
    found.set_threads(before)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def matrix(rng: np.random.Generator, rows: int, columns: int, transposed: bool, dtype: str) -> Any:
    flat = rng.standard_normal(rows * columns, dtype=np.dtype(dtype))
    return flat.reshape(columns, rows).T if transposed else flat.reshape(rows, columns)


LAYOUTS = list(itertools.product((False, True), repeat=3))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: "".join("ct"[i] for i in x))
def test_products_of_every_shape(native: Native, dtype: str, layout: tuple[bool, bool, bool]) -> None:
    """C <- alpha A B + beta C, nothing beside C touched, and the same bits with one thread and with two."""
    products, rng = Products(native), np.random.default_rng(0)
    for rows, columns, depth in itertools.product(ROWS, COLUMNS, DEPTHS):
        a, b = matrix(rng, rows, depth, layout[0], dtype), matrix(rng, depth, columns, layout[1], dtype)
        c = matrix(rng, rows, columns, False, dtype)
        alpha, beta = SCALES[(rows + columns + depth) % 3]
        results = []
        for threads in (1, 2):
            native.set_threads(threads)
            frame = matrix(rng, rows + 2, columns + 2, layout[2], dtype)
            frame[:] = np.nan
            inside = frame[1:-1, 1:-1]
            if beta:
                inside[:] = c  # with beta 0 the NaN must not come through
            products.product(alpha, a, b, beta, inside)
            assert np.isnan(frame).sum() == frame.size - inside.size, (rows, columns, depth)
            results.append(inside.copy())
        assert results[0].tobytes() == results[1].tobytes(), (rows, columns, depth)
        wide = [x.astype(np.float64) for x in (a, b, c)]
        expected = alpha * (wide[0] @ wide[1]) + beta * wide[2]
        scale = np.linalg.norm(abs(wide[0]) @ abs(wide[1]) + beta * abs(wide[2]))
        assert np.linalg.norm(results[0] - expected) <= LIMIT[dtype] * scale, (rows, columns, depth)


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        (1100, 600, 1300),
        (200, 700, 1300),
        (300, 600, 1300),
        (600, 2100, 1030),
        (40, 2100, 60),
        (1, 70, 20_000),
        (20_000, 33, 1),
    ],
)
@pytest.mark.parametrize("transposed", [False, True], ids=["c", "t"])
def test_products_larger_than_a_block(
    native: Native, dtype: str, rows: int, columns: int, depth: int, transposed: bool
) -> None:
    products, rng = Products(native), np.random.default_rng(3)
    a, b = matrix(rng, rows, depth, transposed, dtype), matrix(rng, depth, columns, transposed, dtype)
    a[rng.random(a.shape) < 0.7] = 0  # black pixels
    start, results = matrix(rng, rows, columns, False, dtype), []
    for threads in (1, 2, 5):
        native.set_threads(threads)
        c = start.copy()
        products.product(-0.3, a, b, 1.0, c)
        results.append(c)
    assert len({c.tobytes() for c in results}) == 1
    wide = [x.astype(np.float64) for x in (a, b, start)]
    expected = -0.3 * (wide[0] @ wide[1]) + wide[2]
    assert np.linalg.norm(results[0] - expected) <= LIMIT[dtype] * np.linalg.norm(expected)


@pytest.mark.parametrize("rows", [2, 6, 10, 16, 23, 128, 700])
@pytest.mark.parametrize("columns", [10, 30, 128, 600])
@pytest.mark.parametrize("transposed", [False, True], ids=["c", "t"])
def test_black_pixels_change_no_bit(native: Native, dtype: str, rows: int, columns: int, transposed: bool) -> None:
    """Depths at which all is zero may be passed over: what comes out has the bits of the product without them."""
    products, rng = Products(native), np.random.default_rng(4)
    a, b = matrix(rng, rows, 784, transposed, dtype), matrix(rng, 784, columns, False, dtype)
    black = rng.random(784) < 0.6
    a[:, black] = 0
    a[rng.random(rows) < 0.2] = 0
    start, results = matrix(rng, rows, columns, False, dtype), []
    inked, without = a.copy(order="K"), b.copy()
    inked[:, black], without[black] = rng.random((rows, black.sum())), 0  # the same sums, and nothing to pass over
    for left, right in ((a, b), (inked, without)):
        for threads in (1, 2):
            native.set_threads(threads)
            c = start.copy()
            products.product(0.7, left, right, 1.0, c)
            results.append(c)
    assert len({c.tobytes() for c in results}) == 1
    expected = 0.7 * (a.astype(np.float64) @ b) + start
    assert np.linalg.norm(results[0] - expected) <= LIMIT[dtype] * np.linalg.norm(expected)


@pytest.mark.parametrize("place", range(37))
def test_the_row_of_a_zero_is_not_read(native: Native, dtype: str, place: int) -> None:
    """One sample: a NaN in the weights of a pixel that is zero stays where it is, wherever in the row the pixel is."""
    products, rng = Products(native), np.random.default_rng(6)
    x, W = matrix(rng, 1, 37, False, dtype), matrix(rng, 37, 10, False, dtype)
    x[0, place], W[place] = 0, np.nan
    forward, without = np.zeros((1, 10), dtype), np.arange(37) != place
    products.product(1.0, x, W, 0.0, forward)
    expected = x[:, without].astype(np.float64) @ W[without]
    assert np.linalg.norm(forward - expected) <= LIMIT[dtype] * np.linalg.norm(expected)
    before = W.copy()
    products.product(-0.1, x.T, forward, 1.0, W)
    assert np.isnan(W[place]).all()
    expected = before[without] - 0.1 * x.T[without].astype(np.float64) @ forward
    assert np.linalg.norm(W[without] - expected) <= LIMIT[dtype] * np.linalg.norm(expected)


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (1, 5), (40, 600), (0, 5)])
def test_a_product_over_no_depth_only_scales(native: Native, dtype: str, rows: int, columns: int) -> None:
    """And never divides by it."""
    products = Products(native)
    for beta, expected in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        c = np.ones((rows, columns), dtype)
        products.product(1.0, np.zeros((rows, 0), dtype), np.zeros((0, columns), dtype), beta, c)
        assert (c == expected).all()


def test_a_zero_passes_over_its_row(native: Native, dtype: str) -> None:
    """One row: what a zero meets is not read, so an infinity there does not come through; all else does."""
    products = Products(native)
    a, b = np.zeros((1, 40), dtype), np.ones((40, 35), dtype)
    b[7] = np.inf
    c = np.ones((1, 35), dtype)
    products.product(1.0, a, b, 1.0, c)
    assert (c == 1).all()
    a[0, 7] = 1
    products.product(1.0, a, b, 1.0, c)
    assert np.isposinf(c).all()


def test_a_row_does_not_depend_on_the_rows_beside_it(native: Native, dtype: str) -> None:
    products, rng = Products(native), np.random.default_rng(1)
    a, b = matrix(rng, 100, 784, False, dtype), matrix(rng, 784, 130, False, dtype)
    whole, part = np.empty((100, 130), dtype), np.empty((30, 130), dtype)
    products.product(1.0, a, b, 0.0, whole)
    products.product(1.0, a[13:43], b, 0.0, part)
    assert part.tobytes() == whole[13:43].tobytes()


def test_subnormal_numbers_count_as_zeros(native: Native, dtype: str) -> None:
    """As arguments and as results, in these products only: some processors need a hundred times as long for them."""
    tiny = np.finfo(dtype).tiny
    for threads, n in itertools.product((1, 3), (1, 60)):
        native.set_threads(threads)
        a, b, c = np.ones((n, n), dtype), np.full((n, 64), tiny / 4, dtype), np.full((n, 64), tiny / 4, dtype)
        Products(native).product(1.0, a, b, 1.0, c)
        assert not c.any()
        Products(native).product(0.5 / n, a, np.full((n, 64), tiny, dtype), 0.0, c)
        assert not c.any()
        assert (b * np.ones(64, dtype)).all()  # outside they are what they were


def test_each_thread_says_how_subnormal_numbers_count(native: Native) -> None:
    tiny = np.full(8, np.finfo("float32").tiny / 2, "float32")

    def left() -> bool:
        return bool((tiny * np.float32(1)).all())

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(left).result()  # now it runs: a thread begins as the one that started it
        assert native.flush(1) == 0
        try:
            assert not left()
            assert pool.submit(left).result()
            assert native.flush(1) == 1
        finally:
            assert native.flush(0) == 1
    assert left()
    assert native.flush(0) == 0


def test_nan_and_infinity_come_through(native: Native, dtype: str) -> None:
    products = Products(native)
    for rows in (1, 30):
        a, b = np.ones((rows, 40), dtype), np.ones((40, 35), dtype)
        a[0, 3], b[5, 7] = np.inf, np.nan
        c = np.empty((rows, 35), dtype)
        products.product(1.0, a, b, 0.0, c)
        assert np.isnan(c[:, 7]).all()
        assert np.isposinf(np.delete(c[0], 7)).all()
        assert (np.delete(c[1:], 7, axis=1) == 40).all()


def test_each_python_thread_has_its_own_number_of_threads(native: Native) -> None:
    native.set_threads(3)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(native.threads).result() == 1
        pool.submit(native.set_threads, 2).result()
        assert pool.submit(native.threads).result() == 2
    assert native.threads() == 3


def test_many_threads_and_many_products(native: Native, dtype: str) -> None:
    """Ten thousand small shared products with more threads than cores: each one whole before the next begins."""
    rng = np.random.default_rng(2)
    a, b = matrix(rng, 48, 100, False, dtype), matrix(rng, 100, 64, False, dtype)
    c, numbers = np.zeros((48, 64), dtype), np.array([1, 0], dtype)
    call = product_call(a, b, c, numbers.ctypes.data, numbers.ctypes.data + numbers.itemsize)
    multiply = native.product_float if dtype == "float32" else native.product_double
    native.set_threads(1)
    multiply(ctypes.addressof(call))
    expected = c.copy()
    native.set_threads(5)
    assert native.threads() == 5
    for _ in range(10_000):
        c[:] = np.nan
        multiply(ctypes.addressof(call))
        if c.tobytes() != expected.tobytes():
            pytest.fail("a product was not whole")


def test_products_at_once(native: Native, dtype: str) -> None:
    """Six Python threads with more products than the pool can serve: each has its own workspace and its own bits."""
    products, rng = Products(native), np.random.default_rng(5)
    shapes = [(1, 700, 900), (5000, 20, 1), (30, 2100, 1030), (100, 300, 784), (600, 64, 300), (12, 900, 500)]
    operands = [(matrix(rng, m, k, False, dtype), matrix(rng, k, n, False, dtype)) for m, n, k in shapes]

    def compute(index: int) -> bytes:
        native.set_threads(3)
        a, b = operands[index % len(shapes)]
        c = np.full((len(a), b.shape[1]), np.nan, dtype)
        products.product(0.5, a, b, 0.0, c)
        return c.tobytes()

    alone = [compute(index) for index in range(len(shapes))]
    with ThreadPoolExecutor(len(shapes)) as pool:
        for index, result in enumerate(pool.map(compute, range(60 * len(shapes)))):
            assert result == alone[index % len(shapes)], shapes[index % len(shapes)]


def test_a_product_does_not_wait_for_another_threads_work(native: Native) -> None:
    """The pool is held by work that ends only after the product: if the product waited, neither would end."""
    started, computed = threading.Event(), threading.Event()
    ended_late: list[bool] = []

    def wait(*_: Any) -> None:
        started.set()
        if not ended_late and not computed.wait(20):
            ended_late.append(True)

    loop = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(wait)
    memory = np.zeros(1 << 15)
    address = ctypes.cast(loop, ctypes.c_void_p).value
    ufunc = loading.UfuncCall(address, None, 1, 1, memory.size, 0, 0, memory.ctypes.data, 0, memory.itemsize)
    operation = loading.Operation(loading.UFUNC, ufunc=ufunc)
    program = loading.NativeProgram(ctypes.addressof(operation), 1, None, 0, 0, 0, 1)

    def hold() -> None:
        native.set_threads(2)
        native.play(ctypes.addressof(program))

    holder = threading.Thread(target=hold)
    holder.start()
    assert started.wait(60)
    native.set_threads(2)
    a = np.ones((300, 300), np.float32)
    c = np.zeros_like(a)
    Products(native).product(1.0, a, a, 0.0, c)
    computed.set()
    holder.join()
    assert (c == 300).all()
    assert not ended_late


@pytest.mark.parametrize("fault", ["depth", "rows", "columns", "type"])
def test_arrays_that_do_not_fit_are_refused(native: Native, dtype: str, fault: str) -> None:
    """Before memory that is not theirs is read."""
    a, b, c = (np.zeros(shape, dtype) for shape in ((3, 4), (4, 5), (3, 5)))
    if fault == "depth":
        b = b[:3]
    elif fault == "rows":
        a = a[:2]
    elif fault == "columns":
        c = c[:, :4]
    else:
        b = b.astype("float64" if dtype == "float32" else "float32")
    with pytest.raises(ValueError, match=rf"product: found {dtype} .* expected float32 or float64 \(m, k\)"):
        Products(native).product(1.0, a, b, 0.0, c)


def test_other_types_are_refused(native: Native) -> None:
    a = np.zeros((3, 3), np.float16)
    with pytest.raises(ValueError, match="product: found float16"):
        product_call(a, a, a, 0, 0)
