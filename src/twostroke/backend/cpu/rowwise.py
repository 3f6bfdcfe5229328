"""Finds runs of calls on a tape that compute each row, which is a sample, for itself.

Such calls need no other order between rows: a thread can take some rows through all of them, which stay in its cache.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from . import library as native

Array: TypeAlias = "np.ndarray[Any, Any]"

WORTH: Final = 1 << 14  # elements of the largest result, from which it pays
MOST_SHARED: Final = 1 << 13  # elements of a matrix that every thread packs for itself
MOST_DEPTH: Final = 255  # the library sums greater ones in two halves, one for each thread


class Run(NamedTuple):
    """The calls ``first`` to ``stop`` of a tape, each with so many rows."""

    first: int
    stop: int
    rows: int


class _Call(NamedTuple):
    """What a call writes, what else it reads row by row, and what every row of it reads."""

    out: Array
    by_row: list[Array]
    by_all: list[Array]


def runs(calls: Sequence[Any], alone: Container[int] = ()) -> Iterator[Run]:
    """The longest runs, in order, that are worth it. The calls with the numbers ``alone`` belong to none."""
    gathered: list[Array] = []  # may lie in blocks of columns; what widens them is part of gathering (native/gather.c)
    known: list[_Call | None] = []
    for index, call in enumerate(calls):
        before = calls[index - 1].func if index else None
        if index in alone:
            known.append(None)
        elif np.take in (call.func, before):
            gathered += [call.keywords["out"]] if "out" in call.keywords else []
            known.append(None)
        else:
            known.append(_call(call, gathered))
    first = 0
    while first < len(known):
        stop = first
        while stop < len(known) and _goes_with(known[stop], known[first:stop]):
            stop += 1
        members = [one for one in known[first:stop] if one]
        if members and max(one.out.size for one in members) >= WORTH:
            yield Run(first, stop, len(members[0].out))
        first = max(stop, first + 1)


def _call(call: Any, gathered: Sequence[Array]) -> _Call | None:
    """None for a call whose rows depend on each other, or that the library cannot cut into rows."""
    owner = getattr(call.func, "__self__", None)
    if isinstance(owner, native.Products):
        _, a, b, beta, c = call.args
        small = len(a) > 1 and a.shape[1] <= MOST_DEPTH and b.size <= MOST_SHARED
        in_rows = a.flags.c_contiguous or not any(np.may_share_memory(a, x) for x in gathered)
        fresh = not isinstance(beta, np.ndarray) and beta == 0.0
        return _Call(c, [a], [b]) if small and in_rows and fresh else None
    out = call.keywords.get("out")
    if not isinstance(call.func, np.ufunc) or out is None or out.ndim != 2 or len(out) < 2:
        return None
    arrays = [x for x in call.args if isinstance(x, np.ndarray) and x.size > 1]
    by_row, by_all = ([x for x in arrays if (x.shape == out.shape) == same] for same in (True, False))
    return _Call(out, by_row, by_all) if all(x.flags.c_contiguous for x in (out, *by_row)) else None


def _goes_with(call: _Call | None, before: Sequence[_Call | None]) -> bool:
    """Whether a row of this call and the same row of the calls before it need of each other's results nothing else."""
    others = [one for one in before if one]
    if call is None or (others and len(others[0].out) != len(call.out)):
        return False
    fits = _in_rows(call, [call.out, *(one.out for one in others)])
    return fits and all(_in_rows(one, [call.out]) for one in others)


def _in_rows(call: _Call, written: Sequence[Array]) -> bool:
    """Whether a call uses of these arrays only the row that it computes."""
    for x in written:
        if any(np.may_share_memory(x, y) for y in call.by_all):
            return False
        if any(np.may_share_memory(x, y) and not same_view(x, y) for y in (call.out, *call.by_row)):
            return False
    return True


def same_view(x: Array, y: Array) -> bool:
    """Whether two arrays are the same elements at the same places."""
    return (x.ctypes.data, x.shape, x.strides) == (y.ctypes.data, y.shape, y.strides)
