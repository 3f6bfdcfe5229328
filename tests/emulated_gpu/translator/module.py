"""A PTX file: its declarations and functions, and all of it as one C file."""

from __future__ import annotations

import re

from .body import Body
from .values import UnknownError, Variable, clean, constant, ctype, size

TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|[%$_.A-Za-z][\w$%.:]*(?<!:)|\d+U?|\S'
)


class Module:
    """Reads a PTX file's text. ``translate`` returns it as C."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        self.tokens = TOKEN.findall(re.sub(r"//[^\n]*", "", text))
        self.at = 0
        self.globals: dict[str, Variable] = {}
        self.shared: dict[str, Variable] = {}
        self.functions: dict[str, Body | None] = {}  # None: declared and not defined

    # --- tokens

    def peek(self) -> str:
        """The next token, or "" at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        self.at += 1
        return str(self.tokens[self.at - 1])

    def expect(self, word: str) -> None:
        found = self.next()
        if found != word:
            near = " ".join(self.tokens[self.at - 8 : self.at + 4])
            raise UnknownError(f"{word!r} expected, {found!r} found near {near}")

    def until(self, word: str) -> list[str]:
        """The tokens before this one, which is passed over."""
        found = []
        while self.peek() != word:
            found.append(self.next())
        self.next()
        return found

    # --- declarations

    def variable(self, space: str) -> Variable:
        """After the space's name, without the semicolon: .align 8 .b8 name[16] = {...}"""
        align, kind, vector = 0, "", 1
        while self.peek().startswith("."):
            word = self.next()
            if word == ".align":
                align = int(self.next())
            elif word in (".v2", ".v4"):
                vector = int(word[2])
            elif word == ".attribute":
                self.until(")")
            elif word not in (".ptr", ".global", ".shared", ".const", ".local"):
                kind = word[1:]
        name, count = self.next(), 1
        while self.peek() == "[":
            self.next()
            count = 0 if self.peek() == "]" else count * int(self.next().rstrip("U"), 0)
            self.expect("]")
        return Variable(space, name, kind, count * vector, align or size(kind), self.initial())

    def initial(self) -> list[str] | None:
        """The values after "=", if there are any."""
        if self.peek() != "=":
            return None
        self.next()
        if self.peek() == "{":
            return [word for word in self.until("}")[1:] if word not in ",{"]
        values = []
        while self.peek() != ";":
            values.append(self.next())
        return values

    def parameters(self) -> list[Variable]:
        self.expect("(")
        found = []
        while self.peek() != ")":
            word = self.next()
            if word == ",":
                continue
            if word not in (".param", ".reg"):
                raise UnknownError(f"parameter {word}")
            found.append(self.variable("param"))
        self.next()
        return found

    def translate(self) -> str:
        """The file as C. Raises ``UnknownError``."""
        while self.peek():
            self.directive(self.next())
        return self.assemble()

    def directive(self, word: str) -> None:
        if word in (".version", ".target", ".address_size"):
            self.next()
            while self.peek() == ",":
                self.next()
                self.next()
            if re.fullmatch(r"\.\d+", self.peek()):  # of a version
                self.next()
        elif word == ".file":
            self.next()
            self.next()
        elif word == ".section":
            self.next()
            self.expect("{")
            self.until("}")
        elif word in (".global", ".const", ".shared"):
            found = self.variable(word[1:])
            self.expect(";")
            (self.shared if word == ".shared" else self.globals)[found.name] = found
        elif word in (".entry", ".func"):
            self.function(word == ".entry")
        elif word == ".alias":
            self.until(";")
        elif word not in (".visible", ".weak", ".extern", ".common", ";"):
            raise UnknownError(f"directive {word}")

    def function(self, entry: bool) -> None:
        returned = self.parameters() if self.peek() == "(" else []
        name = self.next()
        parameters = self.parameters() if self.peek() == "(" else []
        while self.peek() not in ("{", ";"):
            self.next()  # .maxntid and its like
        if self.next() == ";":
            self.functions.setdefault(name, None)
            return
        body = Body(self.globals, self.shared, self.functions, name, parameters, returned, entry)
        body.read(self)
        self.functions[name] = body

    # --- all of it

    @property
    def bodies(self) -> list[Body]:
        return [body for body in self.functions.values() if body]

    def layout(self) -> dict[str, int]:
        """Gives each shared variable its place; returns the bytes of each function.

        A variable that a single kernel uses takes no room in the others. Where one has no length, and so begins after
        all others, every variable has a place of its own.
        """
        for body in self.bodies:
            self.shared |= {one.name: one for one in body.shared}
        dynamic = [one for one in self.shared.values() if one.count == 0]
        common, own = [one for one in self.shared.values() if one.count], {}
        if not dynamic:
            users = {one.name: [body for body in self.bodies if body.mentions(one.name)] for one in common}
            own = {name: bodies[0].name for name, bodies in users.items() if len(bodies) == 1 and bodies[0].entry}
        shared_by_all = place([one for one in common if one.name not in own], 0)
        ends = {
            body.name: place([one for one in common if own.get(one.name) == body.name], shared_by_all)
            for body in self.bodies
        }
        most = max([shared_by_all, *ends.values()])
        for one in dynamic:
            most = -(-most // max(16, one.align)) * max(16, one.align)
        for one in dynamic:
            one.offset = most
        return {body.name: ends[body.name] if body.entry and not dynamic else most for body in self.bodies}

    def assemble(self) -> str:
        shared, lines = self.layout(), ['#include "ptx.h"']
        for one in self.globals.values():
            lines += declared(one)
        lines += [f"{body.prototype()};" for body in self.bodies if not body.entry]
        for body in self.bodies:
            lines += ["#undef STATIC", f"#define STATIC {shared[body.name]}u", *body.emit()]
        lines.append("")
        self.spread_barriers()
        rows = []
        for body in self.bodies:
            if body.entry:
                offsets, total = body.parameter_offsets()
                name, listed = clean(body.name), body.parameters
                starts = ", ".join(map(str, offsets.values())) or "0"
                sizes = ", ".join(str(one.bytes) for one in listed) or "0"
                lines.append(f"static const u32 po_{name}[] = {{{starts}}}, ps_{name}[] = {{{sizes}}};")
                tail = f"po_{name}, ps_{name}, {shared[body.name]}u, {int(body.barriers)}"
                rows.append(f'{{"{body.name}", k_{name}, {total}, {len(listed)}, {tail}}}')
        names = [(one.name, clean(one.name)) for one in self.globals.values()]
        variables = [f'{{"{name}", init_{c}, sizeof init_{c}, &dev_{c}}}' for name, c in names]
        return "\n".join([*lines, *table("emu_kernel", rows), *table("emu_global", variables)]) + "\n"

    def spread_barriers(self) -> None:
        """A function has a barrier where one that it calls has one."""
        changed = True
        while changed:
            changed = False
            for body in self.bodies:
                called = (self.functions.get(name) for name in body.calls)
                if not body.barriers and any(one and one.barriers for one in called):
                    body.barriers = changed = True


def place(variables: list[Variable], offset: int) -> int:
    """Gives each variable its place from ``offset`` on; returns where they end."""
    for one in variables:
        one.offset = -(-offset // one.align) * one.align
        offset = one.offset + one.bytes
    return offset


def table(kind: str, rows: list[str]) -> list[str]:
    """The table that the driver looks up, and how many rows it has."""
    export = '__attribute__((visibility("default")))'
    return [
        f"{export} const {kind} {kind}s[] = {{{', '.join(rows) or '{0}'}}};",
        f"{export} const int {kind}_count = {len(rows)};",
    ]


def declared(one: Variable) -> list[str]:
    """A global variable: its initial bytes, and where its device address will stand. Floats by their bits."""
    name = clean(one.name)
    bits = "u" + one.kind[1:] if one.kind[0] in "bf" else ctype(one.kind)
    array = f"static _Alignas({max(8, one.align)}) {bits} init_{name}[{max(1, one.count)}]"
    if one.values is not None:
        texts, sign = [], ""
        for value in one.values:
            if re.match(r"[A-Za-z_$]", value):
                raise UnknownError(f"a global made of addresses: {one.name}")
            if value == "-":
                sign = "-"
                continue
            texts.append(sign + constant(value, bits))
            sign = ""
        array += " = {" + ", ".join(texts) + "}"
    return [f"static u64 dev_{name};", array + ";"]
