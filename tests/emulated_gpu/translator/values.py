"""Types, constants and conversions of PTX as those of C."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

Operand: TypeAlias = list[str]  # its tokens
Arguments: TypeAlias = list[Operand]

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}


class UnknownError(Exception):
    """What this translator does not know, by name."""


@dataclass
class Variable:
    """``count`` elements of the type ``kind`` in a state space; 0 of them where the launch says how many."""

    space: str
    name: str
    kind: str
    count: int
    align: int
    values: list[str] | None = None
    offset: int = 0

    @property
    def bytes(self) -> int:
        return size(self.kind) * self.count


def size(kind: str) -> int:
    """The bytes of a type: of "f32", 4."""
    return SIZES[kind[1:]]


def ctype(kind: str) -> str:
    """The C type of a PTX type: bits are unsigned, a predicate is a byte."""
    return {"b": "u"}.get(kind[0], kind[0]) + kind[1:] if kind != "pred" else "u8"


def clean(name: str) -> str:
    """A name of PTX as one of C: %f32 is a register and f32 a type."""
    return re.sub(r"\W", "_", name.replace("%", "R_"))


def constant(word: str, kind: str) -> str:
    """An immediate as C of this type."""
    if re.match(r"0[fF]", word):
        bits = f"0x{word[2:]}u"
        return {"f32": f"u2f({bits})", "f64": f"(f64)u2f({bits})"}.get(kind, bits)
    if re.match(r"0[dD]", word):
        bits = f"0x{word[2:]}ull"
        return {"f64": f"u2d({bits})", "f32": f"(f32)u2d({bits})"}.get(kind, bits)
    number = word.rstrip("U")
    if kind in ("f32", "f64"):
        return f"({kind}){number}"
    return f"{int(number, 0)}ull" if int(number, 0) > 0x7FFFFFFFFFFFFFFF else f"{int(number, 0)}ll"


# The functions of ptx.h that keep the bits, and the integer of that size.
BITS = {"f32": ("f2u", "u2f", "u32"), "f64": ("d2u", "u2d", "u64"), "f16": ("h2u", "u2h", "u16")}


def convert(expression: str, have: str, want: str) -> str:
    """An expression of the C type ``have`` as one of ``want``: bits are kept between floats and integers."""
    if have == want:
        return expression
    if have in BITS and want in BITS:
        raise UnknownError(f"{have} where {want} is wanted")
    if have in BITS:
        return f"(({want}){BITS[have][0]}({expression}))"
    if want in BITS:
        return f"{BITS[want][1]}(({BITS[want][2]}){expression})"
    return f"(({want}){expression})"


def memory(mods: list[str]) -> tuple[str, int, str]:
    """The state space, the number of elements and the type of a load or store."""
    space = next((word for word in mods if word in ("param", "global", "shared", "local", "const")), "")
    vector = next((int(word[1]) for word in mods if word in ("v2", "v4")), 1)
    return space, vector, mods[-1]


def split(words: list[str]) -> Arguments:
    """Operands at the commas that are in no bracket."""
    found: Arguments = []
    here: Operand = []
    depth = 0
    for word in words:
        depth += word in ("{", "[", "(")
        depth -= word in ("}", "]", ")")
        if word == "," and not depth:
            found.append(here)
            here = []
        else:
            here.append(word)
    if here:
        found.append(here)
    return found


def between(operand: Operand) -> list[str]:
    """The names in {a, b} or (a, b)."""
    return [word for word in operand[1:-1] if word != ","]
