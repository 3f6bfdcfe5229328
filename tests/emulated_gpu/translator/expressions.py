"""Operands: registers, immediates, addresses and symbols as C expressions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .values import Operand, UnknownError, Variable, clean, constant, convert, ctype, size

SPECIAL = {
    "%laneid": "T->lane", "%warpid": "T->warp", "%nwarpid": "64", "%smid": "0", "%nsmid": "132", "%gridid": "0",
    "%clock": "0", "%clock64": "0", "%globaltimer": "0", "%dynamic_smem_size": "T->dynamic_shared",
    "%total_smem_size": "(STATIC + T->dynamic_shared)", "%lanemask_eq": "(1u << T->lane)",
    "%lanemask_lt": "((1u << T->lane) - 1)", "%lanemask_le": "((2u << T->lane) - 1)",
    "%lanemask_gt": "~((2u << T->lane) - 1)", "%lanemask_ge": "~((1u << T->lane) - 1)",
}  # fmt: skip
for _name in ("tid", "ntid", "ctaid", "nctaid"):
    SPECIAL |= {f"%{_name}.{axis}": f"T->{_name}[{i}]" for i, axis in enumerate("xyz")}


class Expressions:
    """What instructions need of the function that they stand in."""

    word = ""  # the instruction, for messages

    def __init__(
        self,
        variables: Mapping[str, Variable],
        shared: Mapping[str, Variable],
        functions: Mapping[str, object],
        name: str,
        parameters: list[Variable],
        returned: list[Variable],
        entry: bool,
    ) -> None:
        self.variables, self.all_shared, self.functions = variables, shared, functions
        self.name, self.parameters, self.returned, self.entry = name, parameters, returned, entry
        self.registers: dict[str, str] = {}  # name: type
        self.shared: list[Variable] = []
        self.local: list[Variable] = []
        self.params: list[Variable] = []  # of the calls in this function
        self.targets: dict[str, list[str]] = {}  # of indirect branches
        self.calls: set[str] = set()
        self.barriers = False

    def parameter_offsets(self) -> tuple[dict[str, int], int]:
        """Where each parameter begins, and their bytes."""
        offsets, end = {}, 0
        for one in self.parameters:
            offsets[one.name] = -(-end // one.align) * one.align
            end = offsets[one.name] + one.bytes
        return offsets, end

    def value(self, operand: Operand | str, kind: str) -> str:
        """An operand as a C expression of a PTX type."""
        want = ctype(kind)
        match [operand] if isinstance(operand, str) else operand:
            case ["-", number]:
                return f"(({want})-{constant(number, want)})"
            case ["!", inner]:
                return f"(!{self.value(inner, kind)})"
            case [first, "+", second]:
                return f"({self.value(first, kind)} + {self.value(second, kind)})"
            case [word] if word in self.registers:
                return convert(clean(word), ctype(self.registers[word]), want)
            case [word]:
                number = constant(word, want) if re.match(r"\d", word) else SPECIAL.get(word) or self.address(word)
                return f"(({want}){number})"
        raise UnknownError(f"operand {operand}")

    def address(self, name: str) -> str:
        """The address of a symbol, as the device sees it. (ptx.h adds EMU_SHADOW to every address.)"""
        if any(one.name == name for one in self.local):
            return f"((u64)local_{clean(name)} - EMU_SHADOW)"
        if name in self.all_shared:
            return f"{self.all_shared[name].offset}ull"
        if name in self.variables:
            return f"dev_{clean(name)}"
        if self.entry and name in self.parameter_offsets()[0]:
            return f"((u64)T->params + {self.parameter_offsets()[0][name]} - EMU_SHADOW)"
        own = [] if self.entry else self.parameters + self.returned
        if any(one.name == name for one in [*self.params, *own]):
            return f"((u64)param_{clean(name)} - EMU_SHADOW)"
        raise UnknownError(f"symbol {name}")

    def place(self, operand: Operand, space: str, kind: str, vector: int) -> list[str]:
        """The C lvalues of [base+offset], ``vector`` of them."""
        match operand[1:-1]:
            case [base]:
                offset = 0
            case [base, "+", "-", number] | [base, "-", number]:
                offset = -int(number.rstrip("U"), 0)
            case [base, "+", number]:
                offset = int(number.rstrip("U"), 0)
            case words:
                raise UnknownError(f"address {words}")
        kind, width = ctype(kind), size(kind)
        parameters = self.parameter_offsets()[0] if self.entry else {}
        found = []
        for i in range(vector):
            step, aligned = offset + i * width, width * vector if i == 0 else width
            if space == "param" and base in parameters:
                found.append(f"C({kind}, T->params + {parameters[base] + step})")
            elif space == "param" and base not in self.registers:
                found.append(f"C({kind}, param_{clean(base)} + {step})")
            elif space == "shared":
                found.append(f"S({kind}, {self.value(base, 'u64')} + {step}, {aligned})")
            else:
                found.append(f"G({kind}, {self.value(base, 'u64')} + {step}ll, {aligned})")
        return found

    def set(self, operand: Operand | str, expression: str, kind: str) -> str:
        """register <- expression, which has the C type ``kind``."""
        words = [operand] if isinstance(operand, str) else operand
        if len(words) != 1:
            raise UnknownError(f"destination {words}")
        if words[0] == "_":
            return f"(void)({expression});"
        return f"{clean(words[0])} = {convert(expression, kind, ctype(self.registers[words[0]]))};"
