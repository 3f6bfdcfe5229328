"""Control flow, and what the threads of a warp or a block do together."""

from __future__ import annotations

from .expressions import Expressions
from .values import Arguments, UnknownError, between, clean


class Threads(Expressions):
    """Instructions of more than one thread, and branches."""

    def op_bra(self, mods: list[str], a: Arguments) -> str:
        return f"goto {clean(a[0][0])};"

    def op_brx(self, mods: list[str], a: Arguments) -> str:
        targets = self.targets[a[1][0]]
        cases = " ".join(f"case {i}: goto {clean(target)};" for i, target in enumerate(targets))
        return f"switch ({self.value(a[0], 'u32')}) {{ {cases} }}"

    def op_ret(self, mods: list[str], a: Arguments) -> str:
        return "return;"

    def op_exit(self, mods: list[str], a: Arguments) -> str:
        if not self.entry:
            raise UnknownError("exit in a function")
        return "return;"

    def op_trap(self, mods: list[str], a: Arguments) -> str:
        return 'emu_trap(T, "the kernel\'s own");'

    def op_call(self, mods: list[str], a: Arguments) -> str:
        returned, rest = (between(a[0]), a[1:]) if a[0][0] == "(" else ([], a)
        name = rest[0][0]
        arguments = between(rest[1]) if len(rest) > 1 else []
        if name == "vprintf":
            pointers = [f"(char *)emu_real(C(u64, param_{clean(word)}))" for word in arguments]
            return f"C(u32, param_{clean(returned[0])}) = emu_vprintf({', '.join(pointers)});"
        if name == "__assertfail":
            return 'emu_trap(T, "an assertion of the kernel");'
        if name not in self.functions:
            raise UnknownError(f"call of {name}")
        self.calls.add(name)
        extra = "".join(f", param_{clean(word)}" for word in returned + arguments)
        return f"fn_{clean(name)}(T{extra});"

    def op_bar(self, mods: list[str], a: Arguments) -> str:
        if mods[0] == "warp":
            return f"emu_warpsync(T, {self.value(a[0], 'u32')});"
        if "red" in mods:
            kind = {"popc": 0, "and": 1, "or": 2}[next(word for word in mods if word in ("popc", "and", "or"))]
            predicate = self.value(a[-1], "pred")
            count = self.value(a[2], "u32") if len(a) > 3 else "0"
            text = f"emu_barrier_red(T, {self.value(a[1], 'u32')}, {count}, {kind}, {predicate})"
            return self.set(a[0], text if kind == 0 else f"({text} != 0)", "u32" if kind == 0 else "u8")
        if "sync" not in mods:
            raise UnknownError(self.word)
        return f"emu_barrier(T, {self.value(a[0], 'u32')}, {self.value(a[1], 'u32') if len(a) > 1 else '0'});"

    def op_barrier(self, mods: list[str], a: Arguments) -> str:
        if "cluster" in mods:
            raise UnknownError(self.word)
        return self.op_bar(mods, a)

    def op_shfl(self, mods: list[str], a: Arguments) -> str:
        mode = {"up": 0, "down": 1, "bfly": 2, "idx": 3}[mods[1]]
        x, y, z, mask = (self.value(word, "u32") for word in a[1:5])
        if len(a[0]) == 3:
            both = f"{self.set(a[0][0], 'v_', 'u32')} {self.set(a[0][2], '(u8)ok_', 'u8')}"
            return f"{{ u32 ok_, v_ = emu_shfl(T, {mode}, {x}, {y}, {z}, {mask}, &ok_); {both} }}"
        return self.set(a[0], f"emu_shfl(T, {mode}, {x}, {y}, {z}, {mask}, 0)", "u32")

    def op_vote(self, mods: list[str], a: Arguments) -> str:
        mode = {"all": 0, "any": 1, "uni": 2, "ballot": 3}[mods[1]]
        text = f"emu_vote(T, {mode}, {self.value(a[1], 'pred')}, {self.value(a[2], 'u32')})"
        return self.set(a[0], text if mode == 3 else f"({text} != 0)", "u32" if mode == 3 else "u8")

    def op_redux(self, mods: list[str], a: Arguments) -> str:
        kind = mods[-1]
        mode = {"add": 0, "and": 3, "or": 4, "xor": 5}.get(mods[1])
        if mode is None:
            mode = {"min": 1, "max": 2}[mods[1]] if kind == "u32" else {"min": 6, "max": 7}[mods[1]]
        return self.set(a[0], f"emu_redux(T, {mode}, {self.value(a[1], 'u32')}, {self.value(a[2], 'u32')})", "u32")

    def op_match(self, mods: list[str], a: Arguments) -> str:
        if mods[0] != "any":
            raise UnknownError(self.word)
        return self.set(
            a[0], f"emu_match_any(T, {self.value(a[1], 'u' + mods[-1][1:])}, {self.value(a[2], 'u32')})", "u32"
        )

    def op_activemask(self, mods: list[str], a: Arguments) -> str:
        return self.set(a[0], "emu_activemask(T)", "u32")

    op_brkpt = op_trap
