"""Moves, loads, stores, atomics."""

from __future__ import annotations

from .expressions import Expressions
from .values import Arguments, Operand, UnknownError, between, ctype, memory, size


class Movement(Expressions):
    """Instructions that read or write memory, or move registers."""

    def op_mov(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        if a[0][0] == "{":
            names = between(a[0])
            bits = size(kind) * 8 // len(names)
            source = self.value(a[1], "u" + kind[1:])
            text = f"{{ u64 v_ = {source}; "
            for i, name in enumerate(names):
                text += self.set(name, f"(u{bits})(v_ >> {bits * i})", f"u{bits}") + " "
            return text + "}"
        if a[1][0] == "{":
            names = between(a[1])
            bits = size(kind) * 8 // len(names)
            whole = " | ".join(
                f"(u{kind[1:]})(u{bits}){self.value(name, f'u{bits}')} << {bits * i}" for i, name in enumerate(names)
            )
            return self.set(a[0], f"(u{kind[1:]})({whole})", f"u{kind[1:]}")
        if kind == "pred":
            return self.set(a[0], self.value(a[1], "pred"), "u8")
        return self.set(a[0], self.value(a[1], kind), ctype(kind))

    def op_ld(self, mods: list[str], a: Arguments) -> str:
        space, vector, kind = memory(mods)
        places = self.place(a[1], space, kind, vector)
        if vector == 1 and a[0][0] != "{":
            return self.widen(a[0], places[0], kind)
        names = between(a[0])
        # all are read before one is written: a register may be the address
        text = "{ " + " ".join(f"{ctype(kind)} v{i}_ = {p};" for i, p in enumerate(places))
        return text + " " + " ".join(self.widen(n, f"v{i}_", kind) for i, n in enumerate(names)) + " }"

    def widen(self, name: Operand | str, expression: str, kind: str) -> str:
        word = name[0] if isinstance(name, list) else name
        have = self.registers.get(word, "b32")
        if kind[0] in "us" and have[0] in "bus" and size(have) > size(kind):
            return self.set(
                name, f"({ctype(('s' if kind[0] == 's' else 'u') + have[1:])})({expression})", ctype("u" + have[1:])
            )
        return self.set(name, expression, ctype(kind))

    def op_st(self, mods: list[str], a: Arguments) -> str:
        space, vector, kind = memory(mods)
        places = self.place(a[0], space, kind, vector)
        values = [self.value(name, kind) for name in (between(a[1]) if a[1][0] == "{" else [a[1]])]
        return " ".join(f"{place} = {value};" for place, value in zip(places, values, strict=True))

    def op_cvta(self, mods: list[str], a: Arguments) -> str:
        space = mods[1] if mods[0] == "to" else mods[0]
        if space == "shared":
            sign = "-" if mods[0] == "to" else "+"
            return self.set(a[0], f"({self.value(a[1], 'u64')} {sign} SHARED_BASE)", "u64")
        return self.set(a[0], self.value(a[1], mods[-1]), ctype(mods[-1]))

    def op_isspacep(self, mods: list[str], a: Arguments) -> str:
        x = self.value(a[1], "u64")
        inside = f"({x} - SHARED_BASE < STATIC + T->dynamic_shared)"
        text = {"shared": inside, "global": f"(!{inside})", "local": "0", "const": "0", "param": "0"}[mods[0]]
        return self.set(a[0], text, "u8")

    def atomic(self, mods: list[str], where: Operand, old: Operand | None, operands: Arguments) -> str:
        kind = ctype(mods[-1])
        space = next((word for word in mods if word in ("global", "shared", "local")), "")
        op = next(
            word for word in mods if word in ("add", "min", "max", "inc", "dec", "exch", "cas", "and", "or", "xor")
        )
        place = self.place(where, space, mods[-1], 1)[0]
        values = [self.value(word, mods[-1]) for word in operands]
        new = {
            "add": "o_ + x_",
            "min": "(x_ < o_ ? x_ : o_)",
            "max": "(x_ > o_ ? x_ : o_)",
            "exch": "x_",
            "and": "o_ & x_",
            "or": "o_ | x_",
            "xor": "o_ ^ x_",
            "inc": "(o_ >= x_ ? 0 : o_ + 1)",
            "dec": "(o_ == 0 || o_ > x_ ? x_ : o_ - 1)",
            "cas": "(o_ == x_ ? y_ : o_)",
        }[op]
        second = f", y_ = {values[1]}" if len(values) > 1 else ""
        text = f"{{ {kind} *p_ = &{place}, x_ = {values[0]}{second}, o_ = *p_; *p_ = {new};"
        return text + (" " + self.set(old, "o_", kind) if old else "") + " }"

    def op_atom(self, mods: list[str], a: Arguments) -> str:
        return self.atomic(mods, a[1], a[0], a[2:])

    def op_red(self, mods: list[str], a: Arguments) -> str:
        if "async" in mods:
            raise UnknownError(self.word)
        return self.atomic(mods, a[0], None, a[1:])

    op_ldu = op_ld
