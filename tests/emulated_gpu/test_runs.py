"""Training over the emulated device: equal bits in the three modes of capture, with late queues, and after refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from .conftest import Over

START = """
import cupy, hashlib, json, numpy as np, os
from twostroke import Dataset, MLP, TrainConfig, select_backend
from twostroke.engine.optimizers import OPTIMIZERS
from twostroke.engine.training import TrainingRun
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (250, 12), dtype="uint8")
labels = images[:, :3].argmax(1).astype("int64")
data = Dataset.from_arrays(images[:200], labels[:200], images[200:], labels[200:], name="small")

def digest(run):
    state = b"".join(run.net.backend.to_host(array).tobytes() for array in run.state.values())
    return hashlib.sha256(state).hexdigest()
"""
DATA = [
    "--preset",
    "fast",
    "--layers",
    "12,16,3",
    "--batch-size",
    "32",
]  # for the command line: three batches and a rest
MODES = ("0", "auto", "epoch")


def write_data(folder: Path) -> str:
    """The same samples in a file."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (250, 12), dtype="uint8")
    labels = images[:, :3].argmax(1)
    path = folder / "small.npz"
    parts = {"x_train": images[:200], "y_train": labels[:200], "x_test": images[200:], "y_test": labels[200:]}
    np.savez(path, **parts)
    return str(path)


EVERY_OPTIMIZER = """
found = {}
for mode in ("0", "auto", "epoch"):
    os.environ["TWOSTROKE_CAPTURE"] = mode
    backend = select_backend("cuda")
    for optimizer in OPTIMIZERS:
        config = TrainConfig(epochs=4, batch_size=32, optimizer=optimizer, l2=1e-4)
        run = TrainingRun(MLP([12, 16, 3]), data, config, backend)
        while not run.done:
            run.advance()
        found[f"{optimizer}, {mode}"] = digest(run)
    graphs = backend.describe()["graphs"]
    assert graphs["used"] == (mode != "0") and bool(graphs["launches"]) == (mode != "0"), graphs
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eager(over: Over) -> dict[str, str]:
    """The digest of what each optimiser ends in, in each mode of capture."""
    done = over(START + EVERY_OPTIMIZER)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_each_optimizer_ends_in_the_same_bits_however_it_is_launched(eager: dict[str, str]) -> None:
    """Call by call, mode 0, other products are used."""
    from twostroke.engine.optimizers import OPTIMIZERS

    assert len(eager) == len(MODES) * len(OPTIMIZERS)
    for optimizer in OPTIMIZERS:
        assert eager[f"{optimizer}, auto"] == eager[f"{optimizer}, epoch"], optimizer
    assert len({eager[f"{optimizer}, auto"] for optimizer in OPTIMIZERS}) == len(OPTIMIZERS)


@pytest.mark.parametrize("settings", [{"QUEUE": "late"}, {"ORDER": "down"}], ids=["late", "threads turned around"])
def test_neither_a_late_queue_nor_the_order_of_threads_changes_a_bit(
    over: Over, eager: dict[str, str], settings: dict[str, str]
) -> None:
    done = over(START + EVERY_OPTIMIZER, **settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == eager


def trained(over: Over, out: Path, **settings: Any) -> bytes:
    """The parameters in which ``twostroke train`` ends, and what it said of graphs in ``graphs``."""
    words = ["train", write_data(out.parent), *DATA, "--epochs", "4", "--device", "cuda", "--out", str(out), "-q"]
    done = over(words, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return b"".join(array.tobytes() for _, array in sorted(load_file(out / "model.safetensors").items()))


def test_a_refused_capture_leaves_the_bits_of_the_whole_run(over: Over, tmp_path: Path) -> None:
    """Wherever CUDA refuses: while the backend is tried, or in a step."""
    wanted, reasons = trained(over, tmp_path / "whole"), []
    for at in (3, 5, 9):
        assert trained(over, tmp_path / str(at), REFUSE_AT=str(at)) == wanted
        graphs = json.loads((tmp_path / str(at) / "record.json").read_text())["machine"]["graphs"]
        assert not graphs["used"]
        reasons.append(graphs["reason"])
    said = ("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "CUBLAS_STATUS_EXECUTION_FAILED")
    assert all(any(words in reason for words in said) for reason in reasons), reasons


ALLOCATIONS = """
from cupy.cuda.memory_hook import MemoryHook
os.environ["TWOSTROKE_CAPTURE"] = "0"

class Count(MemoryHook):
    name, calls = "count", 0
    def malloc_preprocess(self, **_):
        self.calls += 1

def calls(layers, batch, steps):
    run = TrainingRun(MLP(layers), data, TrainConfig(epochs=2, batch_size=batch), select_backend("cuda"))
    run.advance(1)
    with Count() as count:
        run.advance(steps)
    return count.calls

for layers in ([12, 16, 3], [12, 1, 3]):
    for batch in (1, 2, 16):
        few, many = (calls(layers, batch, steps) for steps in (2, 10))
        assert few == many, (layers, batch, few, many)
assert cupy._core.get_routine_accelerators() and cupy._core.get_reduction_accelerators()  # the process keeps its own
"""


def test_a_step_call_by_call_allocates_nothing(over: Over) -> None:
    done = over(START + ALLOCATIONS)
    assert done.returncode == 0, done.stderr


THREADS = """
import threading
backend, digests = select_backend("cuda"), {}

def work(seed, name):
    run = TrainingRun(MLP([12, 16, 3], seed=seed), data, TrainConfig(epochs=4, batch_size=8), backend)
    barrier.wait()
    while not run.done:
        run.advance()
    digests[name] = digest(run)

barrier = threading.Barrier(1)
for seed in (1, 2, 3):
    work(seed, f"alone {seed}")
barrier = threading.Barrier(3)
threads = [threading.Thread(target=work, args=(seed, f"beside {seed}")) for seed in (1, 2, 3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert backend.describe()["graphs"]["used"], backend.describe()["graphs"]
assert all(digests[f"alone {seed}"] == digests[f"beside {seed}"] for seed in (1, 2, 3)), digests
"""


@pytest.mark.parametrize("capture", ["auto", "epoch"])
def test_threads_that_share_a_backend(over: Over, capture: str) -> None:
    """Each captures and trains, with the bits that it has alone, and capture stays on."""
    done = over(f"import sys\nsys.setswitchinterval(1e-5)\n{START}{THREADS}", env={"TWOSTROKE_CAPTURE": capture})
    assert done.returncode == 0, done.stderr
