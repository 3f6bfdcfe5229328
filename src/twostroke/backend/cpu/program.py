"""A tape as a program for the player: each call as the address of a NumPy loop or BLAS routine and its arguments.

What the player runs are the inner loops that NumPy's ufuncs themselves run, on the same memory in the same order,
and the BLAS routines that SciPy's functions call: the bits are those of the tape.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Final, TypeAlias

import numpy as np

from ..base import Move
from ..tape import Tape
from .library import Products, product_words

WORDS: Final = 24
UFUNC, GEMM, GEMV, GER, TAKE, ARGMAX, COPY, FILL, PRODUCT = range(9)
WIDEN: Final = {"f": 1, "d": 2}

Operation: TypeAlias = list[int]
Array: TypeAlias = "np.ndarray[Any, Any]"


class Unplayable(Exception):
    """A call on the tape that the player does not know; the message says which."""


class Program:
    """A tape that the player can run. Holds every array that its addresses point into.

    Raises ``Unplayable`` where a call is not one that the player knows.
    """

    def __init__(self, tape: Tape, play: Callable[[int], None], moves: Sequence[Move] = ()) -> None:
        self._held: list[Any] = [tape, moves]
        operations = [op for call in tape for op in self._operations(call)]
        words = [word for op in operations for word in op + [0] * (WORDS - len(op))]
        copies = [word for move in sorted(moves, key=lambda move: not move.before) for word in _move(move)]
        self._operations_of, self._copies = np.array(words, np.int64), np.array(copies, np.int64)
        before = sum(move.before for move in moves)
        starts = _address(self._operations_of), len(operations), _address(self._copies)
        self._program = np.array([*starts, before, len(moves) - before, 0, 1], np.int64)
        self._span = 0, 1
        self._play = partial(play, _address(self._program))

    def run(self, first: int = 0, steps: int = 1) -> None:
        """Run the step for ``first`` and those after it."""
        if (first, steps) != self._span:
            self._program[5:] = self._span = first, steps
        self._play()

    def _operations(self, call: Any) -> list[Operation]:
        if not isinstance(call, partial):
            raise Unplayable(f"{call} is not a call with its arguments")
        function, args, keywords = call.func, call.args, call.keywords
        owner = getattr(function, "__self__", None)
        if isinstance(function, np.ufunc):
            return [self._ufunc(function, args, **keywords)]
        if isinstance(owner, np.ufunc) and function == owner.reduce:
            return self._reduction(owner, *args)
        if function is np.take:
            return [_take(*args, **keywords)]
        if function is np.argmax:
            return [_argmax(*args, **keywords)]
        if isinstance(owner, Products):
            alpha, a, b, beta, c = args
            cells = self._cell(alpha, c.dtype.char), self._cell(beta, c.dtype.char)
            return [[PRODUCT, *product_words(a, b, c, *cells)]]
        for routine, write in (("gemm", self._gemm), ("gemv", self._gemv), ("ger", self._ger)):
            if hasattr(function, "_cpointer") and function.__name__.endswith(routine):
                return [write(_routine(function), *args)]
        raise Unplayable(f"{getattr(function, '__name__', function)} is not a call that the player knows")

    def _ufunc(self, ufunc: np.ufunc, args: tuple[Any, ...], out: Array) -> Operation:
        """Numbers take the result's type, as in NumPy. Bytes are made floats on the way in, truths on the way out."""
        kind = out.dtype.char
        bits = getattr(args[0], "dtype", None) == np.uint32  # dropout's hash: numbers are of its type
        arrays = [x if isinstance(x, np.ndarray) else self._constant(x, "I" if bits else kind) for x in args]
        kinds, result = [x.dtype.char for x in arrays], kind
        widen_first = widen_result = 0
        if kind in WIDEN and kinds[0] == "B" and kinds[1:] == [kind]:
            widen_first, kinds[0] = WIDEN[kind], kind
        elif kind in WIDEN and "".join(kinds) + "->?" in ufunc.types:
            widen_result, result = WIDEN[kind], "?"
        loop = _loop(ufunc, f"{''.join(kinds)}->{result}")
        if any(np.may_share_memory(x, out) and not _same(x, out) for x in arrays):
            raise Unplayable(f"{ufunc.__name__} into a part of its own input")
        views = [_plane(np.broadcast_to(x, out.shape)) for x in arrays] + [_plane(out)]
        outer, inner, strides = _two_loops(views)
        addresses = [_address(view) for view in views]
        return [UFUNC, *loop, len(views), outer, inner, widen_first, widen_result, 0, *_arguments(addresses, strides)]

    def _reduction(self, ufunc: np.ufunc, x: Array, axis: int, dtype: None, out: Array) -> list[Operation]:
        """``out`` begins as zero (add) or the first column (maximum); the loop of the smaller stride is inside."""
        column = x.ndim == 2 and axis == 1 and x.dtype == out.dtype and out.flags.c_contiguous
        if not column or not (len(x) == 1 or x.flags.f_contiguous):
            raise Unplayable(f"{ufunc.__name__}.reduce but of the columns of an array in Fortran order")
        if ufunc is np.add:
            start, rest = [FILL, _address(out), out.nbytes], x
        else:
            start, rest = [COPY, _address(out), _address(x), out.nbytes], x[:, 1:]
        loop = _loop(ufunc, f"{2 * x.dtype.char}->{x.dtype.char}")
        (rows, columns), (down, across) = rest.shape, rest.strides
        outer, inner = columns, rows
        strides = [(0, out.itemsize), (across, down), (0, out.itemsize)]
        if rows == 1:
            outer, inner, strides = 1, columns, [(0, 0), (0, across), (0, 0)]
        addresses = [_address(out), _address(rest), _address(out)]
        return [start, [UFUNC, *loop, 3, outer, inner, 0, 0, 0, *_arguments(addresses, strides)]]

    def _gemm(
        self, routine: int, alpha: Any, a: Array, b: Array, beta: Any, c: Array, ta: int, tb: int, _: int
    ) -> Operation:
        (m, n), k, kind = c.shape, a.shape[0] if ta else a.shape[1], c.dtype.char
        return [
            GEMM, routine, ord("NT"[ta]), ord("NT"[tb]), m, n, k, self._cell(alpha, kind), _address(a), len(a),
            _address(b), len(b), self._cell(beta, kind), _address(c), m,
        ]  # fmt: skip

    def _gemv(self, routine: int, alpha: Any, a: Array, x: Array, beta: Any, y: Array, *rest: int) -> Operation:
        *steps, trans, _ = rest
        if steps != [0, 1, 0, 1]:
            raise Unplayable("gemv with strides")
        cells = self._cell(alpha, y.dtype.char), self._cell(beta, y.dtype.char)
        return [
            GEMV,
            routine,
            ord("NT"[trans]),
            *a.shape,
            cells[0],
            _address(a),
            len(a),
            _address(x),
            cells[1],
            _address(y),
        ]

    def _ger(self, routine: int, alpha: Any, x: Array, y: Array, incx: int, incy: int, a: Array, *_: int) -> Operation:
        if (incx, incy) != (1, 1):
            raise Unplayable("ger with strides")
        return [GER, routine, *a.shape, self._cell(alpha, a.dtype.char), _address(x), _address(y), _address(a), len(a)]

    def _cell(self, value: Any, kind: str) -> int:
        """The address of a number: of a scalar that changes from step to step, or of a constant."""
        if isinstance(value, np.ndarray):
            if value.dtype.char != kind:
                raise Unplayable(f"a scalar of another type: {value.dtype}")
            return _address(value)
        return _address(self._constant(value, kind))

    def _constant(self, value: float, kind: str) -> Array:
        cell = np.array(value, kind)
        self._held.append(cell)
        return cell


def _take(source: Array, indices: Array, *, axis: int, out: Array, mode: str) -> Operation:
    plain = all(x.flags.c_contiguous for x in (source, indices, out)) and source.dtype == out.dtype
    if axis != 0 or mode != "clip" or indices.dtype != np.int64 or not plain:
        raise Unplayable("take but of whole rows")
    row = source.itemsize * math.prod(source.shape[1:])
    return [TAKE, *map(_address, (out, source, indices)), len(indices), row, len(source)]


def _argmax(x: Array, *, axis: int, out: Array) -> Operation:
    if axis != 1 or x.ndim != 2 or x.dtype.char not in WIDEN or out.dtype != np.int64 or not out.flags.c_contiguous:
        raise Unplayable("argmax but of the rows of floats")
    return [ARGMAX, _address(x), *x.strides, *x.shape, _address(out), int(x.dtype.char == "d")]


def _move(move: Move) -> Operation:
    rows, fixed = move.rows, move.fixed
    if (
        rows.shape[1:] != fixed.shape
        or rows.dtype != fixed.dtype
        or not (rows.flags.c_contiguous and fixed.flags.c_contiguous)
    ):
        raise ValueError(f"a move between {rows.dtype} {rows.shape} and {fixed.dtype} {fixed.shape}")
    by_step, still = (_address(rows), rows.strides[0]), (_address(fixed), 0)
    return [*(still + by_step if move.before else by_step + still), fixed.nbytes]


# --- memory --------------------------------------------------------------------------------------------------


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _same(x: Array, out: Array) -> bool:
    return (_address(x), x.shape, x.strides) == (_address(out), out.shape, out.strides)


def _plane(x: Array) -> Array:
    """As an array of two axes."""
    return x.reshape((1,) * (2 - x.ndim) + x.shape) if x.ndim < 2 else x


def _two_loops(views: list[Array]) -> tuple[int, int, list[tuple[int, int]]]:
    """(outer, inner length, [(outer, inner) strides]): the result's smaller stride inside, one loop if it can."""
    rows, columns = views[-1].shape
    down, across = views[-1].strides
    if rows > 1 and (columns == 1 or down < across):
        views, (rows, columns) = [view.T for view in views], (columns, rows)
    strides = [(view.strides[0], view.strides[1]) for view in views]
    if all(outer == columns * inner for outer, inner in strides) or rows == 1:
        return 1, rows * columns, [(0, inner if columns > 1 else 0) for _, inner in strides]
    return rows, columns, strides


def _arguments(addresses: list[int], strides: list[tuple[int, int]]) -> list[int]:
    return [
        word for address, (outer, inner) in zip(addresses, strides, strict=True) for word in (address, outer, inner)
    ]


# --- NumPy's loops and SciPy's routines, by address ------------------------------------------------------------


class _UfuncHead(ctypes.Structure):
    """The beginning of NumPy's public ``PyUFuncObject``."""

    _fields_ = (
        ("head", ctypes.c_byte * object.__basicsize__),
        *((name, ctypes.c_int) for name in ("nin", "nout", "nargs", "identity")),
        ("functions", ctypes.POINTER(ctypes.c_void_p)),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("ntypes", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("name", ctypes.c_char_p),
    )


@cache
def _loop(ufunc: np.ufunc, kinds: str) -> tuple[int, int]:
    """The address of a ufunc's inner loop for types such as "ff->f", and that of its data."""
    head = _UfuncHead.from_address(id(ufunc))
    found = (head.nin, head.nout, head.nargs, head.ntypes)
    if found != (ufunc.nin, ufunc.nout, ufunc.nargs, ufunc.ntypes) or head.name != ufunc.__name__.encode():
        raise Unplayable(f"NumPy {np.__version__} lays its ufuncs out in another way")
    if kinds not in ufunc.types:
        raise Unplayable(f"{ufunc.__name__} has no loop {kinds}")
    index = ufunc.types.index(kinds)
    return head.functions[index] or 0, (head.data[index] or 0) if head.data else 0


@cache
def _routine(function: Any) -> int:
    """The address of the BLAS routine behind one of SciPy's functions."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return int(pointer(function._cpointer, None))
