"""BLAS: the column-major view of a product that both backends need, and SciPy's library itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import threadpoolctl


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
