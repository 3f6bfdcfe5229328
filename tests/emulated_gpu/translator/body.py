"""A kernel or a function of the device: its statements read, and written as a C function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .arithmetic import Arithmetic
from .movement import Movement
from .threads import Threads
from .values import UnknownError, clean, ctype, split

# After one of these the threads of a block run as fibers, for they may wait for each other.
WAITING = {"shfl", "vote", "match", "redux", "activemask", "bar", "barrier"}
# Order of memory and hints: blocks run one after the other here, and threads change over only where they wait.
IGNORED = {"membar", "fence", "prefetch", "prefetchu", "nanosleep", "griddepcontrol", "discard", "applypriority"}


class Statement(NamedTuple):
    """An instruction, or the label ``word`` where ``tokens`` is None."""

    word: str
    tokens: list[str] | None = None
    guard: str = ""  # a predicate
    negated: bool = False


class Body(Arithmetic, Movement, Threads):
    """``read`` takes the tokens up to the closing brace, ``emit`` returns the lines of C."""

    def read(self, source: Any) -> None:
        self.statements: list[Statement] = []
        depth, label = 1, ""
        while depth:
            word = source.next()
            if word in "{}":
                depth += 1 if word == "{" else -1
            elif word == ".reg":
                self.read_registers(source)
            elif word in (".shared", ".local", ".param"):
                one = source.variable(word[1:])
                source.expect(";")
                {".shared": self.shared, ".local": self.local, ".param": self.params}[word].append(one)
            elif word == ".branchtargets":
                self.targets[label] = [w for w in source.until(";") if w != ","]
            elif word in (".pragma", ".callprototype"):
                source.until(";")
            elif word.startswith("."):
                raise UnknownError(f"directive {word} in a function")
            elif source.peek() == ":":
                source.next()
                label = word
                self.statements.append(Statement(word))
            elif word != ";":
                guard, negated = "", False
                if word == "@":
                    negated = source.peek() == "!"
                    if negated:
                        source.next()
                    guard, word = source.next(), source.next()
                self.statements.append(Statement(word, source.until(";"), guard, negated))

    def read_registers(self, source: Any) -> None:
        """.reg .f32 %f<10>; or .reg .pred p, q;"""
        kind = source.next()[1:]
        end = ","
        while end == ",":
            name = source.next()
            if source.peek() == "<":
                source.next()
                self.registers |= {f"{name}{i}": kind for i in range(int(source.next()))}
                source.expect(">")
            else:
                self.registers[name] = kind
            end = source.next()

    def prototype(self) -> str:
        if self.entry:
            return f"static void k_{clean(self.name)}(emu_thread *T)"
        extra = "".join(f", char *param_{clean(one.name)}" for one in self.returned + self.parameters)
        return f"static void fn_{clean(self.name)}(emu_thread *T{extra})"

    def mentions(self, name: str) -> bool:
        return any(name in (statement.tokens or ()) for statement in self.statements)

    def emit(self) -> list[str]:
        lines = ["", self.prototype(), "{"]
        for kind in sorted(set(self.registers.values())):
            names = [clean(name) for name, its in self.registers.items() if its == kind]
            lines += [f"    {ctype(kind)} {', '.join(names[i : i + 12])};" for i in range(0, len(names), 12)]
        for one in self.local:
            lines.append(f"    _Alignas({max(16, one.align)}) char local_{clean(one.name)}[{max(1, one.bytes)}];")
        longest: dict[str, int] = {}
        for one in self.params:
            longest[one.name] = max(16, one.bytes, longest.get(one.name, 0))
        lines += [f"    _Alignas(16) char param_{clean(name)}[{most}];" for name, most in longest.items()]
        lines.append("    u64 cc = 0;")
        used = {word for statement in self.statements for word in statement.tokens or ()}
        used |= {word for targets in self.targets.values() for word in targets}
        for statement in self.statements:
            if statement.tokens is None:
                lines += [f"{clean(statement.word)}:;"] if statement.word in used else []
                continue
            text = self.instruction(statement.word, statement.tokens)
            if statement.guard:
                text = f"if ({'!' if statement.negated else ''}{clean(statement.guard)}) {{ {text} }}"
            lines.append("    " + text)
        return [*lines, "    return;", "}"]

    def instruction(self, word: str, tokens: list[str]) -> str:
        """An instruction as C statements."""
        base, *mods = word.split(".")
        if base in IGNORED:
            return ";"
        self.barriers = self.barriers or base in WAITING
        self.word = word
        method: Callable[..., str] | None = getattr(self, f"op_{base}", None)
        if method is None:
            raise UnknownError(word)
        return method(mods, split(tokens))
