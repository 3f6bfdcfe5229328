"""PTX as C: a snapshot, what threads do together when it runs, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Over
from .translator.module import Module
from .translator.values import UnknownError

HERE = Path(__file__).parent
HEAD = ".version 8.8\n.target sm_90\n.address_size 64\n"


def test_the_snapshot() -> None:
    """To renew it after a change that is wanted: python -m tests.emulated_gpu.test_translator"""
    assert Module((HERE / "threads.ptx").read_text()).translate() == (HERE / "threads.c").read_text()


RUN = f"""
import json
import cupy as cp
module = cp.RawModule(path={str(HERE / "threads.ptx")!r})
out, total = cp.zeros((64, 32), "u4"), cp.zeros(5, "u4")
module.get_function("threads")((1,), (64,), (out, total))
print(json.dumps([out.get().tolist(), total.get().tolist()]))
"""


def row(t: int) -> list[int]:
    """What thread t must have written."""
    lane, warp = t % 32, t // 32 * 32
    return [
        *(t - 1 if lane else t, t + 2 if lane < 30 else t, int(lane < 30), t ^ 16),
        *(warp + 7, 1, 0, 8),
        *(0, sum(1 << i for i in range(32) if i % 4 == lane % 4), sum(range(warp, warp + 32)), 2**32 - 1),
        *(63 - t, 2, 0, 256),
        *(0, 0, 0, 0),
        *((100, 200, 300)[t % 3], 2 * t, (10, 20, 30, 40)[t % 4], t),
        *(0x8001, 2, 1, 2 * t),
        *((64, (1 << lane) - 1, t // 32, 1) if t % 2 == 0 else (0, 0, 0, 0)),
    ]


@pytest.mark.parametrize("order", ["up", "down"])
def test_threads_together(over: Over, order: str) -> None:
    done = over(RUN, ORDER=order)
    assert done.returncode == 0, done.stderr
    rows, total = json.loads(done.stdout)
    for t in range(64):
        assert rows[t] == row(t), t
    assert total == [sum(range(64)), 63, 99, 64 % 10, 5]


@pytest.mark.parametrize(("how", "status"), [(0, 719), (1, 719), (2, None)])
def test_a_kernel_that_stops_itself(over: Over, how: int, status: int | None) -> None:
    done = over(f"""
import cupy as cp
kernel = cp.RawModule(path={str(HERE / "threads.ptx")!r}).get_function("stops")
try:
    kernel((1,), (1,), (cp.uint32({how}),))
    cp.cuda.Device().synchronize()
    print(None)
except Exception as error:
    print(error.status)
""")
    assert done.stdout.split() == [str(status)], done.stderr


def entry(body: str) -> str:
    return f"{HEAD}.visible .entry k() {{\n.reg .b32 %r<4>;\n.reg .f32 %f<4>;\n.reg .f64 %d<4>;\n{body}\nret;\n}}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (entry("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 %f0, %f1, %f2, %f3;"), "mma.sync"),
        (entry("cvt.rz.f32.f64 %f0, %d0;"), "cvt.rz.f32.f64"),
        (entry("cvt.rm.f32.s32 %f0, %r0;"), "cvt.rm.f32.s32"),
        (entry("bar.arrive 0, 64;"), "bar.arrive"),
        (entry("barrier.cluster.arrive;"), "barrier.cluster.arrive"),
        (entry("mov.u32 %r0, unheard_of;"), "symbol unheard_of"),
        (entry("call.uni unheard_of, ();"), "call of unheard_of"),
        (entry(".surfref x;"), "directive .surfref"),
        (f"{HEAD}.global .u64 p[1] = {{somewhere}};", "a global made of addresses: p"),
        (f"{HEAD}.tex .u32 x;", "directive .tex"),
    ],
)
def test_what_is_not_known_is_named(text: str, named: str) -> None:
    with pytest.raises(UnknownError) as caught:
        Module(text).translate()
    assert named in str(caught.value)


def test_a_kernel_that_cannot_be_translated_is_an_error_of_the_driver(over: Over, tmp_path: Path) -> None:
    path = tmp_path / "unknown.ptx"
    path.write_text(entry("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 %f0, %f1, %f2, %f3;"))
    done = over(f"import cupy; cupy.RawModule(path={str(path)!r}).compile()")
    assert done.returncode == 1
    assert "CUDA_ERROR_INVALID_PTX" in done.stderr
    assert "cannot be translated: UnknownError: mma.sync" in done.stderr


if __name__ == "__main__":
    (HERE / "threads.c").write_text(Module((HERE / "threads.ptx").read_text()).translate())
