"""Which calls of a tape may be done row by row."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from twostroke.backend.cpu import rowwise
from twostroke.backend.cpu.library import Products, library

pytestmark = pytest.mark.skipif(library().native is None, reason=f"nothing is played here: {library().reason}")

N, K = 200, 100  # enough that it pays


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


def product(a: Any, b: Any, c: Any, beta: Any = 0.0) -> Any:
    native = library().native
    assert native is not None
    return partial(Products(native).product, 1.0, a, b, beta, c)


def found(*calls: Any) -> list[tuple[int, int, int]]:
    return [(run.first, run.stop, run.rows) for run in rowwise.runs(calls)]


def test_elementwise_work_and_small_products_go_together() -> None:
    Z, b, W, Y = ones(N, K), ones(1, K), ones(K, 10), np.asfortranarray(ones(N, 10))
    calls = [partial(np.add, Z, b, out=Z), partial(np.maximum, Z, 0, out=Z), product(Z, W, Y)]
    assert found(*calls) == [(0, 3, N)]
    assert found(partial(np.argmax, Z, axis=1, out=ones(N, dtype=np.int64)), *calls) == [(1, 4, N)]


def test_a_call_may_belong_to_no_run() -> None:
    Z, A = ones(N, K), ones(N, K)
    calls = [partial(np.add, x, 1.0, out=x) for x in (Z, A, Z)]
    assert [(run.first, run.stop) for run in rowwise.runs(calls, {1})] == [(0, 1), (2, 3)]


def test_little_work_stays_whole() -> None:
    Z = ones(20, K)
    assert found(partial(np.add, Z, 1.0, out=Z)) == []


def test_other_rows_begin_another_run() -> None:
    Z, other = ones(N, K), ones(N + 1, K)
    assert found(partial(np.add, Z, 1.0, out=Z), partial(np.add, other, 1.0, out=other)) == [(0, 1, N), (1, 2, N + 1)]


def test_what_every_row_reads_must_not_change() -> None:
    """A row that another thread has not computed yet."""
    Z, A = ones(N, K), ones(N, K)
    fill = partial(np.add, Z, 1.0, out=Z)
    assert found(fill, partial(np.add, A, Z[:1], out=A)) == [(0, 1, N), (1, 2, N)]  # as a bias
    assert found(fill, product(A, Z[:K, :30], ones(N, 30))) == [(0, 1, N)]  # as weights
    assert found(partial(np.add, A, Z[:1], out=A), fill) == [(0, 1, N), (1, 2, N)]  # changed later
    assert found(partial(np.add, Z, Z[:1], out=Z)) == []  # by itself


def test_an_array_must_have_the_same_rows_in_every_call() -> None:
    A, memory = ones(N, K), ones(2 * N * K)
    Z, shifted = (memory[start : start + N * K].reshape(N, K) for start in (0, K))
    turned = memory[: N * K].reshape(K, N).T
    fill = partial(np.add, Z, 1.0, out=Z)
    for other in (turned, shifted):
        assert (0, 2, N) not in found(fill, product(other, ones(K, 10), ones(N, 10)))
    assert found(fill, partial(np.add, A, shifted, out=A)) == [(0, 1, N), (1, 2, N)]
    assert found(fill, partial(np.add, A, Z, out=A)) == [(0, 2, N)]


def test_a_gathered_batch_is_turned_by_the_library_alone() -> None:
    """It may lie in blocks of columns; so its widening and the gradient of weights stay whole."""
    X, taken = ones(N, K), ones(N, K, dtype=np.uint8)
    gather = [
        partial(np.take, ones(500, K, dtype=np.uint8), np.arange(N), axis=0, out=taken, mode="clip"),
        partial(np.divide, taken, np.float32(255), out=X),
    ]
    dZ, dW = ones(N, 30), ones(K, 30)
    assert found(*gather, product(X.T, dZ, dW)) == []
    assert found(product(ones(600, N), ones(N, 30), ones(600, 30))) == [(0, 1, 600)]


@pytest.mark.parametrize(
    ("a", "b", "beta"),
    [((N, 300), (300, 100), 0.0), ((N, 200), (200, 100), 0.0), ((N, 50), (50, 100), 1.0), ((1, 50), (50, 20_000), 0.0)],
    ids=["summed in halves", "large weights", "added to", "one row"],
)
def test_other_products_stay_whole(a: Any, b: Any, beta: float) -> None:
    assert found(product(ones(*a), ones(*b), ones(a[0], b[1]), beta)) == []


def test_only_rows_of_two_axes() -> None:
    flat, turned = ones(N * K), np.asfortranarray(ones(N, K))
    assert found(partial(np.add, flat, 1.0, out=flat), partial(np.add, turned, 1.0, out=turned)) == []
    assert found(partial(np.add.reduce, turned, 1, None, ones(N))) == []
