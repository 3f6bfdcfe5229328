"""The calls of a step as launches: each call goes into the first launch that its operands allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import le
from typing import Final

from ..base import Array
from .calls import REDUCTIONS, Call, Number, View

WARP: Final = 32
WIDEST: Final = 32 * WARP  # columns of a row that a warp keeps in registers
# A product of no more multiplications than this, and no deeper, is our own kernels': beyond, cuBLAS is quicker.
MOST_WORK, DEEPEST = 1 << 26, 2048
# Tiles of a product: rows, columns and depth of a stage. The largest is taken that keeps the GPU busy; the last is for
# vectors.
LARGE, SMALL, FLAT = (32, 32, 32), (16, 16, 64), (4, 16, 64)
BUSY: Final = 100  # blocks
MOST_BY_ROW: Final = 1 << 22  # of a product whose rows are computed by themselves


@dataclass(eq=False)
class Section:
    """Calls that one range of blocks computes, row by row; with ``product`` element by element, after the product."""

    rows: int
    calls: list[Call] = field(default_factory=list)

    @property
    def product(self) -> Call | None:
        return self.calls[0] if self.calls and _is_tiled(self.calls[0]) else None

    @property
    def reduces(self) -> bool:
        """Whether the lanes of a row exchange values, which they then keep in registers."""
        return any(map(_reduces, self.calls))

    def takes(self, call: Call) -> bool:
        """Whether ``call`` may follow in the same threads."""
        if _is_tiled(call) or not self.calls:
            return not self.calls
        if call.rows != self.rows:
            return False
        if any(not self._own(a, b) for before in self.calls for a, b in call.conflicts(before)):
            return False
        if self.product is not None:
            return call.columns == self.product.columns and not _reduces(call)
        calls = [*self.calls, call]
        return max(max(c.columns, c.depth) for c in calls) <= WIDEST or not any(map(_reduces, calls))

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


def _is_tiled(call: Call) -> bool:
    return call.name == "gemm" and not call.by_row


def _reduces(call: Call) -> bool:
    return call.by_row or call.name in REDUCTIONS


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
            met = {one.out.pointer for one in waiting if _meet(call, one)}
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
    return _merged(launches)


def _meet(call: Call, before: Call) -> bool:
    return any(True for _ in call.conflicts(before))


def _merged(launches: list[Launch]) -> list[Launch]:
    """The launches with sections moved into the one that needs them, where they fit: one pass over memory, not two."""
    for index, launch in enumerate(launches):
        for section in [] if isinstance(launch, Call) else [*launch]:
            for later in launches[index + 1 :]:
                others = [Section(later.rows, [later])] if isinstance(later, Call) else later
                met = [one for one in others if any(_meet(a, b) for a in one.calls for b in section.calls)]
                if len(met) == 1 and Section(section.rows).refuses([*section.calls, *met[0].calls]) is None:
                    met[0].calls[:0] = section.calls
                    launch.remove(section)  # type: ignore[union-attr]
                if met:
                    break
    return [launch for launch in launches if launch]


def _with_what_it_reads(call: Call, waiting: Sequence[Call]) -> list[Call]:
    """The call after those that wait and that it needs, or that must read before it writes."""
    unit = [call]
    for one in reversed(waiting):
        if any(_meet(later, one) for later in unit):
            unit.insert(0, one)
    return unit


def _place(launches: list[Launch], placed: Sequence[tuple[int, Call]], unit: Sequence[Call]) -> int:
    """Put the calls into one section of the first launch that may have them; returns its index."""
    met = [(at, before) for at, before in placed if any(_meet(call, before) for call in unit)]
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


def assigned(call: Call, like: Call | None = None) -> Call:
    """The call; a product that our kernels compute quicker than cuBLAS is given to them, by row or in tiles.

    ``like`` is the same call of a larger batch, assigned before: then the same is done, and the kernel is shared.
    """
    if call.run is None:
        return call
    (a, b, alpha, beta), kind = call.operands, call.out.kind
    assert isinstance(a, View)
    sizes, larger = ((x.rows, x.columns, x.depth) for x in (call, like or call))
    if like and call.rows > 1 and all(map(le, sizes, larger)):
        by_row, tile = like.by_row, like.tile
        if like.run:
            return call
    else:
        work = math.prod(sizes)
        if work > MOST_WORK or call.depth > DEEPEST:
            return call
        narrow = min(sizes[1:]) <= WARP and max(sizes[1:]) <= WIDEST // 2
        plain = (alpha, beta) == (Number(1.0, kind), Number(0.0, kind))
        by_row = plain and narrow and work <= MOST_BY_ROW and call.rows > 1
        large = -(-call.rows // LARGE[0]) * -(-call.columns // LARGE[1]) >= BUSY
        tile = FLAT if call.rows <= FLAT[0] else LARGE if large else SMALL
    return replace(call, run=None, by_row=by_row, tile=tile, operands=(replace(a, whole=not by_row), b, alpha, beta))


def passing(calls: Sequence[Call], scratch: Iterable[Array]) -> set[int]:
    """The calls whose result may stay in registers: it lies in ``scratch``, and is only read as it was written."""
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
        if any(read.overlaps(value) and read != value for read in call.reads):
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
