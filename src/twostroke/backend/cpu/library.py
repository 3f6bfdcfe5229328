"""The C library behind the CPU: finds the file that was built with the package, checks it, loads it.

It plays captured steps and multiplies matrices. Without it, steps are replayed from Python, and SciPy's BLAS computes
every product.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent / "native"
BUILT: Final = "built.json"  # hatch_build.py writes it: each library's SHA-256 and the compiler, or why there is none
VARIANTS: Final = ("avx512", "avx2")  # the fastest first
SWITCH: Final = "TWOSTROKE_LIBRARY"  # 0: do not use the library; avx512, avx2: use that variant only
ROUNDS: Final = 2000  # of a trial of ``core_latency_ns``: a tenth of a millisecond
WORD, POINTER = ctypes.c_int64, ctypes.c_void_p
FUNCTIONS: Final[tuple[tuple[Any, ...], ...]] = (  # name, result, arguments
    *(("play", None, POINTER), ("product_float", None, POINTER), ("product_double", None, POINTER)),
    ("largest", ctypes.c_double, POINTER, WORD, WORD),
    *(("set_threads", None, WORD), ("threads", WORD), ("latency", WORD, WORD), ("flush", WORD, WORD)),
    *(("layout", WORD, WORD), ("runs_here", WORD)),
)

UFUNC, TAKE, ARGMAX, COPY, PRODUCT_FLOAT, PRODUCT_DOUBLE, ROWWISE = range(7)
PRODUCT: Final = {"f": PRODUCT_FLOAT, "d": PRODUCT_DOUBLE}  # by NumPy's character of the type


def _structure(names: str) -> Any:
    """A structure of native/library.h: 64-bit integers and, where there is a star, pointers."""
    fields = [(name.strip("*"), POINTER if name[0] == "*" else WORD) for name in names.split()]
    return type("Structure", (ctypes.Structure,), {"_fields_": fields})


UfuncCall = _structure(
    "*loop *data count outer inner widen_first widen_result row_elements "
    "*at0 outer0 inner0 *at1 outer1 inner1 *at2 outer2 inner2"
)
TakeCall = _structure("*out *source *indices count row_bytes source_rows columns size")
ArgmaxCall = _structure("*source row column rows columns *out is_double")
CopyCall = _structure("*to *from bytes")
ProductCall = _structure("*a a_row a_depth *b b_row b_column *c c_row c_column rows columns depth *alpha *beta *p")
RowwiseRun = _structure("count rows")
NativeMove = _structure("*to to_step *from from_step bytes")
NativeProgram = _structure("*operations count *moves before after first steps")


class Call(ctypes.Union):
    _fields_ = (
        *(("ufunc", UfuncCall), ("take", TakeCall), ("argmax", ArgmaxCall)),
        *(("copy", CopyCall), ("product", ProductCall), ("rowwise", RowwiseRun)),
    )


# By the kind of an operation, its member of the union, and there the array that it writes (a ufunc's is its last).
MEMBERS: Final = ("ufunc", "take", "argmax", "copy", "product", "product", "rowwise")
WRITTEN: Final = ("", "out", "out", "to", "c", "c", "")


class Operation(ctypes.Structure):
    _anonymous_ = ("call",)
    _fields_ = (("kind", WORD), ("call", Call))


def layout() -> list[int]:
    """The sizes and offsets that the library must confirm, in the order of native/library.c."""
    sizes = [ctypes.sizeof(structure) for structure in (Operation, NativeMove, NativeProgram)]
    return [ROWWISE, *sizes, *_offsets(Operation), *_offsets(NativeMove), *_offsets(NativeProgram)]


def _offsets(structure: Any, start: int = 0) -> list[int]:
    """Those of all members; after a structure or union, those of its members."""
    found = []
    for name, kind in structure._fields_:
        at = start + getattr(structure, name).offset
        found += [at, *(_offsets(kind, at) if hasattr(kind, "_fields_") else [])]
    return found


class Native(NamedTuple):
    """The library's functions. ``play`` takes the address of a NativeProgram, a product that of a ProductCall.
    ``largest(address, count, size)`` is the largest magnitude of so many numbers of 4 or 8 bytes, NaN if there is one.

    ``set_threads`` sets the number of threads for the work of the Python thread that calls it. ``latency(rounds)`` are
    the picoseconds that a cache line takes from one processor to another, 0 where there is only one. ``flush(on)`` says
    whether subnormal numbers count as zeros in the calling thread from now on, and returns whether they did before; in
    the other functions they always do.
    """

    play: Callable[[int], None]
    product_float: Callable[[int], None]
    product_double: Callable[[int], None]
    largest: Callable[[int, int, int], float]
    set_threads: Callable[[int], None]
    threads: Callable[[], int]
    latency: Callable[[int], int]
    flush: Callable[[int], int]


class Library(NamedTuple):
    """The library and how it was built, or None and why it is not used."""

    native: Native | None
    reason: str


class Unusable(Exception):
    """Why the library is not used."""


@cache
def library() -> Library:
    """The library of this installation. Never raises."""
    switch = os.environ.get(SWITCH)
    try:
        return load(FOLDER, () if switch == "0" else (switch,) if switch in VARIANTS else VARIANTS)
    except Unusable as error:
        return Library(None, str(error))
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Library(None, f"{FOLDER}: {' '.join(str(error).split())}. Reinstall twostroke.")


def load(folder: Path, variants: tuple[str, ...] = VARIANTS) -> Library:
    """The first of ``variants`` that this processor can run. Raises if there is none."""
    if not variants:
        raise Unusable(f"{SWITCH}=0")
    if sys.implementation.name != "cpython":
        raise Unusable(f"the C library is for CPython, not for {sys.implementation.name}")
    if not (folder / BUILT).exists():
        raise Unusable("the C library was not built: pip install -e ., or python hatch_build.py")
    built = json.loads((folder / BUILT).read_text(encoding="utf-8"))
    if "reason" in built:
        raise Unusable(f"the package was built without its C library: {built['reason']}")
    for variant in variants:
        path = folder / f"_native_{variant}.so"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != built["sha256"][path.name]:
            raise Unusable(f"{path}: {len(content)} bytes that are not the file that was built. Reinstall twostroke.")
        functions = ctypes.CDLL(str(path))
        for name, result, *arguments in FUNCTIONS:
            function = getattr(functions, f"twostroke_{name}")
            function.restype, function.argtypes = result, arguments
        expected = [*layout(), -1]
        if [functions.twostroke_layout(index) for index in range(len(expected))] != expected:
            raise Unusable(f"{path}: other structures than those of {Path(__file__).name}. Reinstall twostroke.")
        if functions.twostroke_runs_here():
            native = Native(*(getattr(functions, f"twostroke_{name}") for name in Native._fields))
            return Library(native, f"{variant} library built by {built['compiler']}")
    raise Unusable(f"this processor cannot run the C library, which needs {' or '.join(variants)}")


def core_latency_ns() -> float | None:
    """How long a cache line takes from one core to another, one way: the least of three trials, in nanoseconds.

    Some 40 where they share a cache, 70 where that is Intel's, 200 where they share none. None without the library, or
    where there is one core.
    """
    native = library().native
    found = min(native.latency(ROUNDS) for _ in range(3)) if native else 0
    return found / 1000 or None


class _Wanted(threading.local):
    """The numbers of threads that this Python thread's blocks want, the innermost last."""

    def __init__(self) -> None:
        self.counts = [1]  # without a block


class CallersThreads:
    """The number of threads of each Python thread's work in the library: what one sets does not change another's.

    ``enter`` and ``leave`` enclose a block of work that wants a number; blocks nest.
    """

    _wanted = _Wanted()  # of all objects: the library has one number

    def __init__(self, native: Native) -> None:
        self._set = native.set_threads

    def enter(self, count: int) -> None:
        """Begin a block of this thread that wants ``count`` threads."""
        counts = self._wanted.counts
        counts.append(count)
        if count != counts[-2]:
            self._set(count)

    def change(self, count: int) -> None:
        """Let this thread's innermost block want another number."""
        self._wanted.counts[-1] = count
        self._set(count)

    def leave(self) -> None:
        """End this thread's innermost block."""
        counts = self._wanted.counts
        if counts.pop() != counts[-1]:
            self._set(counts[-1])


class Products:
    """``product(alpha, a, b, beta, c)``: c <- alpha a b + beta c for 2-D arrays of any strides, float32 or float64.

    ``c`` must not overlap ``a`` or ``b``. Zeros of both may be skipped: ``0 * inf`` and ``0 * nan`` then count as 0.
    The bits do not depend on the number of threads.
    """

    def __init__(self, native: Native) -> None:
        self._multiply = {"f": native.product_float, "d": native.product_double}

    def product(self, alpha: Any, a: Any, b: Any, beta: Any, c: Any) -> None:
        """Compute it now."""
        numbers = np.array([alpha, beta], c.dtype)
        start = address(numbers)
        call = product_call(a, b, c, start, start + numbers.itemsize)
        self._multiply[c.dtype.char](ctypes.addressof(call))


def largest_magnitude(native: Native, array: Any) -> float:
    """Of a C-contiguous array of float32 or float64, with the threads of the block of work; NaN if one is NaN."""
    return native.largest(address(array), array.size, array.itemsize)


def address(array: Any) -> int:
    """Where an array begins, from NumPy's public ``PyArrayObject``: a fifth of the time of ``array.ctypes.data``."""
    start: int = POINTER.from_address(id(array) + object.__basicsize__).value or 0
    return start


def product_call(a: Any, b: Any, c: Any, alpha: int, beta: int) -> Any:
    """A product's arguments; ``alpha`` and ``beta`` are addresses of numbers of the arrays' type."""
    types = a.dtype == b.dtype == c.dtype and c.dtype.char in PRODUCT
    if not types or c.shape != (len(a), b.shape[1]) or a.shape[1] != len(b):
        found = ", ".join(f"{x.dtype} {x.shape}" for x in (a, b, c))
        raise ValueError(f"product: found {found}, expected float32 or float64 (m, k), (k, n), (m, n)")
    words: list[int] = []
    for x in (a, b, c):
        by_row, by_column = (stride // x.itemsize for stride in x.strides)
        # An axis of one element has any stride: the one that lets the other be contiguous is the useful one.
        words += [address(x), by_row if len(x) > 1 else x.shape[1], by_column if x.shape[1] > 1 else 1]
    return ProductCall(*words, *c.shape, len(b), alpha, beta)
