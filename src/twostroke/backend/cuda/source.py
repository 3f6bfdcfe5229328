"""The CUDA source of a launch: a kernel in which each section has a range of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .calls import MAPS, REDUCTIONS, Call, Number, Untraceable, View
from .launches import WARP, WIDEST, Section

THREADS: Final = 256  # of a block
TYPES: Final = {
    "f": "float", "d": "double", "?": "bool", "B": "unsigned char", "i": "int", "I": "unsigned int", "l": "long long",
    "q": "long long", "L": "unsigned long long",
}  # fmt: skip


def type_of(kind: str) -> str:
    """The C++ type of a dtype's character."""
    if kind not in TYPES:
        raise Untraceable(f"it computes in {np.dtype(kind)}")
    return TYPES[kind]


class KernelSource:
    """The kernel of ``sections``: its ``text`` behind the name, its ``arguments`` and the number of ``blocks``.

    The text holds strides and columns, but no addresses, rows or float factors: these are arguments, so batches of
    other sizes and other learning rates share a kernel. ``missing`` are the values without memory that would need it.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        self.missing: set[int] = set()
        self._pointers: dict[tuple[int, str], str] = {}
        self._numbers: dict[Number, str] = {}
        self._sizes: dict[str, int] = {}
        bodies, self.blocks, shared = [], 0, []
        for index, section in enumerate(sections):
            writer = (_Tiles if section.product else _Rows)(self, section, f"[{index}]")
            first, body = self.size("first", self.blocks), writer.body()
            self.blocks += writer.blocks
            last = self.size("last", self.blocks)
            bodies.append(f"if (blockIdx.x < {last}) {{\n const int block = blockIdx.x - {first};\n{body}\n}}")
            shared += [writer.shared] if isinstance(writer, _Tiles) else []
        memory = (
            [f"constexpr int BYTES = {_largest(shared)};\n__shared__ alignas(16) unsigned char memory[BYTES];"]
            if shared
            else []
        )
        alone = self._alone(sections)
        parameters = [
            *(
                f"{type_of(kind)}* {'__restrict__ ' * (pointer in alone)}{name}"
                for (pointer, kind), name in self._pointers.items()
            ),
            *(f"{type_of(number.kind)} {name}" for number, name in self._numbers.items()),
            *(f"int {name}" for name in self._sizes),
        ]
        self.text = f"({', '.join(parameters)}) {{\n" + "\n".join([*memory, " else ".join(bodies)]) + "\n}\n"
        self.arguments: list[Any] = [
            *(np.uint64(max(pointer, 0)) for pointer, _ in self._pointers),
            *(np.dtype(number.kind).type(number.value) for number in self._numbers),
            *(np.int32(value) for value in self._sizes.values()),
        ]

    def pointer(self, view: View) -> str:
        if view.pointer < 0:
            self.missing.add(-1 - view.pointer)
        return self._pointers.setdefault((view.pointer, view.kind), f"p{len(self._pointers)}")

    def number(self, number: Number) -> str:
        return self._numbers.setdefault(number, f"x{len(self._numbers)}")

    def size(self, name: str, value: int) -> str:
        """An integer that the host sets."""
        name = f"{name}{len(self._sizes)}"
        self._sizes[name] = value
        return name

    @staticmethod
    def _alone(sections: Sequence[Section]) -> set[int]:
        """The addresses whose memory no other pointer of the kernel reaches."""
        spans = {(v.pointer, v.kind, v.low, v.high) for s in sections for c in s.calls for v in (c.out, *c.reads)}
        return {
            pointer
            for pointer, kind, low, high in spans
            if all((p, k) == (pointer, kind) or not (low < end and start < high) for p, k, start, end in spans)
        }


def _largest(sizes: list[str]) -> str:
    text = sizes[0]
    for size in sizes[1:]:
        text = f"({text} > {size} ? {text} : {size})"
    return text


class _Writer:
    """The text of one section. ``values`` are the views that are in registers, and their names."""

    def __init__(self, kernel: KernelSource, section: Section, index: str) -> None:
        self.kernel, self.section = kernel, section
        self.lines: list[str] = []
        self.values: dict[View, str] = {}
        self.n = kernel.size("rows", section.rows)
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def place(self, view: View, row: str, column: str) -> str:
        """The element of a view as an expression."""
        row = self.read(view.pick) if view.pick else row
        # Strides of so many rows are not in the text: those of arrays in Fortran order, and of a table's rows.
        rows = self.section.rows
        column_stride = self.n if (view.by_row, view.by_column) == (1, rows) else view.by_column
        terms = [f"(long long){row} * {view.by_row}"] if view.by_row else []
        terms += [f"(long long){column} * {column_stride}"] if view.by_column else []
        if view.cell:
            terms.append(f"(long long){self.read(view.cell)} * {self.n if view.jump == rows else view.jump}")
        return f"{self.kernel.pointer(view)}[{' + '.join(terms) or '0'}]"

    def read(self, view: View) -> str:
        raise NotImplementedError

    def operand(self, x: View | Number, kind: str) -> str:
        """An operand of the dtype ``kind``."""
        if isinstance(x, View):
            return self.read(x) if x.kind == kind else f"({type_of(kind)}){self.read(x)}"
        return f"({type_of(kind)}){x.value}" if isinstance(x.value, int) else self.kernel.number(Number(x.value, kind))

    def expression(self, call: Call) -> str:
        """The value of a ufunc's call, of its result's dtype."""
        text = MAPS.get(call.name, "{0}").format(*(self.operand(x, call.kind) for x in call.operands))
        return f"({type_of(call.out.kind)})({text})"


class _Tiles(_Writer):
    """A product, a tile a block, and what follows it element by element."""

    def __init__(self, kernel: KernelSource, section: Section, index: str) -> None:
        super().__init__(kernel, section, index)
        self.call = call = section.calls[0]
        a, b = call.operands[:2]
        assert isinstance(a, View)
        assert isinstance(b, View)
        rows, columns, depth = self.tile = call.tile
        across = -(-call.columns // columns)
        self.blocks, self._across = -(-call.rows // rows) * across, across
        along_rows = self.along_rows = a.by_column != 1 and a.columns > 1
        along_columns = self.along_columns = b.by_row != 1 or b.rows == 1
        kind = type_of(call.out.kind)
        self.type = f"Product<{kind}, {rows}, {columns}, {depth}, {int(along_rows)}, {int(along_columns)}>"
        self.shared = f"{self.type}::BYTES"

    def read(self, view: View) -> str:
        if view not in self.values:
            place, name = self.place(view, "r", "c"), self.name()
            self.lines.append(f"const {type_of(view.kind)} {name} = {place};")
            self.values[view] = name
        return self.values[view]

    def body(self) -> str:
        call, kernel, (rows, columns, _) = self.call, self.kernel, self.tile
        a, b, alpha, beta = call.operands
        assert isinstance(a, View)
        assert isinstance(b, View)
        kind = call.out.kind
        step_a = kernel.size("step", a.by_column if self.along_rows else a.by_row)
        step_b = kernel.size("step", b.by_row if self.along_columns else b.by_column)
        sizes = f"{self.n}, {call.columns}, {kernel.size('depth', call.depth)}"
        value = "sums[i]"
        if alpha != Number(1.0, kind):
            value = f"{self.operand(alpha, kind)} * {value}"
        if beta == Number(1.0, kind):
            value = f"{self.read(call.out)} + {value}"
        elif beta != Number(0.0, kind):
            value = f"{self.operand(beta, kind)} * {self.read(call.out)} + {value}"
        self._keep(call, value)
        for following in self.section.calls[1:]:
            self._keep(following, self.expression(following))
        inner = "\n  ".join(self.lines)
        return (
            f" const int m0 = block / {self._across} * {rows}, n0 = block % {self._across} * {columns};\n"
            f" {type_of(kind)} sums[{self.type}::OWN];\n"
            f" {self.type}::compute({kernel.pointer(a)}, {step_a}, {kernel.pointer(b)}, {step_b},"
            f" {sizes}, m0, n0, memory, sums);\n"
            f"#pragma unroll\n for (int i = 0; i < {self.type}::OWN; ++i) {{\n"
            f"  const int e = threadIdx.x + i * THREADS, r = m0 + e / {columns}, c = n0 + e % {columns};\n"
            f"  if (e >= {rows * columns} || r >= {self.n} || c >= {call.columns}) continue;\n  {inner}\n }}"
        )

    def _keep(self, call: Call, value: str) -> None:
        name = self.name()
        self.lines.append(f"const {type_of(call.out.kind)} {name} = {value};")
        if call.out.pointer >= 0:
            self.lines.append(f"{self.place(call.out, 'r', 'c')} = {name};")
        self.values[call.out] = name


class _Rows(_Writer):
    """Rows in a range of blocks, ``lanes`` threads for each.

    A lane has every ``lanes``-th column. Where rows are reduced it keeps its columns in registers, as small arrays;
    elsewhere consecutive calls of as many columns share one loop. What a row has once, all its lanes compute.
    """

    def __init__(self, kernel: KernelSource, section: Section, index: str) -> None:
        super().__init__(kernel, section, index)
        widest = max(max(call.columns, call.depth) for call in section.calls)
        if section.reduces and widest > WIDEST:
            raise Untraceable(f"it reduces rows of {widest} columns")
        most = WARP if section.reduces or self._in_place() else THREADS
        self.lanes = min(most, 1 << (widest - 1).bit_length())
        self.blocks = -(-section.rows // (THREADS // self.lanes))
        self._loop: int | None = None  # the columns of the loop that is open
        self._before: list[str] = []  # what stands before it
        self._in_loop: set[View] = set()

    def body(self) -> str:
        for call in self.section.calls:
            if call.name in REDUCTIONS:
                self._reduce(call)
            elif call.by_row:
                self._product(call)
            elif call.columns == 1:
                self._close()
                self._keep_row(call.out, self.expression(call))
            else:
                self._map(call)
        self._close()
        per_block, inside = THREADS // self.lanes, "\n ".join(self.lines)
        return (
            f" const int row = block * {per_block} + threadIdx.x / {self.lanes}, lane = threadIdx.x % {self.lanes};\n"
            f" const bool in = row < {self.n};\n const int r = in ? row : {self.n} - 1;\n {inside}"
        )

    def _in_place(self) -> bool:
        """Whether a value of a row is read from memory and then written there: all its lanes must read it first."""
        known: set[View] = set()
        loaded: set[View] = set()
        for call in self.section.calls:
            loaded |= {view for view in call.reads if view not in known}
            if call.out.columns == 1 and call.out in loaded:
                return True
            known.add(call.out)
        return False

    # --- values -------------------------------------------------------------------------------------------------

    def read(self, view: View) -> str:
        if view in self.values:
            return f"{self.values[view]}[i]" if self._array(view) else self.values[view]
        if view.columns == 1:
            place, name = self.place(view, "r", "0"), self.name()
            (self.lines if self._loop is None else self._before).append(f"const {type_of(view.kind)} {name} = {place};")
        elif self._loop is not None:
            place, name = self.place(view, "r", "c"), self.name()
            self.lines.append(f"const {type_of(view.kind)} {name} = {place};")
            self._in_loop.add(view)
        else:
            place, name = self.place(view, "r", "c"), self.name()
            self.lines.append(f"{type_of(view.kind)} {name}[{self._each(view.columns)}];")
            self._for_each(view.columns, f"{name}[i] = c < {view.columns} ? {place} : ({type_of(view.kind)})0;")
        self.values[view] = name
        return self.read(view)

    def _array(self, view: View) -> bool:
        return view.columns > 1 and self.section.reduces

    def _each(self, columns: int) -> int:
        """Columns of a lane."""
        return -(-columns // self.lanes)

    def _for_each(self, columns: int, text: str) -> None:
        loop = f"for (int i = 0, c = lane; i < {self._each(columns)}; ++i, c += {self.lanes})"
        self.lines.append(f"#pragma unroll\n {loop} {text}")

    def _keep_row(self, out: View, value: str) -> None:
        name, loaded = self.name(), out in self.values
        self.lines.append(f"const {type_of(out.kind)} {name} = {value};")
        if out.pointer >= 0:
            place = self.place(out, "r", "0")
            if loaded and self.lanes > 1:
                self.lines.append("__syncwarp();")
            self.lines.append(f"if (in && lane == 0) {place} = {name};")
        self.values[out] = name

    # --- calls --------------------------------------------------------------------------------------------------

    def _map(self, call: Call) -> None:
        out, kind = call.out, type_of(call.out.kind)
        if self.section.reduces:
            value, name = self.expression(call), self.name()
            self.lines.append(f"{kind} {name}[{self._each(call.columns)}];")
            self._for_each(call.columns, f"{name}[i] = {value};")
            self._keep_columns(out, name)
        else:
            if self._loop != call.columns:
                self._close()
                self._loop, self._before, self.lines = call.columns, self.lines, []
            value, name = self.expression(call), self.name()
            self.lines.append(f"const {kind} {name} = {value};")
            if out.pointer >= 0:
                self.lines.append(f"{self.place(out, 'r', 'c')} = {name};")
            self._in_loop.add(out)
            self.values[out] = name

    def _close(self) -> None:
        """End the open loop, with the values that live in it."""
        if self._loop is None:
            return
        inner = "\n  ".join(self.lines)
        loop = f"if (in) for (int c = lane; c < {self._loop}; c += {self.lanes}) {{\n  {inner}\n }}"
        self.lines, self._before, self._loop = [*self._before, loop], [], None
        for view in self._in_loop:
            self.values.pop(view, None)
        self._in_loop.clear()

    def _product(self, call: Call) -> None:
        """A row of a product. Of few columns: one after the other, its depth among the lanes; else its columns are."""
        a, b = call.operands[:2]
        assert isinstance(a, View)
        assert isinstance(b, View)
        kind, name, columns, depth = type_of(call.out.kind), self.name(), call.columns, call.depth
        value = self.read(a)
        if columns > WARP:
            self.lines.append(f"{kind} {name}[{self._each(columns)}] = {{}};")
            self.lines.append(f"#pragma unroll\n for (int j = 0; j < {depth}; ++j) {{")
            self.lines.append(f"const {kind} left = __shfl_sync(ALL, {value.replace('[i]', '[0]')}, j, {self.lanes});")
            sum_up = f"{name}[i] = fused(left, {self.place(b, 'j', 'c')}, {name}[i]);"
            self._for_each(columns, f"if (c < {columns}) {sum_up}")
            self.lines.append("}")
            self._keep_columns(call.out, name)
            return
        sum_up = f"if (c < {depth}) sum = fused({value}, {self.place(b, 'c', 'j')}, sum);"
        one = columns == 1
        self.lines.append(f"{kind} {name}{'' if one else '[1]'} = {'0' if one else '{}'};")
        self.lines.append(f"#pragma unroll\n for (int j = 0; j < {columns}; ++j) {{\n {kind} sum = 0;")
        self._for_each(depth, sum_up)
        self.lines.append(f"{self._shuffle()} sum += __shfl_xor_sync(ALL, sum, d);")
        self.lines.append(f"{name} = sum;\n }}" if one else f"if (lane == j) {name}[0] = sum;\n }}")
        if one:
            self._keep_row(call.out, name)
        else:
            self._keep_columns(call.out, name)

    def _shuffle(self) -> str:
        return f"#pragma unroll\n for (int d = {self.lanes // 2}; d > 0; d /= 2)"

    def _keep_columns(self, out: View, name: str) -> None:
        """``name`` is the array of this lane's columns of ``out``."""
        self.values[out] = name
        if out.pointer >= 0:
            self._for_each(out.columns, f"if (in && c < {out.columns}) {self.place(out, 'r', 'c')} = {name}[i];")

    def _reduce(self, call: Call) -> None:
        (x,) = call.operands
        assert isinstance(x, View)
        kind, name, columns = type_of(x.kind), self.name(), call.columns
        value = self.read(x)  # an array, or the one column
        shuffle = self._shuffle()
        only = f"if (c < {columns}) "
        if columns == 1:
            self._keep_row(call.out, f"({type_of(call.out.kind)}){'0' if call.name == 'argmax' else value}")
            return
        if call.name == "argmax":
            best, at = name, f"{name}_at"
            self.lines.append(f"{kind} {best} = {self.values[x]}[0]; int {at} = lane;")
            self.lines.append(f"if (lane >= {columns}) {best} = -__int_as_float(0x7f800000), {at} = {columns};")
            self._for_each(columns, f"{only}if (larger({value}, c, {best}, {at})) {best} = {value}, {at} = c;")
            self.lines.append(
                f"{shuffle} {{\n  const {kind} w = __shfl_xor_sync(ALL, {best}, d);\n"
                f"  const int j = __shfl_xor_sync(ALL, {at}, d);\n  if (larger(w, j, {best}, {at}))"
                f" {best} = w, {at} = j;\n }}"
            )
            self._keep_row(call.out, f"({type_of(call.out.kind)}){at}")
            return
        joined = "maximum({0}, {1})" if call.name == "max" else "{0} + {1}"
        start = "-__int_as_float(0x7f800000)" if call.name == "max" else "0"
        self.lines.append(f"{kind} {name} = {start};")
        self._for_each(columns, f"{only}{name} = {joined.format(name, value)};")
        self.lines.append(f"{shuffle} {name} = {joined.format(name, f'__shfl_xor_sync(ALL, {name}, d)')};")
        self._keep_row(call.out, name)
