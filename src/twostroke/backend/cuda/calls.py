"""The calls of a step, noted with their arrays instead of being run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import cupy
import numpy as np

from ..base import Array, Move

REDUCTIONS: Final = ("max", "sum", "argmax")
# ufunc -> its text in CUDA; the functions that are not CUDA's own are in device.cuh.
MAPS: Final = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "maximum": "maximum({0}, {1})",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "equal": "{0} == {1}",
    "right_shift": "{0} >> {1}",
    "bitwise_xor": "{0} ^ {1}",
    "exp": "exp({0})",
    "log": "log({0})",
    "tanh": "tanh({0})",
    "sqrt": "sqrt({0})",
    "logaddexp": "log_add_exp({0}, {1})",
}


class Untraceable(Exception):
    """A step cannot be compiled; the message says why."""


@dataclass(frozen=True)
class View:
    """An array as rows and columns: element (r, c) lies ``r * by_row + c * by_column`` elements after ``pointer``.

    Along an axis of length 1 the stride is 0, so that it broadcasts. ``low`` and ``high`` are the addresses (bytes)
    between which the whole array lies. With ``cell`` it is one row of a table: it begins ``cell * jump`` elements
    further. With ``pick`` row r is row ``pick[r]``. A ``whole`` view is read by all threads, not element by element.
    """

    pointer: int
    kind: str  # NumPy's character of the dtype
    rows: int
    columns: int
    by_row: int
    by_column: int
    low: int
    high: int
    cell: View | None = None
    jump: int = 0
    pick: View | None = None
    whole: bool = False

    def overlaps(self, other: View) -> bool:
        return self.low < other.high and other.low < self.high


@dataclass(frozen=True)
class Number:
    """A number as an operand, of the dtype ``kind`` in which it is computed with."""

    value: float
    kind: str


@dataclass(frozen=True)
class Call:
    """``out`` <- ``name`` of ``operands``, over ``rows`` x ``columns`` elements.

    ``name`` is a ufunc, "copy", a reduction of each row, or "gemm": out <- operands[2] a b + operands[3] out. ``kind``
    is the dtype that a ufunc computes in. ``depth`` is the inner dimension of a product, ``run`` calls cuBLAS for it;
    without ``run`` it is computed ``by_row``, or in a tile of so many rows and columns and so deep a block.
    """

    name: str
    operands: tuple[View | Number, ...]
    out: View
    rows: int
    columns: int
    kind: str = ""
    depth: int = 0
    run: Callable[[], None] | None = None
    by_row: bool = False
    tile: tuple[int, int, int] = (0, 0, 0)

    @property
    def reads(self) -> Iterator[View]:
        """All views that are read, those of positions and picked rows included."""
        for view in (*self.operands, self.out):
            if isinstance(view, View):
                if view is not self.out:
                    yield view
                yield from (index for index in (view.cell, view.pick) if index is not None)
        if self.name == "gemm" and self.operands[3] != Number(0.0, self.out.kind):
            yield self.out

    def conflicts(self, earlier: Call) -> Iterator[tuple[View, View]]:
        """Pairs of overlapping views of which one is written."""
        if self.out.overlaps(earlier.out):
            yield self.out, earlier.out
        yield from ((read, earlier.out) for read in self.reads if read.overlaps(earlier.out))
        yield from ((self.out, read) for read in earlier.reads if self.out.overlaps(read))


class Recorder:
    """Stands for CuPy while a step is traced: notes each call and runs nothing.

    Raises ``Untraceable`` for a function or an array that it does not know.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name in MAPS:
            return partial(self._map, name)
        if name in REDUCTIONS:
            return partial(self._reduce, name)
        raise Untraceable(f"it calls {name}")

    def _map(self, name: str, *operands: Any, out: Array) -> None:
        if name == "multiply" and operands[1] is not out and type(operands[1]) is int and operands[1] == 1:
            self.copyto(out, operands[0])
            return
        types = [type(x) if isinstance(x, int | float) and not isinstance(x, np.generic) else x.dtype for x in operands]
        kinds = [dtype.char for dtype in getattr(np, name).resolve_dtypes((*types, None))]
        self._note(name, operands, out, kinds[0])

    def copyto(self, out: Array, source: Any) -> None:
        """out <- source, an array or a number."""
        if out is not source:
            self._note("copy", (source,), out, getattr(source, "dtype", out.dtype).char)

    def _note(self, name: str, operands: Sequence[Any], out: Array, kind: str) -> None:
        rows, columns = shape = _shape(out)
        read = tuple(
            _view(x[None] if x.ndim == 1 and out.ndim == 2 else x, shape)
            if isinstance(x, cupy.ndarray)
            else Number(x, kind)
            for x in operands
        )
        self.calls.append(Call(name, read, _view(out, shape), rows, columns, kind))

    def _reduce(self, name: str, x: Array, axis: int, out: Array) -> None:
        if axis != 1 or x.ndim != 2 or out.shape != x.shape[:1]:
            raise Untraceable(f"it calls {name} of {x.shape} along axis {axis} into {out.shape}")
        rows, columns = x.shape
        self.calls.append(Call(name, (_view(x, x.shape),), _view(out, (rows, 1)), rows, columns, x.dtype.char))

    def take(self, source: Array, indices: Array, axis: int, out: Array) -> None:
        """out <- the rows ``indices`` of source."""
        rows, columns = shape = _shape(out)
        by_row = source.strides[0] // source.itemsize
        picked = replace(_view(source, _shape(source)), by_row=by_row, pick=_view(indices, (rows, 1)))
        self.calls.append(Call("copy", (picked,), _view(out, shape), rows, columns, source.dtype.char))

    def gemm(self, a: Array, b: Array, out: Array, alpha: Any, beta: Any, run: Callable[[], None]) -> None:
        """out <- alpha a b + beta out; ``run`` does it by cuBLAS."""
        factors = [
            _view(x, (1, 1)) if isinstance(x, cupy.ndarray) else Number(float(x), out.dtype.char) for x in (alpha, beta)
        ]
        read = (*(replace(_view(x, x.shape), whole=True) for x in (a, b)), *factors)
        target, (rows, columns) = _view(out, out.shape), out.shape
        self.calls.append(Call("gemm", read, target, rows, columns, out.dtype.char, a.shape[1], run))

    def move(self, move: Move, position: Array) -> None:
        """A copy between ``move.fixed`` and the row ``position`` (1,) of the table ``move.rows``."""
        table, fixed = move.rows, move.fixed
        if fixed.ndim != 1 or table.ndim != 2:
            raise Untraceable(f"it moves rows of a table of shape {table.shape}")
        shape, jump = (len(fixed), 1), table.strides[0] // table.itemsize
        whole = _view(table, table.shape)
        row = replace(_view(table[0], shape), cell=_view(position, (1, 1)), jump=jump, low=whole.low, high=whole.high)
        still = _view(fixed, shape)
        source, target = (row, still) if move.before else (still, row)
        self.calls.append(Call("copy", (source,), target, len(fixed), 1, table.dtype.char))


def _shape(x: Array) -> tuple[int, int]:
    """Rows and columns; a vector is a column."""
    return (1, 1) if x.ndim == 0 else (len(x), 1) if x.ndim == 1 else x.shape


def _view(x: Array, within: tuple[int, int]) -> View:
    """``x``, of this shape or broadcast to it."""
    if x.ndim > 2 or not x.size or any(n not in (1, most) for n, most in zip(_shape(x), within, strict=True)):
        raise Untraceable(f"it computes with an array of shape {x.shape} where {within} is expected")
    rows, columns = _shape(x)
    strides = [stride // x.itemsize for stride in x.strides]
    by_row, by_column = [0, 0] if x.ndim == 0 else [*strides, 0] if x.ndim == 1 else strides
    by_row, by_column = by_row if rows > 1 else 0, by_column if columns > 1 else 0
    low = x.data.ptr
    high = low + ((rows - 1) * by_row + (columns - 1) * by_column + 1) * x.itemsize
    return View(low, x.dtype.char, rows, columns, by_row, by_column, low, high)
