"""Each PTX instruction that the translator knows, on the emulated device, against what the PTX manual says of it."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from .conftest import Over
from .translator.body import IGNORED, Body

Rows = list[tuple[Any, ...]]  # the inputs, and last what must come out
NAN, INF = math.nan, math.inf

# The instruction with its operands d, a, b, c; their types; rows.
CASES: list[tuple[str, str, Rows]] = [
    ("add.s32 d, a, b;", "s32 s32 s32", [(7, -9, -2), (2**31 - 1, 1, -(2**31))]),
    ("add.f32 d, a, b;", "f32 f32 f32", [(1.5, 2.25, 3.75), (1e-45, 0.0, 1e-45)]),
    ("add.ftz.f32 d, a, b;", "f32 f32 f32", [(1e-45, 0.0, 0.0)]),
    ("add.sat.f32 d, a, b;", "f32 f32 f32", [(0.75, 0.5, 1.0), (-1.0, 0.5, 0.0), (NAN, 1.0, 0.0)]),
    ("add.cc.u32 d, a, b; addc.u32 d, d, 0;", "u32 u32 u32", [(2**32 - 1, 1, 1), (1, 1, 2)]),
    ("sub.cc.u32 d, a, b; subc.u32 d, c, 0;", "u32 u32 u32 u32", [(0, 1, 5, 4), (1, 1, 5, 5)]),
    ("sub.f64 d, a, b;", "f64 f64 f64", [(1.0, 1e-17, 1.0), (INF, INF, NAN)]),
    ("mul.lo.s32 d, a, b;", "s32 s32 s32", [(-3, 5, -15), (65536, 65536, 0)]),
    ("mul.hi.u32 d, a, b;", "u32 u32 u32", [(2**31, 4, 2)]),
    ("mul.wide.s32 d, a, b;", "s64 s32 s32", [(-(2**31), 2, -(2**32))]),
    ("mul.f32 d, a, b;", "f32 f32 f32", [(3.0, -0.5, -1.5)]),
    ("mad.lo.u32 d, a, b, c;", "u32 u32 u32 u32", [(3, 4, 5, 17)]),
    ("mad.lo.cc.u32 d, a, b, c; madc.hi.u32 d, a, b, 0;", "u32 u32 u32 u32", [(2**31, 2, 0, 1), (1, 2**32 - 1, 1, 1)]),
    ("fma.rn.f32 d, a, b, c;", "f32 f32 f32 f32", [(1 + 2**-12, 1 + 2**-12, -1.0, 2**-11 + 2**-24)]),
    ("fma.rn.f64 d, a, b, c;", "f64 f64 f64 f64", [(2.0, 3.0, 4.0, 10.0)]),
    ("div.s32 d, a, b;", "s32 s32 s32", [(-7, 2, -3), (-(2**31), -1, -(2**31)), (1, 0, -1)]),
    ("div.rn.f32 d, a, b;", "f32 f32 f32", [(1.0, 0.0, INF), (1.0, 4.0, 0.25)]),
    ("rem.s64 d, a, b;", "s64 s64 s64", [(-7, 2, -1), (7, -4, 3)]),
    ("neg.f32 d, a;", "f32 f32", [(0.0, -0.0), (2.5, -2.5)]),
    ("abs.s32 d, a;", "s32 s32", [(-5, 5)]),
    ("abs.f64 d, a;", "f64 f64", [(-INF, INF)]),
    ("min.f32 d, a, b;", "f32 f32 f32", [(NAN, 1.0, 1.0), (0.0, -0.0, -0.0), (1.0, 2.0, 1.0)]),
    ("max.NaN.f32 d, a, b;", "f32 f32 f32", [(NAN, 1.0, NAN), (1.0, 2.0, 2.0)]),
    ("max.f64 d, a, b;", "f64 f64 f64", [(1.0, NAN, 1.0), (-0.0, 0.0, 0.0)]),
    ("min.s32 d, a, b;", "s32 s32 s32", [(-1, 1, -1)]),
    ("max.u32 d, a, b;", "u32 u32 u32", [(2**32 - 1, 1, 2**32 - 1)]),
    ("sqrt.rn.f32 d, a;", "f32 f32", [(2.25, 1.5), (-1.0, NAN)]),
    ("sqrt.rn.f64 d, a;", "f64 f64", [(2.0, math.sqrt(2))]),
    ("sin.approx.f32 d, a;", "f32 f32", [(0.0, 0.0)]),
    ("cos.approx.f32 d, a;", "f32 f32", [(0.0, 1.0)]),
    ("tanh.approx.f32 d, a;", "f32 f32", [(0.0, 0.0), (INF, 1.0)]),
    ("ex2.approx.ftz.f32 d, a;", "f32 f32", [(3.0, 8.0), (-140.0, 0.0), (-INF, 0.0)]),
    ("lg2.approx.f32 d, a;", "f32 f32", [(8.0, 3.0), (0.0, -INF)]),
    ("rcp.rn.f32 d, a;", "f32 f32", [(4.0, 0.25), (-0.0, -INF)]),
    ("rsqrt.approx.f32 d, a;", "f32 f32", [(4.0, 0.5)]),
    ("copysign.f32 d, a, b;", "f32 f32 f32", [(-1.0, 2.0, -2.0)]),
    ("testp.finite.f32 d, a;", "pred f32", [(1.0, 1), (INF, 0)]),
    ("testp.notanumber.f64 d, a;", "pred f64", [(NAN, 1), (1.0, 0)]),
    ("and.b32 d, a, b;", "b32 b32 b32", [(12, 10, 8)]),
    ("or.b64 d, a, b;", "b64 b64 b64", [(12, 10, 14)]),
    ("xor.pred d, a, b;", "pred pred pred", [(1, 1, 0), (1, 0, 1)]),
    ("not.b32 d, a;", "b32 b32", [(0, 2**32 - 1)]),
    ("not.pred d, a;", "pred pred", [(1, 0), (0, 1)]),
    ("shl.b32 d, a, b;", "b32 b32 u32", [(3, 4, 48), (3, 32, 0)]),
    ("shr.s32 d, a, b;", "s32 s32 u32", [(-16, 2, -4), (-16, 99, -1)]),
    ("shr.u64 d, a, b;", "u64 u64 u32", [(2**63, 63, 1), (1, 64, 0)]),
    ("shf.l.wrap.b32 d, a, b, c;", "b32 b32 b32 u32", [(0x80000000, 1, 1, 3), (0x80000000, 1, 33, 3)]),
    ("shf.r.clamp.b32 d, a, b, c;", "b32 b32 b32 u32", [(0, 1, 1, 2**31), (0, 5, 40, 5)]),
    ("lop3.b32 d, a, b, c, 0x96;", "b32 b32 b32 b32", [(0b1100, 0b1010, 0b1111, 0b1001)]),
    (
        "prmt.b32 d, a, b, c;",
        "b32 b32 b32 b32",
        [(0x33221100, 0x77665544, 0x7510, 0x77551100), (0x80, 0, 8, 0x808080FF)],
    ),
    ("popc.b64 d, a;", "u32 b64", [(2**63 + 7, 4)]),
    ("clz.b32 d, a;", "u32 b32", [(1, 31), (0, 32)]),
    ("brev.b32 d, a;", "b32 b32", [(1, 2**31)]),
    ("bfind.u32 d, a;", "u32 u32", [(40, 5), (0, 2**32 - 1)]),
    ("bfind.shiftamt.s32 d, a;", "u32 s32", [(40, 26)]),
    ("bfe.s32 d, a, b, c;", "s32 s32 u32 u32", [(0xF0, 4, 4, -1), (0x70, 4, 4, 7), (5, 0, 0, 0)]),
    ("bfi.b32 d, a, b, 8, c;", "b32 b32 b32 u32", [(0xAB, 0x11111111, 8, 0x1111AB11)]),
    ("sad.s32 d, a, b, c;", "s32 s32 s32 s32", [(-3, 4, 10, 17)]),
    ("setp.lt.f32 d, a, b;", "pred f32 f32", [(1.0, 2.0, 1), (NAN, 2.0, 0)]),
    ("setp.geu.f32 d, a, b;", "pred f32 f32", [(NAN, 2.0, 1), (1.0, 2.0, 0)]),
    ("setp.ne.f32 d, a, b;", "pred f32 f32", [(NAN, 2.0, 0), (1.0, 2.0, 1)]),
    ("setp.neu.f64 d, a, b;", "pred f64 f64", [(NAN, NAN, 1), (1.0, 1.0, 0)]),
    ("setp.num.f32 d, a, b;", "pred f32 f32", [(NAN, 2.0, 0), (1.0, 2.0, 1)]),
    ("setp.nan.f32 d, a, b;", "pred f32 f32", [(NAN, 2.0, 1), (1.0, 2.0, 0)]),
    ("setp.hi.u32 d, a, b;", "pred u32 u32", [(2**32 - 1, 1, 1)]),
    ("setp.gt.and.s32 d, a, b, c;", "pred s32 s32 pred", [(-1, -2, 1, 1), (-1, -2, 0, 0)]),
    ("set.lt.u32.s32 d, a, b;", "u32 s32 s32", [(-1, 1, 2**32 - 1), (1, -1, 0)]),
    ("set.gt.f32.f32 d, a, b;", "f32 f32 f32", [(2.0, 1.0, 1.0)]),
    ("selp.f32 d, a, b, c;", "f32 f32 f32 pred", [(1.0, 2.0, 1, 1.0), (1.0, 2.0, 0, 2.0)]),
    ("slct.s32.f32 d, a, b, c;", "s32 s32 s32 f32", [(5, 6, -1.0, 6), (5, 6, 0.0, 5)]),
    ("cvt.rzi.s32.f32 d, a;", "s32 f32", [(-2.75, -2), (NAN, 0), (1e20, 2**31 - 1)]),
    ("cvt.rni.s64.f64 d, a;", "s64 f64", [(2.5, 2), (3.5, 4)]),
    ("cvt.rmi.f32.f32 d, a;", "f32 f32", [(-2.5, -3.0)]),
    ("cvt.rpi.f64.f64 d, a;", "f64 f64", [(-2.5, -2.0)]),
    ("cvt.rn.f32.f64 d, a;", "f32 f64", [(0.1, struct.unpack("f", struct.pack("f", 0.1))[0])]),
    ("cvt.f64.f32 d, a;", "f64 f32", [(0.5, 0.5)]),
    ("cvt.sat.f32.f32 d, a;", "f32 f32", [(1.5, 1.0), (-0.5, 0.0)]),
    ("cvt.rn.f32.u32 d, a;", "f32 u32", [(2**32 - 1, 4294967296.0)]),
    ("cvt.s32.s8 d, a;", "s32 s16", [(0xFF, -1)]),
    ("cvt.u32.u16 d, a;", "u32 u16", [(65535, 65535)]),
    ("cvt.s64.s32 d, a;", "s64 s32", [(-3, -3)]),
    ("mov.b64 d, {a, b};", "b64 b32 b32", [(1, 2, 2**33 + 1)]),
    ("mov.f32 d, 0f3FC00000;", "f32 f32", [(0.0, 1.5)]),
    ("mov.f64 d, 0dBFF8000000000000;", "f64 f64", [(0.0, -1.5)]),
]
CODES = {"f32": "f", "f64": "d", "pred": "I", "u16": "H", "s16": "H", "u32": "I", "b32": "I", "s32": "i"} | {
    "u64": "Q", "b64": "Q", "s64": "q"
}  # fmt: skip


def slot(value: Any, kind: str) -> int:
    """A value's bits in a slot of 8 bytes."""
    return int.from_bytes(struct.pack(f"<{CODES[kind]}", value).ljust(8, b"\0"), "little")


def of_slot(bits: int, kind: str) -> Any:
    return struct.unpack_from(f"<{CODES[kind]}", bits.to_bytes(8, "little"))[0]


def kernel(number: int, text: str, kinds: list[str]) -> str:
    """A kernel in which thread i takes the inputs of row i from ``in`` and puts the result in ``out``: 8 bytes each."""
    names = ["d", *"abc"[: len(kinds) - 1]]
    registers = "".join(f".reg .{kind} %{name};\n" for name, kind in zip(names, kinds, strict=True))
    loads = ""
    for i, (name, kind) in enumerate(zip(names[1:], kinds[1:], strict=True)):
        if kind == "pred":
            loads += f"ld.global.u32 %t, [%in+{8 * i}]; setp.ne.u32 %{name}, %t, 0;\n"
        else:
            loads += f"ld.global.{kind} %{name}, [%in+{8 * i}];\n"
    store = f"st.global.{kinds[0]} [%out], %d;"
    if kinds[0] == "pred":
        store = "selp.u32 %t, 1, 0, %d; st.global.u32 [%out], %t;"
    instruction = re.sub(r"(?<=[ {])([abcd])(?=[,;}])", r"%\1", text)
    return f"""
.visible .entry k{number}(.param .u64 k_in, .param .u64 k_out) {{
.reg .u64 %in, %out; .reg .u32 %t;
{registers}ld.param.u64 %in, [k_in]; ld.param.u64 %out, [k_out]; mov.u32 %t, %tid.x;
mad.wide.u32 %in, %t, {8 * (len(kinds) - 1)}, %in; mad.wide.u32 %out, %t, 8, %out;
{loads}{instruction}
{store}
ret;
}}
"""


HEAD = ".version 8.8\n.target sm_90\n.address_size 64\n"
RUN = """
import json, sys
import cupy as cp, numpy as np
found, module = [], cp.RawModule(path=sys.argv[1])
for number, rows in enumerate(json.load(open(sys.argv[2]))):
    given, out = cp.asarray(np.array(rows, "u8")), cp.zeros(len(rows), "u8")
    module.get_function(f"k{number}")((1,), (len(rows),), (given, out))
    found.append(out.get().tolist())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(over: Over, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What each case's kernel computed, as slots: all kernels are one module."""
    folder = tmp_path_factory.mktemp("instructions")
    ptx, inputs = folder / "cases.ptx", folder / "inputs.json"
    ptx.write_text(HEAD + "".join(kernel(i, text, kinds.split()) for i, (text, kinds, _) in enumerate(CASES)))
    slots = [
        [[slot(value, kind) for value, kind in zip(row, kinds.split()[1:], strict=False)] for row in rows]
        for _, kinds, rows in CASES
    ]
    inputs.write_text(json.dumps(slots))
    done = over(f"import sys\nsys.argv[1:] = {[str(ptx), str(inputs)]}\n{RUN}")
    assert done.returncode == 0, done.stderr
    result: list[list[int]] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{text} {kinds}" for text, kinds, _ in CASES])
def test_an_instruction(found: list[list[int]], number: int) -> None:
    _, kinds, rows = CASES[number]
    kind = kinds.split()[0]
    for row, bits in zip(rows, found[number], strict=True):
        got, wanted = of_slot(bits, kind), row[-1]
        both_nan = math.isnan(wanted) and math.isnan(got)
        assert both_nan or struct.pack(CODES[kind], got) == struct.pack(CODES[kind], wanted), (row, got)


def test_every_instruction_that_is_known_is_tried() -> None:
    """Here, or in threads.ptx, which test_translator.py runs."""
    text = "".join(text for text, *_ in CASES) + (Path(__file__).parent / "threads.ptx").read_text()
    used = {word.partition(".")[0] for word in re.findall(r"[a-z]\w*(?:\.\w+)*", text)}
    known = {name[3:] for name in dir(Body) if name.startswith("op_")} | IGNORED
    assert not known - used - {"ld", "st", "ret"}
