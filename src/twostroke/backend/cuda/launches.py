"""The calls of a step as launches: each call goes into the first launch that its operands allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ..base import Array
from .calls import REDUCTIONS, Call, View

WARP: Final = 32
WIDEST: Final = 32 * WARP  # columns of a row that a warp keeps in registers
# A product of no more multiplications than this, and no deeper, is computed by our own kernel: measured on an H200.
MOST_WORK, DEEPEST = 1 << 26, 2048


@dataclass
class Section:
    """Calls that one range of blocks computes, row by row; with ``product`` element by element, after the product."""

    rows: int
    calls: list[Call] = field(default_factory=list)

    @property
    def product(self) -> Call | None:
        return self.calls[0] if self.calls and self.calls[0].name == "gemm" else None

    @property
    def reduces(self) -> bool:
        return any(call.name in REDUCTIONS for call in self.calls)

    def takes(self, call: Call) -> bool:
        """Whether ``call`` may follow in the same threads."""
        if call.name == "gemm" or not self.calls:
            return not self.calls
        if call.rows != self.rows:
            return False
        if any(not self._own(a, b) for before in self.calls for a, b in call.conflicts(before)):
            return False
        if self.product is not None:
            return call.columns == self.product.columns and call.name not in REDUCTIONS
        calls = [*self.calls, call]
        return max(c.columns for c in calls) <= WIDEST or not any(c.name in REDUCTIONS for c in calls)

    def refuses(self, unit: Sequence[Call]) -> int | None:
        """The place in ``unit`` of the first call that may not follow; None if all may, one after the other."""
        trial = Section(self.rows, [*self.calls])
        for place, call in enumerate(unit):
            if not trial.takes(call):
                return place
            trial.calls.append(call)
        return None

    def _own(self, a: View, b: View) -> bool:
        """Whether both are the same elements, each of them one thread's alone."""
        apart = (a.by_row or self.rows == 1) and (a.by_column or a.columns == 1)
        return a == b and bool(apart) and a.pick is None and not a.whole


Launch = list[Section] | Call  # sections side by side; or a product by cuBLAS


class NeedsMemory(Exception):
    """Values without memory that are read where their threads are not; ``values`` are their addresses."""

    def __init__(self, values: set[int]) -> None:
        self.values = values


def schedule(calls: Sequence[Call]) -> list[Launch]:
    """Launches, in order, that do what the calls do one after the other.

    A call whose result has no memory waits for the first that reads it, and both go into the same section.
    """
    launches: list[Launch] = []
    placed: list[tuple[int, Call]] = []
    waiting: list[Call] = []
    for call in calls:
        if call.run is not None:  # a product by cuBLAS
            met = {one.out.pointer for one in waiting if any(True for _ in call.conflicts(one))}
            if met:
                raise NeedsMemory(met)
            launches.append(call)
            placed.append((len(launches) - 1, call))
            continue
        if call.out.pointer < 0:
            waiting.append(call)
            continue
        unit = _with_what_it_reads(call, waiting)
        waiting = [one for one in waiting if not any(one is other for other in unit)]
        at = _place(launches, placed, unit)
        placed += [(at, one) for one in unit]
    return launches


def _with_what_it_reads(call: Call, waiting: Sequence[Call]) -> list[Call]:
    """The call after those that wait and that it needs, or that must read before it writes."""
    unit = [call]
    for one in reversed(waiting):
        if any(True for later in unit for _ in later.conflicts(one)):
            unit.insert(0, one)
    return unit


def _place(launches: list[Launch], placed: Sequence[tuple[int, Call]], unit: Sequence[Call]) -> int:
    """Put the calls into one section of the first launch that may have them; returns its index."""
    met = [(at, before) for at, before in placed if any(True for call in unit for _ in call.conflicts(before))]
    first = max((at for at, _ in met), default=0)
    for at in range(first, len(launches) + 1):
        if at == len(launches):
            launches.append([])
        sections = launches[at]
        if isinstance(sections, Call):
            continue
        here = [before for where, before in met if where == at]
        for section in sections:
            mine = all(any(before is call for call in section.calls) for before in here)
            if mine and (here or section.product is None) and section.refuses(unit) is None:
                section.calls += unit
                return at
        if not here:
            section = Section(unit[0].rows)
            refused = section.refuses(unit)
            if refused is not None:
                made = {call.out.pointer for call in unit[:refused]}
                raise NeedsMemory(made & {read.pointer for read in unit[refused].reads} or made)
            section.calls += unit
            sections.append(section)
            return at
    raise AssertionError("a new launch takes any call")


# --- values that need no memory ----------------------------------------------------------------------------------


def is_small(call: Call) -> bool:
    """Whether our own kernel computes this product."""
    return call.rows * call.columns * call.depth <= MOST_WORK and call.depth <= DEEPEST


def passing(calls: Sequence[Call], scratch: Iterable[Array]) -> set[int]:
    """The calls whose result may stay in registers: it lies in ``scratch``, and is read whole and never by a product."""
    extents = sorted((x.data.ptr, x.data.ptr + x.nbytes) for x in scratch if x.size)
    return {
        index
        for index, call in enumerate(calls)
        if call.run is None
        and any(low <= call.out.low and call.out.high <= high for low, high in extents)
        and _passes(call.out, calls[index + 1 :])
    }


def _passes(value: View, later: Sequence[Call]) -> bool:
    for call in later:
        if any(read.overlaps(value) and (read != value or call.name == "gemm") for read in call.reads):
            return False
        if call.out.overlaps(value):
            return call.out == value
    return True


def renamed(calls: Sequence[Call], indices: set[int]) -> Iterator[Call]:
    """The calls; the result of each of ``indices`` has no memory but the address -1 - index, all its own."""
    names: dict[View, View] = {}
    for index, call in enumerate(calls):
        operands = tuple(_named(x, names) if isinstance(x, View) else x for x in call.operands)
        names.pop(call.out, None)
        out = call.out
        if index in indices:
            out = names[call.out] = replace(out, pointer=-1 - index, low=-1 - index, high=-index)
        yield replace(call, operands=operands, out=out)


def _named(view: View, names: dict[View, View]) -> View:
    if view.pick is not None or view.cell is not None:
        pick, cell = view.pick and names.get(view.pick, view.pick), view.cell and names.get(view.cell, view.cell)
        view = replace(view, pick=pick, cell=cell)
    return names.get(view, view)
