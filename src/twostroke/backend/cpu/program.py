"""A tape as a program for the C library: each call as the address of a NumPy loop, or a product, and its arguments.

The library calls the inner loops that NumPy's ufuncs call, on the same memory in the same order: the result has the
bits of the tape replayed from Python.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np

from ..base import Move
from ..tape import Tape
from . import library as native
from . import rowwise

WIDEN: Final = {"f": 1, "d": 2}  # the library's TO_FLOAT and TO_DOUBLE
ADDED: Final = 1 << 14  # elements of a product from which it pays that it also adds them

Array: TypeAlias = "np.ndarray[Any, Any]"


class Unplayable(Exception):
    """A call on the tape that the library does not know; the message says which."""


class Program:
    """A tape that the library can play. Holds every array that its addresses point into.

    Raises ``Unplayable`` for a call that the library does not know.
    """

    def __init__(
        self,
        tape: Tape,
        play: Callable[[int], None],
        moves: Sequence[Move] = (),
        source: Array | None = None,
        scratch: Sequence[Array] = (),
    ) -> None:
        self._held: list[Any] = [tape, moves]
        by_call = [list(self._operations(call)) for call in tape]
        calls: Sequence[Any] = tape
        added = list(_added_products(calls))
        for index, products in added:
            p, v = calls[index].args
            for number, (start, _) in products.items():
                by_call[number][0].product.p = native.address(p[start:])
            bounds = [0, *(bound for part in sorted(products.values()) for bound in part), p.size]
            rest = [slice(*ends) for ends in zip(bounds[::2], bounds[1::2], strict=True) if ends[0] < ends[1]]
            by_call[index] = [self._ufunc(np.add, (p[one], v[one]), p[one]) for one in rest]
        for run in rowwise.runs(calls, {number for _, products in added for number in products}):
            header = native.RowwiseRun(run.stop - run.first, run.rows)
            by_call[run.first].insert(0, native.Operation(native.ROWWISE, rowwise=header))
        operations = [operation for operations in by_call for operation in operations]
        for take, columns, size in _gathers(tape, scratch):
            found = next(x.take for x in operations if x.kind == native.TAKE and x.take.out == native.address(take))
            found.columns, found.size = columns, size
        copies = [_move(move) for move in sorted(moves, key=lambda move: not move.before)]
        self._calls = (native.Operation * len(operations))(*operations)
        self._moves = (native.NativeMove * len(copies))(*copies)
        before = sum(move.before for move in moves)
        starts = ctypes.addressof(self._calls), len(operations), ctypes.addressof(self._moves)
        self._program = native.NativeProgram(*starts, before, len(moves) - before, 0, 1)
        self._play = partial(play, ctypes.addressof(self._program))
        self._source, self._start = source, 0 if source is None else native.address(source)
        self._reads = [] if source is None else list(self._reads_of(source))

    def run(self, first: int = 0, steps: int = 1) -> None:
        """Run the steps ``first`` to ``first + steps``."""
        self._program.first, self._program.steps = first, steps
        self._play()

    def read_from(self, rows: Array) -> bool:
        """Read these rows in place of ``source``, until ``read_from_source``. False where that cannot be done."""
        source, flags = self._source, rows.flags
        if source is None or not self._reads or rows.dtype != source.dtype:
            return False
        if rows.shape != source.shape or not (flags.c_contiguous and flags.aligned):
            return False
        start = native.address(rows)
        for cell, offset in self._reads:
            cell.value = start + offset
        return True

    def read_from_source(self) -> None:
        """Read ``source`` again."""
        for cell, offset in self._reads:
            cell.value = self._start + offset

    def _reads_of(self, source: Array) -> Iterator[tuple[ctypes.c_void_p, int]]:
        """Where the operations hold an address in ``source``, and its distance from the beginning; nothing if one of
        them writes there."""
        found, start, stop = [], *np.lib.array_utils.byte_bounds(source)
        for operation in self._calls:
            call = getattr(operation, native.MEMBERS[operation.kind])
            written = f"at{call.count - 1}" if operation.kind == native.UFUNC else native.WRITTEN[operation.kind]
            for name, kind in call._fields_:
                address = getattr(call, name) if kind is native.POINTER else None
                if address is not None and start <= address < stop:
                    if name in (written, "p"):
                        return
                    cell = native.POINTER.from_address(ctypes.addressof(call) + getattr(type(call), name).offset)
                    found.append((cell, address - start))
        yield from found

    def _operations(self, call: Any) -> Iterator[native.Operation]:
        _expect(isinstance(call, partial), f"{type(call).__name__} is not a call with its arguments")
        function, args, keywords = call.func, call.args, call.keywords
        name, owner = getattr(function, "__name__", str(function)), getattr(function, "__self__", None)
        if isinstance(function, np.ufunc):
            known = keywords.keys() == {"out"} and len(args) == function.nin <= 2 and function.nout == 1
            _expect(known and isinstance(keywords["out"], np.ndarray), f"{name} with other arguments")
            yield self._ufunc(function, args, keywords["out"])
        elif isinstance(owner, np.ufunc) and function == owner.reduce:
            _expect(len(args) == 4 and not keywords, f"{owner.__name__}.reduce with other arguments")
            yield from self._reduction(owner, *args)
        elif function is np.take:
            _expect(keywords.keys() == {"axis", "out", "mode"} and len(args) == 2, "take with other arguments")
            yield _take(*args, **keywords)
        elif function is np.argmax:
            _expect(keywords.keys() == {"axis", "out"} and len(args) == 1, "argmax with other arguments")
            yield _argmax(*args, **keywords)
        elif isinstance(owner, native.Products):
            alpha, a, b, beta, c = args
            cells = self._cell(alpha, c.dtype.char), self._cell(beta, c.dtype.char)
            yield native.Operation(native.PRODUCT[c.dtype.char], product=native.product_call(a, b, c, *cells))
        else:
            raise Unplayable(f"{name} is not a call that the library knows")

    def _ufunc(self, ufunc: np.ufunc, args: tuple[Any, ...], out: Array) -> native.Operation:
        """Python numbers take the result's type, as in NumPy. Bytes are widened to floats, truth values too."""
        kind = out.dtype.char
        bits = getattr(args[0], "dtype", None) == np.uint32  # dropout's hash: its numbers are uint32 too
        arrays = [x if isinstance(x, np.ndarray) else self._constant(x, "I" if bits else kind) for x in args]
        kinds, result = [x.dtype.char for x in arrays], kind
        widen_first = widen_result = 0
        if kind in WIDEN and kinds[0] == "B" and kinds[1:] == [kind]:
            widen_first, kinds[0] = WIDEN[kind], kind
        elif kind in WIDEN and "".join(kinds) + "->?" in ufunc.types:
            widen_result, result = WIDEN[kind], "?"
        loop = _loop(ufunc, f"{''.join(kinds)}->{result}")
        overlaps = any(np.may_share_memory(x, out) and not rowwise.same_view(x, out) for x in arrays)
        _expect(not overlaps, f"{ufunc.__name__} into a part of its own input")
        views = [_plane(np.broadcast_to(x, out.shape)) for x in arrays] + [_plane(out)]
        outer, inner, strides = _two_loops(views)
        row_elements = out.shape[-1] if outer == 1 and out.ndim == 2 else 0
        return _ufunc_operation(loop, views, outer, inner, strides, widen_first, widen_result, row_elements)

    def _reduction(self, ufunc: np.ufunc, x: Array, axis: int, dtype: None, out: Array) -> Iterator[native.Operation]:
        """``out`` begins as zeros (add) or the first column (maximum); then every column is accumulated."""
        column = x.ndim == 2 and axis == 1 and dtype is None and x.dtype == out.dtype and out.flags.c_contiguous
        known = column and ufunc in (np.add, np.maximum) and (len(x) == 1 or x.flags.f_contiguous)
        _expect(known, f"{ufunc.__name__}.reduce but of the columns of an array in Fortran order")
        rest = x if ufunc is np.add else x[:, 1:]
        start = native.CopyCall(_address(out), None if ufunc is np.add else _address(x), out.nbytes)
        yield native.Operation(native.COPY, copy=start)
        (outer, inner), (down, across) = rest.shape[::-1], rest.strides
        strides = [(0, out.itemsize), (across, down), (0, out.itemsize)]
        if len(x) == 1:
            outer, inner, strides = 1, rest.shape[1], [(0, 0), (0, across), (0, 0)]
        loop = _loop(ufunc, f"{2 * x.dtype.char}->{x.dtype.char}")
        yield _ufunc_operation(loop, [out, rest, out], outer, inner, strides, 0, 0, 0)

    def _cell(self, value: Any, kind: str) -> int:
        """The address of a number: of a scalar that changes from step to step, or of a constant."""
        if isinstance(value, np.ndarray):
            _expect(value.dtype.char == kind, f"a scalar of another type: {value.dtype}")
            return _address(value)
        return _address(self._constant(value, kind))

    def _constant(self, value: float, kind: str) -> Array:
        cell = np.array(value, kind)
        self._held.append(cell)
        return cell


def _expect(condition: Any, otherwise: str) -> None:
    if not condition:
        raise Unplayable(otherwise)


def _take(source: Array, indices: Array, *, axis: int, out: Array, mode: str) -> native.Operation:
    plain = all(x.flags.c_contiguous for x in (source, indices, out)) and source.dtype == out.dtype
    rows = axis == 0 and mode == "clip" and indices.dtype == np.int64 and indices.ndim == 1 and len(source)
    _expect(rows and plain and out.shape == (len(indices), *source.shape[1:]), "take but of whole rows")
    row = source.itemsize * math.prod(source.shape[1:])
    call = native.TakeCall(*map(_address, (out, source, indices)), len(indices), row, len(source), 0, 0)
    return native.Operation(native.TAKE, take=call)


def _gathers(calls: Sequence[Any], scratch: Sequence[Array]) -> Iterator[tuple[Array, int, int]]:
    """Arrays of gathered rows that only the first layer's products read: with the columns of its W, and bytes of an
    element. The library may lay such rows out in its own way (native/gather.c)."""
    free = {native.address(x) for x in scratch if x.size}
    for index, (call, following) in enumerate(pairwise(calls)):
        if call.func is not np.take:
            continue
        taken = call.keywords["out"]
        widened = isinstance(following.func, np.ufunc) and following.args[0] is taken
        widened = widened and all(np.size(x) == 1 for x in following.args[1:])
        rows, later = (following.keywords["out"] if widened else taken), calls[index + 1 + widened :]
        users = [one for one in later if any(np.may_share_memory(x, rows) for x in _arrays(one))]
        others = widened and any(np.may_share_memory(x, taken) for one in later for x in _arrays(one))
        unseen = rows.ndim == 2 and rows.flags.c_contiguous and {native.address(x) for x in (taken, rows)} <= free
        if users and unseen and not others and all(_multiplies(one, rows) for one in users):
            yield taken, max(one.args[2].shape[1] for one in users), rows.itemsize


def _arrays(call: Any) -> Iterator[Array]:
    yield from (x for x in (*call.args, *call.keywords.values()) if isinstance(x, np.ndarray))


def _multiplies(call: Any, rows: Array) -> bool:
    """Whether a call is a product of ``rows`` or of its transpose, and uses it in no other way."""
    if not isinstance(getattr(call.func, "__self__", None), native.Products):
        return False
    _, a, b, _, c = call.args
    whole = a.shape in (rows.shape, rows.T.shape) and native.address(a) == native.address(rows)
    return whole and b.flags.c_contiguous and not any(np.may_share_memory(x, rows) for x in (b, c))


def _added_products(calls: Sequence[Any]) -> Iterator[tuple[int, dict[int, tuple[int, int]]]]:
    """Calls p <- p + v of flat arrays, as of parameters and velocities, where products compute large parts of v: the
    numbers of these products, with the bounds of each one's part. A product can add its own part at once, while it is
    in the cache, if no call in between uses that part of p or of v."""
    for index, call in enumerate(calls):
        if call.func is not np.add or not all(isinstance(x, np.ndarray) for x in call.args):
            continue
        p, v = call.args
        flat = p.ndim == v.ndim == 1 and p.dtype == v.dtype and p.flags.c_contiguous and v.flags.c_contiguous
        if not flat or not rowwise.same_view(p, call.keywords["out"]) or np.may_share_memory(p, v):
            continue
        found = {}
        for number, one in enumerate(calls[:index]):
            c = one.args[4] if isinstance(getattr(one.func, "__self__", None), native.Products) else v
            start = (native.address(c) - native.address(v)) // v.itemsize
            inside = c.flags.c_contiguous and 0 <= start <= v.size - c.size
            if c is v or c.size < ADDED or min(c.shape) < 2 or not inside:
                continue
            others = [*one.args[1:3], *(x for other in calls[number + 1 : index] for x in _arrays(other))]
            if not any(np.may_share_memory(x, y) for x in others for y in (c, p[start : start + c.size])):
                found[number] = start, start + c.size
        if found:
            yield index, found


def _argmax(x: Array, *, axis: int, out: Array) -> native.Operation:
    known = axis == 1 and x.ndim == 2 and x.dtype.char in WIDEN and out.dtype == np.int64
    _expect(known and out.shape == x.shape[:1] and out.flags.c_contiguous, "argmax but of the rows of floats")
    call = native.ArgmaxCall(_address(x), *x.strides, *x.shape, _address(out), x.dtype.char == "d")
    return native.Operation(native.ARGMAX, argmax=call)


def _move(move: Move) -> native.NativeMove:
    rows, fixed = move.rows, move.fixed
    contiguous = rows.flags.c_contiguous and fixed.flags.c_contiguous
    if rows.shape[1:] != fixed.shape or rows.dtype != fixed.dtype or not contiguous:
        raise ValueError(f"a move between {rows.dtype} {rows.shape} and {fixed.dtype} {fixed.shape}")
    by_step, still = (_address(rows), rows.strides[0]), (_address(fixed), 0)
    return native.NativeMove(*(still + by_step if move.before else by_step + still), fixed.nbytes)


def _address(array: Array) -> int:
    _expect(array.flags.aligned and array.dtype.isnative, "an array that is not aligned or not in native byte order")
    return native.address(array)


def _plane(x: Array) -> Array:
    """A view with two axes."""
    _expect(x.ndim <= 2, "an array of more than two axes")
    return x.reshape((1,) * (2 - x.ndim) + x.shape)


def _two_loops(views: list[Array]) -> tuple[int, int, list[tuple[int, int]]]:
    """(outer, inner length, [(outer, inner) strides]): the result's smaller stride inside, one loop if possible."""
    rows, columns = views[-1].shape
    down, across = views[-1].strides
    if rows > 1 and (columns == 1 or down < across):
        views, (rows, columns) = [view.T for view in views], (columns, rows)
    strides = [(view.strides[0], view.strides[1]) for view in views]
    if all(outer == columns * inner for outer, inner in strides) or rows == 1:
        return 1, rows * columns, [(0, inner if columns > 1 else 0) for _, inner in strides]
    return rows, columns, strides


def _ufunc_operation(
    loop: tuple[int, int], arrays: list[Array], outer: int, inner: int, strides: list[tuple[int, int]], *rest: int
) -> native.Operation:
    words = [word for x, steps in zip(arrays, strides, strict=True) for word in (_address(x), *steps)]
    return native.Operation(native.UFUNC, ufunc=native.UfuncCall(*loop, len(arrays), outer, inner, *rest, *words))


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
    # ``library.load`` has made sure that this is CPython, where ``id`` is an object's address.
    other = f"NumPy {np.__version__} lays its ufuncs out in another way"
    _expect(type(ufunc).__basicsize__ >= ctypes.sizeof(_UfuncHead), other)
    head = _UfuncHead.from_address(id(ufunc))
    names = ("nin", "nout", "nargs", "ntypes")
    _expect([getattr(head, name) for name in names] == [getattr(ufunc, name) for name in names], other)
    _expect(head.name == ufunc.__name__.encode(), other)
    _expect(kinds in ufunc.types, f"{ufunc.__name__} has no loop {kinds}")
    index = ufunc.types.index(kinds)
    return head.functions[index] or 0, (head.data[index] or 0) if head.data else 0
