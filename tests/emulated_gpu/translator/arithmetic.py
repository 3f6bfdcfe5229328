"""Arithmetic, logic, comparison, conversion."""

from __future__ import annotations

from .expressions import Expressions
from .values import Arguments, UnknownError, ctype, size

COMPARE = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
TO_INTEGER = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


class Arithmetic(Expressions):
    """``op_NAME(modifiers, operands)`` returns the C statements of an instruction, here and in the other two files."""

    def unary(self, mods: list[str], a: Arguments, kind: str, template: str) -> str:
        f = "ftz" in mods and kind == "f32"
        x = self.value(a[1], kind)
        x = f"ftz({x})" if f else x
        result = template.format(x)
        return self.set(a[0], f"ftz({result})" if f else result, ctype(kind))

    def binary(self, mods: list[str], a: Arguments, kind: str, template: str) -> str:
        f = "ftz" in mods and kind == "f32"
        x, y = (self.value(word, kind) for word in a[1:3])
        if f:
            x, y = f"ftz({x})", f"ftz({y})"
        result = f"({ctype(kind)})({template.format(x, y)})"
        if "sat" in mods and kind[0] == "f":
            result = clamped(result)
        return self.set(a[0], f"ftz({result})" if f else result, ctype(kind))

    def carry(self, mods: list[str], a: Arguments, minus: bool) -> str:
        kind = mods[-1]
        u, wide = "u" + kind[1:], "u128"
        x, y = self.value(a[1], u), self.value(a[2], u)
        take = "cc" if self.word.startswith(("addc", "subc")) else "0"
        op = "-" if minus else "+"
        text = f"{{ {wide} w_ = ({wide}){x} {op} {y} {op} {take}; "
        if "cc" in mods:
            text += f"cc = (w_ >> {kind[1:]}) & 1; "
        return text + self.set(a[0], f"({u})w_", u) + " }"

    def op_add(self, mods: list[str], a: Arguments) -> str:
        if "cc" in mods:
            return self.carry(mods, a, False)
        return self.binary(mods, a, mods[-1], "{} + {}")

    def op_sub(self, mods: list[str], a: Arguments) -> str:
        if "cc" in mods:
            return self.carry(mods, a, True)
        return self.binary(mods, a, mods[-1], "{} - {}")

    def op_addc(self, mods: list[str], a: Arguments) -> str:
        return self.carry(mods, a, False)

    def op_subc(self, mods: list[str], a: Arguments) -> str:
        return self.carry(mods, a, True)

    def product(self, mods: list[str], a: Arguments) -> tuple[str, str]:
        """The C expression of mul, its C type."""
        kind = mods[-1]
        if kind[0] == "f":
            raise UnknownError("mad of floats")
        bits = int(kind[1:])
        if "wide" in mods:
            big = f"{kind[0]}{bits * 2}"
            return f"(({big}){self.value(a[1], kind)} * ({big}){self.value(a[2], kind)})", big
        if "hi" in mods:
            big = f"{kind[0]}{bits * 2}"
            return f"(({kind})((({big}){self.value(a[1], kind)} * ({big}){self.value(a[2], kind)}) >> {bits}))", kind
        u = f"u{bits}" if bits > 16 else "u32"
        return f"(({kind})(({u}){self.value(a[1], kind)} * ({u}){self.value(a[2], kind)}))", kind

    def op_mul(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        if kind[0] == "f":
            return self.binary(mods, a, kind, "{} * {}")
        return self.set(a[0], *self.product(mods, a))

    def op_mad(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        if kind[0] == "f":
            return self.op_fma(mods, a)
        text, have = self.product(mods, a)
        u = "u" + have[1:]
        carried = " + cc" if self.word.startswith("madc") else ""
        noted = f"cc = (w_ >> {have[1:]}) & 1; " if "cc" in mods else ""
        total = f"u128 w_ = (u128)({u}){text} + {self.value(a[3], u)}{carried};"
        return f"{{ {total} {noted}{self.set(a[0], f'({u})w_', u)} }}"

    op_madc = op_mad

    def op_fma(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        x, y, z = (self.value(word, kind) for word in a[1:4])
        if "ftz" in mods:
            x, y, z = f"ftz({x})", f"ftz({y})", f"ftz({z})"
        # directed rounding (.rm, .rp, .rz) is to nearest here: README.md says so
        text = f"__builtin_fma{'f' if kind == 'f32' else ''}({x}, {y}, {z})"
        if "sat" in mods:
            text = clamped(text)
        return self.set(a[0], f"ftz({text})" if "ftz" in mods else text, kind)

    def op_div(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        if kind[0] == "f":
            return self.binary(mods, a, kind, "{} / {}")
        return self.binary(mods, a, kind, f"div_{kind}({{}}, {{}})")

    def op_rem(self, mods: list[str], a: Arguments) -> str:
        return self.binary(mods, a, mods[-1], f"rem_{mods[-1]}({{}}, {{}})")

    def op_neg(self, mods: list[str], a: Arguments) -> str:
        return self.unary(mods, a, mods[-1], "(-{})")

    def op_abs(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        template = {"f32": "__builtin_fabsf({})", "f64": "__builtin_fabs({})"}.get(kind, "({0} < 0 ? -{0} : {0})")
        return self.unary(mods, a, kind, template)

    def minmax(self, mods: list[str], a: Arguments, name: str, sign: str) -> str:
        kind = mods[-1]
        if kind[0] == "f":
            if "NaN" in mods:
                return self.binary(
                    mods, a, kind, f"({{0}} != {{0}} || {{1}} != {{1}} ? ({kind})NAN : {name}_{kind}({{0}}, {{1}}))"
                )
            return self.binary(mods, a, kind, f"{name}_{kind}({{}}, {{}})")
        return self.binary(mods, a, kind, f"({{0}} {sign} {{1}} ? {{0}} : {{1}})")

    def op_min(self, mods: list[str], a: Arguments) -> str:
        return self.minmax(mods, a, "min", "<")

    def op_max(self, mods: list[str], a: Arguments) -> str:
        return self.minmax(mods, a, "max", ">")

    def maths(self, mods: list[str], a: Arguments, name: str) -> str:
        kind = mods[-1]
        return self.unary(mods, a, kind, f"{name}{'f' if kind == 'f32' else ''}({{}})")

    def op_sqrt(self, mods: list[str], a: Arguments) -> str:
        return self.maths(mods, a, "__builtin_sqrt")

    def op_sin(self, mods: list[str], a: Arguments) -> str:
        return self.maths(mods, a, "sin")

    def op_cos(self, mods: list[str], a: Arguments) -> str:
        return self.maths(mods, a, "cos")

    def op_tanh(self, mods: list[str], a: Arguments) -> str:
        return self.maths(mods, a, "tanh")

    def op_ex2(self, mods: list[str], a: Arguments) -> str:
        return self.unary(mods, a, mods[-1], "exp2_approx({})")

    def op_lg2(self, mods: list[str], a: Arguments) -> str:
        return self.unary(mods, a, mods[-1], "log2_approx({})")

    def op_rcp(self, mods: list[str], a: Arguments) -> str:
        return self.unary(mods, a, mods[-1], "(1 / {})")

    def op_rsqrt(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        return self.unary(mods, a, kind, f"(1 / __builtin_sqrt{'f' if kind == 'f32' else ''}({{}}))")

    def op_copysign(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        f = "f" if kind == "f32" else ""
        return self.set(a[0], f"__builtin_copysign{f}({self.value(a[2], kind)}, {self.value(a[1], kind)})", kind)

    def op_testp(self, mods: list[str], a: Arguments) -> str:
        x = self.value(a[1], mods[-1])
        text = {
            "finite": f"__builtin_isfinite({x})",
            "infinite": f"__builtin_isinf({x})",
            "number": f"({x} == {x})",
            "notanumber": f"({x} != {x})",
            "normal": f"__builtin_isnormal({x})",
            "subnormal": f"({x} != 0 && __builtin_isfinite({x}) && !__builtin_isnormal({x}))",
        }[mods[0]]
        return self.set(a[0], f"({text} != 0)", "u8")

    def logic(self, mods: list[str], a: Arguments, op: str) -> str:
        kind = mods[-1]
        if kind == "pred":
            return self.set(a[0], f"({self.value(a[1], 'pred')} {op} {self.value(a[2], 'pred')})", "u8")
        return self.binary(mods, a, kind, f"{{}} {op} {{}}")

    def op_and(self, mods: list[str], a: Arguments) -> str:
        return self.logic(mods, a, "&")

    def op_or(self, mods: list[str], a: Arguments) -> str:
        return self.logic(mods, a, "|")

    def op_xor(self, mods: list[str], a: Arguments) -> str:
        return self.logic(mods, a, "^")

    def op_not(self, mods: list[str], a: Arguments) -> str:
        if mods[-1] == "pred":
            return self.set(a[0], f"(!{self.value(a[1], 'pred')})", "u8")
        return self.set(a[0], f"(({ctype(mods[-1])})~{self.value(a[1], mods[-1])})", ctype(mods[-1]))

    def op_shl(self, mods: list[str], a: Arguments) -> str:
        bits = mods[-1][1:]
        return self.set(a[0], f"shl_{bits}({self.value(a[1], 'u' + bits)}, {self.value(a[2], 'u32')})", "u" + bits)

    def op_shr(self, mods: list[str], a: Arguments) -> str:
        kind = ctype(mods[-1])
        return self.set(a[0], f"shr_{kind}({self.value(a[1], kind)}, {self.value(a[2], 'u32')})", kind)

    def op_shf(self, mods: list[str], a: Arguments) -> str:
        x, y, n = (self.value(word, "u32") for word in a[1:4])
        return self.set(a[0], f"shf_{mods[0]}({x}, {y}, {n}, {int('wrap' in mods)})", "u32")

    def op_lop3(self, mods: list[str], a: Arguments) -> str:
        x, y, z, t = (self.value(word, "u32") for word in a[1:5])
        return self.set(a[0], f"lop3({x}, {y}, {z}, {t})", "u32")

    def op_prmt(self, mods: list[str], a: Arguments) -> str:
        if mods != ["b32"]:
            raise UnknownError(self.word)
        x, y, z = (self.value(word, "u32") for word in a[1:4])
        return self.set(a[0], f"prmt({x}, {y}, {z})", "u32")

    def op_popc(self, mods: list[str], a: Arguments) -> str:
        return self.set(a[0], f"popc_{mods[-1][1:]}({self.value(a[1], 'u' + mods[-1][1:])})", "u32")

    def op_clz(self, mods: list[str], a: Arguments) -> str:
        return self.set(a[0], f"clz_{mods[-1][1:]}({self.value(a[1], 'u' + mods[-1][1:])})", "u32")

    def op_brev(self, mods: list[str], a: Arguments) -> str:
        bits = mods[-1][1:]
        return self.set(a[0], f"brev_{bits}({self.value(a[1], 'u' + bits)})", "u" + bits)

    def op_bfind(self, mods: list[str], a: Arguments) -> str:
        kind = ctype(mods[-1])
        text = f"bfind_{kind}({self.value(a[1], kind)})"
        if "shiftamt" in mods:
            text = f"({text} == ~0u ? ~0u : {int(kind[1:]) - 1} - {text})"
        return self.set(a[0], text, "u32")

    def op_bfe(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        x = self.value(a[1], "u" + kind[1:])
        p, n = (self.value(word, "u32") for word in a[2:4])
        return self.set(a[0], f"(u{kind[1:]})bfe({x}, {p}, {n}, {kind[1:]}, {int(kind[0] == 's')})", "u" + kind[1:])

    def op_bfi(self, mods: list[str], a: Arguments) -> str:
        bits = mods[-1][1:]
        x, y = (self.value(word, "u" + bits) for word in a[1:3])
        p, n = (self.value(word, "u32") for word in a[3:5])
        return self.set(a[0], f"(u{bits})bfi({x}, {y}, {p}, {n}, {bits})", "u" + bits)

    def op_sad(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        x, y, z = (self.value(word, kind) for word in a[1:4])
        return self.set(a[0], f"({kind})({z} + ({x} < {y} ? {y} - {x} : {x} - {y}))", kind)

    def compare(self, mods: list[str], kind: str, x: str, y: str) -> str:
        name = mods[0]
        if kind[0] == "f":
            if "ftz" in mods:
                x, y = f"ftz({x})", f"ftz({y})"
            if name == "num":
                return f"({x} == {x} && {y} == {y})"
            if name == "nan":
                return f"({x} != {x} || {y} != {y})"
            if name == "ne":  # ordered: false where one is NaN
                return f"({x} < {y} || {x} > {y})"
            if name.endswith("u"):
                inverse = {"equ": None, "neu": "!=", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}[name]
                if name == "equ":
                    return f"(!({x} < {y} || {x} > {y}))"
                return f"({x} != {y})" if name == "neu" else f"(!({x} {inverse} {y}))"
        return f"({x} {COMPARE[name]} {y})"

    def op_setp(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        text = self.compare(mods, kind, self.value(a[1], kind), self.value(a[2], kind))
        join = next((word for word in mods[1:] if word in ("and", "or", "xor")), None)
        other = f"(!{text})"
        if join:
            op = {"and": "&", "or": "|", "xor": "^"}[join]
            third = self.value(a[3], "pred")
            text, other = f"({text} {op} {third})", f"({other} {op} {third})"
        if len(a[0]) == 3:  # p|q
            return (
                f"{{ u8 x_ = {text}, y_ = {other}; {self.set(a[0][0], 'x_', 'u8')} {self.set(a[0][2], 'y_', 'u8')} }}"
            )
        return self.set(a[0], text, "u8")

    def op_set(self, mods: list[str], a: Arguments) -> str:
        to, kind = mods[-2], mods[-1]
        text = self.compare(mods, kind, self.value(a[1], kind), self.value(a[2], kind))
        if len(a) > 3:
            raise UnknownError(self.word)
        return self.set(a[0], f"({text} ? 1.0f : 0.0f)" if to == "f32" else f"({text} ? ~0u : 0u)", ctype(to))

    def op_selp(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        return self.set(
            a[0], f"({self.value(a[3], 'pred')} ? {self.value(a[1], kind)} : {self.value(a[2], kind)})", ctype(kind)
        )

    def op_slct(self, mods: list[str], a: Arguments) -> str:
        kind, by = mods[-2], mods[-1]
        return self.set(
            a[0], f"({self.value(a[3], by)} >= 0 ? {self.value(a[1], kind)} : {self.value(a[2], kind)})", ctype(kind)
        )

    def op_cvt(self, mods: list[str], a: Arguments) -> str:
        to, source = mods[-2], mods[-1]
        x = self.value(a[1], source)
        if "ftz" in mods and source == "f32":
            x = f"ftz({x})"
        whole = next((word for word in mods if word in TO_INTEGER), "")
        directed = {"rz", "rm", "rp"} & set(mods)
        if source[0] == "f":
            if whole:
                x = f"__builtin_{TO_INTEGER[whole]}{'' if source == 'f64' else 'f'}({x})"
            if to[0] != "f":
                if not whole:
                    raise UnknownError(self.word)
                return self.set(a[0], f"to_{ctype(to)}({x})", ctype(to))
            if "sat" in mods:
                x = clamped(x)
            if directed and size(to) < size(source):
                raise UnknownError(self.word)
            x = f"({to}){x}"
            return self.set(a[0], f"ftz({x})" if "ftz" in mods and to == "f32" else x, to)
        if directed or "sat" in mods:
            raise UnknownError(self.word)
        if to[0] == "f":
            return self.set(a[0], f"({to}){x}", to)
        # The value is of the type ``to``, then widened to the register with its sign.
        have, text = self.registers[a[0][0]], f"({ctype(to)}){x}"
        if size(have) > size(to):
            return self.set(a[0], f"({ctype(to[0] + have[1:])}){text}", ctype("u" + have[1:]))
        return self.set(a[0], text, ctype(to))


def clamped(x: str) -> str:
    """To 0..1; NaN becomes 0."""
    return f"({x} > 0 ? {x} < 1 ? {x} : 1 : 0)"
