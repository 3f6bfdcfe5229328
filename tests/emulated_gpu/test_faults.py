"""Faults planted under a whole command: one line, exit code 3, no file; and what a process can do after one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Over
from .test_runs import DATA, START, write_data


def run(over: Over, folder: Path, **settings: str) -> tuple[int, list[str], list[str]]:
    """A run of ``train``: exit code, the lines of stderr that are not the emulated device's, and its files."""
    out = folder / "run"
    words = ["train", write_data(folder), *DATA, "--epochs", "3", "--device", "cuda", "--out", str(out), "-q"]
    done = over(words, **settings)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("emulated GPU: ")]
    return done.returncode, lines, [path.name for path in out.glob("*.safetensors")]


LOST = "error: the GPU no longer works in this process: cuda:0: found "
FULL = "error: out of GPU memory: cuda:0: found "
UNUSABLE = "error: the GPU cannot be used: "


@pytest.mark.parametrize("setdevice", ["loud", "quiet"])
@pytest.mark.parametrize("at", [5, 60, 110, 200])
def test_a_lost_gpu_is_one_line(over: Over, tmp_path: Path, at: int, setdevice: str) -> None:
    """While the probe works, and while the run does; whether cudaSetDevice tells of the fault again or not."""
    code, lines, files = run(over, tmp_path, FAULT_AT=str(at), SETDEVICE=setdevice)
    assert (code, len(lines), files) == (3, 1, []), lines
    assert lines[0].startswith(UNUSABLE if at < 60 else (LOST, UNUSABLE))


@pytest.mark.parametrize("at", [1, 10, 20, 25])
def test_out_of_memory_is_one_line(over: Over, tmp_path: Path, at: int) -> None:
    code, lines, files = run(over, tmp_path, OOM_AT=str(at))
    assert (code, len(lines), files) == (3, 1, []), lines
    assert lines[0].startswith((FULL, UNUSABLE))


PARAMETERS = """
from twostroke import DeviceError
backend = select_backend("cuda")
try:
    MLP([784, 20000, 10], backend=backend)
except DeviceError as error:
    message = str(error)
assert message.startswith("out of GPU memory: cuda:0: found "), message
assert "for an array of shape (15900010,)" in message, message
"""


def test_out_of_memory_while_parameters_are_placed(over: Over) -> None:
    done = over(START + PARAMETERS, MEMORY=str(50 << 20))
    assert done.returncode == 0, done.stderr


HELD = """
import gc
from twostroke import DeviceError
backend, pool = select_backend("cuda"), cupy.get_default_memory_pool()
gc.collect()
gc.disable()
before = pool.used_bytes()

def too_large():
    net = MLP([12, 4000, 3])
    try:
        TrainingRun(net, data, TrainConfig(batch_size="full"), backend)
    except DeviceError as error:
        return str(error)

too_large()  # the free blocks of the first are not those of the second
message = too_large()
assert message.startswith("out of GPU memory"), message
assert pool.used_bytes() == before, (before, pool.used_bytes())
"""


def test_out_of_memory_leaves_nothing_in_a_cycle(over: Over) -> None:
    done = over(START + HELD, MEMORY=str(37 << 20))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("setdevice", ["loud", "quiet"])
def test_a_lost_gpu_is_told_at_each_use(over: Over, setdevice: str) -> None:
    program = """
from twostroke import DeviceError
backend = select_backend("cuda")
net = MLP([12, 16, 3], backend=backend)
kernel = cupy.RawKernel('extern "C" __global__ void k(float* p, long n) { p[n] = 1; }', "k")
told = 0
try:
    with backend.active():
        kernel((1,), (1,), (net.parameters, 1 << 40))
        backend.synchronize()
except DeviceError as error:
    told += str(error).startswith("the GPU no longer works in this process: cuda:0: found ")
for use in (lambda: net.predict(data.test_images), backend.synchronize, lambda: backend.asarray(np.ones(3))):
    try:
        use()
    except DeviceError as error:
        told += str(error).startswith("the GPU no longer works in this process: cuda:0: found ")
assert told == 4, told
"""
    done = over(START + program, SETDEVICE=setdevice)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DEVICES": "0"}, "no CUDA GPU found"),
        ({"DRIVER": "0"}, "cupy-cuda12x 14.2.0 is installed but there is no NVIDIA driver"),
        (
            {"DRIVER": "11040"},
            "the NVIDIA driver is too old (it supports CUDA 11.4, cupy-cuda12x 14.2.0 needs 12.9)",
        ),
    ],
    ids=["no GPU", "no driver", "old driver"],
)
def test_a_machine_that_cannot(over: Over, settings: dict[str, str], said: str) -> None:
    done = over(["train", "--device", "cuda"], **settings)
    assert done.returncode == 3
    assert done.stderr.startswith(UNUSABLE + said)
    assert done.stderr.count("\n") == 1
