"""SciPy's BLAS, and the number of threads of every library that has threads of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import threadpoolctl

# A fork waits for it: OpenBLAS starts its threads where a number is set, and a child that is forked meanwhile hangs.
_setting = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_setting.acquire, after_in_parent=_setting.release, after_in_child=_setting.release)


class ThreadCount(NamedTuple):
    """Gets and sets a library's number of threads."""

    get: Callable[[], int]
    set: Callable[[int], None]


class Pools:
    """The number of threads of every BLAS in the process, and of the C library.

    OpenBLAS accepts a number from the main thread only: other threads work with the number already set.
    """

    def __init__(self, libraries: list[ThreadCount]) -> None:
        self._libraries = libraries

    def and_also(self, library: ThreadCount) -> Pools:
        """A copy with one more library."""
        return Pools([*self._libraries, library])

    @property
    def threads(self) -> list[int]:
        """The number of each library."""
        return [library.get() for library in self._libraries]

    @threads.setter
    def threads(self, counts: Sequence[int]) -> None:
        with _setting:
            for library, count in zip(self._libraries, counts, strict=True):
                if library.get() != count:  # OpenBLAS takes microseconds to set what is set
                    library.set(count)

    def set_threads(self, count: int) -> None:
        """Set the number in every library."""
        self.threads = [count] * len(self._libraries)


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

    controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
    infos = controller.info()
    pools = Pools([ThreadCount(one.get_num_threads, one.set_num_threads) for one in controller.lib_controllers])
    ours = next((info for info in infos if "scipy.libs" in info["filepath"]), infos[0] if infos else {})
    words = (ours.get(key) for key in ("internal_api", "version", "architecture", "threading_layer"))
    description = " ".join(str(word) for word in words if word) or "unknown"
    return Blas(blas.sgemm, blas.dgemm, blas.sgemv, blas.dgemv, blas.sger, blas.dger, pools, description)
