"""What the emulated device must compute and must refuse: each case in a process of its own, with either queue."""

from __future__ import annotations

import pytest

from .conftest import Over

START = """
import cupy as cp, numpy as np
from cupy.cuda.runtime import CUDARuntimeError
rng = np.random.default_rng(0)

def refused(status, call):
    try:
        call()
        cp.cuda.Device().synchronize()
    except Exception as error:
        assert getattr(error, "status", None) == status, error
    else:
        raise SystemExit(f"not refused, {status} was expected")
"""
CASES = {
    "arithmetic": """
x = rng.standard_normal((37, 53)).astype("f")
g = cp.asarray(x)
for name in ("exp", "tanh", "sqrt", "log1p", "sin", "floor", "abs", "square"):
    assert np.allclose(getattr(cp, name)(abs(g)).get(), getattr(np, name)(abs(x)), rtol=3e-6, atol=1e-7), name
n, d = rng.integers(-(2**40), 2**40, 1000), rng.integers(1, 60, 1000)
for op in ("floor_divide", "remainder", "right_shift", "bitwise_xor", "multiply", "less"):
    assert np.array_equal(getattr(cp, op)(cp.asarray(n), cp.asarray(d)).get(), getattr(np, op)(n, d)), op
assert np.array_equal(cp.asarray([1.5, -2.5, np.nan, 1e20]).astype("i4").get()[:2], [1, -2])
assert cp.asarray(x).astype("f2").astype("f").get().tobytes() == x.astype("f2").astype("f").tobytes()
""",
    "reductions and gathers": """
x = rng.standard_normal((37, 53)).astype("f")
for order in "CF":
    g = cp.asarray(x, order=order)
    for axis in (None, 0, 1):
        assert np.allclose(g.sum(axis=axis).get(), x.sum(axis=axis, dtype="d"), rtol=1e-5, atol=1e-5)
        assert np.array_equal(g.max(axis=axis).get(), x.max(axis=axis)), (order, axis)
        assert np.array_equal(g.argmax(axis=axis).get(), x.argmax(axis=axis))
        assert np.allclose(g.astype("d").mean(axis=axis).get(), x.astype("d").mean(axis=axis))
i = rng.integers(0, 37, 11)
assert np.array_equal(cp.take(g, cp.asarray(i), axis=0).get(), x[i])
g[cp.asarray(i[:1])] = 7
x[i[:1]] = 7
assert np.array_equal(g.get(), x)
""",
    "threads of a block": """
k = cp.RawKernel(r'''extern "C" __global__ void k(int* out, int* total, unsigned* ballots) {
  __shared__ int s[128]; int t = threadIdx.x, v = t;
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  s[t] = v; __syncthreads();
  out[blockIdx.x * 128 + t] = s[127 - t] + __syncthreads_count(t & 1);
  ballots[blockIdx.x * 128 + t] = __ballot_sync(~0u, t % 3 == 0); atomicAdd(total, t); }''', "k")
out, total, ballots = cp.zeros(256, "i4"), cp.zeros(1, "i4"), cp.zeros(256, "u4")
k((2,), (128,), (out, total, ballots))
warps = np.arange(128).reshape(4, 32).sum(1)
assert np.array_equal(out.get()[:128], np.repeat(warps, 32)[::-1] + 64)
assert total.get()[0] == 2 * 127 * 64
assert ballots.get()[5] == sum(1 << i for i in range(32) if i % 3 == 0)
""",
    "a graph reads what is there when it runs": """
s, x, y = cp.cuda.Stream(non_blocking=True), cp.ones(5, "f"), cp.zeros(5, "f")
cp.add(x, x, out=y)
with s:
    s.begin_capture()
    cp.add(x, y, out=y)
    g = s.end_capture()
assert y.get()[0] == 2
x.fill(10)
g.launch()
g.launch()
assert y.get()[0] == 22
""",
    "waiting ends a capture": """
s = cp.cuda.Stream(non_blocking=True)
with s:
    s.begin_capture()
    refused(900, s.synchronize)
    refused(901, s.end_capture)
    s.begin_capture()
    refused(900, cp.cuda.Device().synchronize)
""",
    "the legacy stream while a blocking one is captured": """
s, x = cp.cuda.Stream(), cp.ones(3)
x + x
with s:
    s.begin_capture()
try:
    x + x
except Exception as error:
    assert error.status == 906, error
else:
    raise SystemExit("ran")
""",
    "an unsafe call in a strict capture": """
s = cp.cuda.Stream(non_blocking=True)
with s:
    s.begin_capture(cp.cuda.runtime.streamCaptureModeGlobal)
    refused(900, lambda: cp.cuda.runtime.malloc(512))
""",
    "an illegal address stays": """
k = cp.RawKernel('extern "C" __global__ void k(float* p, long n) { p[n] = 1; }', "k")
x = cp.zeros(128, "f")
refused(700, lambda: k((1,), (1,), (x, 1 << 12)))
refused(700, lambda: cp.zeros(3).get())
""",
    "one element beyond an array": """
k = cp.RawKernel('extern "C" __global__ void k(float* p, long n) { p[n] = 1; }', "k")
x = cp.ndarray(64, "f", cp.cuda.MemoryPointer(cp.cuda.Memory(256), 0))
k((1,), (1,), (x, 63))
refused(700, lambda: k((1,), (1,), (x, 64)))
""",
    "freed memory": """
k = cp.RawKernel('extern "C" __global__ void k(float* p) { p[0] = 1; }', "k")
p = cp.cuda.runtime.malloc(256)
k((1,), (1,), (np.uint64(p),))
cp.cuda.runtime.free(p)
refused(700, lambda: k((1,), (1,), (np.uint64(p),)))
""",
    "the host's memory is no device's": """
k = cp.RawKernel('extern "C" __global__ void k(float* p) { p[0] = 1; }', "k")
h = np.zeros(4, "f")
refused(700, lambda: k((1,), (1,), (np.uint64(h.ctypes.data),)))
""",
    "a misaligned address": """
k = cp.RawKernel('extern "C" __global__ void k(char* p) { *(int*)(p + 2) = 1; }', "k")
refused(719, lambda: k((1,), (1,), (cp.zeros(16, "u1"),)))
""",
    "a barrier that not all threads reach": """
code = 'extern "C" __global__ void k(int* p) { if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;"); p[0] = 1; }'
k = cp.RawKernel(code, "k")
refused(719, lambda: k((1,), (64,), (cp.zeros(1, "i4"),)))
""",
    "nothing is zero before it is written": """
assert np.isnan(cp.empty(1000, "f").get()).all()
""",
    "out of memory": """
try:
    cp.empty(1 << 40, "u1")
except cp.cuda.memory.OutOfMemoryError:
    pass
else:
    raise SystemExit("given")
assert cp.ones(3).sum().get() == 3
""",
    "a launch that is too large": """
k = cp.RawKernel('extern "C" __global__ void k() {}', "k")
k((1,), (1024,), ())
refused(1, lambda: k((1,), (1025,), ()))
""",
}


@pytest.mark.parametrize("queue", ["eager", "late"])
@pytest.mark.parametrize("name", CASES)
def test_the_device(over: Over, name: str, queue: str) -> None:
    done = over(START + CASES[name], QUEUE=queue)
    assert done.returncode == 0, done.stderr


QUEUED = """
x, h = cp.zeros(4, "f"), cp.cuda.alloc_pinned_memory(16)
p = np.frombuffer(h, "f", 4)
p[:] = 1
x.data.copy_from_host_async(h.ptr, 16)
p[:] = 2  # a program that does not wait uploads what is written afterwards
print(x.get()[0])
"""


@pytest.mark.parametrize(("queue", "found"), [("eager", "1.0"), ("late", "2.0")])
def test_when_queued_work_runs(over: Over, queue: str, found: str) -> None:
    assert over(START + QUEUED, QUEUE=queue).stdout.split() == [found]


TWO = """
x = cp.zeros(3, "f")
x + x
with cp.cuda.Device(1):
    y, s = cp.ones(3, "f"), cp.cuda.Stream(non_blocking=True)
    assert (y + y).sum().get() == 6
    assert x.device.id == 0 and y.device.id == 1
    assert cp.asarray(x).device.id == 1  # a copy
"""


def test_two_devices(over: Over) -> None:
    done = over(START + TWO, DEVICES="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("k((1,), (1,), (y,))", 700),  # memory of the other device
        ("k((1,), (1,), (x,), stream=s)", 400),  # its stream
    ],
)
def test_a_kernel_needs_its_own_device_s_memory_and_stream(over: Over, call: str, status: int) -> None:
    kernel = """k = cp.RawKernel('extern "C" __global__ void k(float* p) { p[0] = 1; }', "k")\n"""
    done = over(START + TWO + kernel + f"refused({status}, lambda: {call})", DEVICES="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "status"), [({"DEVICES": "0"}, 100), ({"DRIVER": "0"}, 35), ({"DRIVER": "11040"}, 35)]
)
def test_a_machine_without_a_device_or_a_driver(over: Over, settings: dict[str, str], status: int) -> None:
    done = over(START + f"refused({status}, cp.cuda.runtime.getDeviceCount)", **settings)
    assert done.returncode == 0, done.stderr


def test_planted_faults(over: Over) -> None:
    work = """
x = cp.zeros(8)
for i in range(20):
    try:
        x + 1
        cp.cuda.Device().synchronize()
    except Exception as error:
        print(i, error.status)
"""
    lines = over(START + work, FAULT_AT="7").stdout.splitlines()
    assert [line.split() for line in lines] == [[str(i), "700"] for i in range(20 - len(lines), 20)]  # it stays
    assert 10 < len(lines) < 20


def test_the_log_tells_what_is_queued_under_capture(over: Over, tmp_path: object) -> None:
    log = f"{tmp_path}/log"
    done = over(START + CASES["a graph reads what is there when it runs"], LOG=log)
    assert done.returncode == 0, done.stderr
    with open(log) as lines:
        text = lines.read()
    assert "end capture" in text
    assert "1 nodes -> 0" in text
    assert text.count(" graph\n") == 2


def test_machine_code_is_refused_with_a_reason(over: Over) -> None:
    done = over("import cupy; cupy.arange(3) + 1", env={"CUPY_COMPILE_WITH_PTX": "0", "CUPY_CACHE_IN_MEMORY": "1"})
    assert done.returncode == 1
    assert "only PTX can run here, not machine code" in done.stderr
