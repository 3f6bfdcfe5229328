"""A GPU that is not number 0: every array, handle and stream is on it, while device 0 is the current one.

An emulated kernel, product or launch that is given memory or a stream of another device fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Over
from .test_runs import DATA, START, write_data

PARTS = {
    "training": """
config = TrainConfig(epochs=2, batch_size=32, dropout=0.2, patience=3, val_size=0.1)
run = TrainingRun(MLP([12, 16, 3]), data, config, backend)
while not run.done:
    run.advance()
arrays = run.state.values()
""",
    "a network made there": """
net = MLP([12, 16, 3], backend=backend)
arrays = [net.parameters]
assert np.array_equal(net.predict(data.test_images), MLP([12, 16, 3]).predict(data.test_images))
""",
    "prediction and evaluation": """
from twostroke import evaluate
net = MLP([12, 16, 3]).to(backend)
net.predict_proba(data.test_images)
evaluate(net, data.test_images, data.test_labels)
arrays = [net.parameters]
""",
    "classic": """
from twostroke.classic import Network
net = Network([12, 5, 3], backend=backend)
x, y = rng.random((12, 1)), np.eye(3)[:, :1]
net.update(x, y)
net.SGD([(x, y)] * 8, 1, 3, 0.1, test_data=[(x, y)])
net.GD([(x, y)] * 8, 1, 0.1)
net.weights = net.weights
net.feedforward(x)
arrays = [net.mlp.parameters]
""",
    "scalars and sums": """
cells = backend.scalars(2, "float32")
with backend.active():
    cells.set(1.0, 2.0)

class Alone:
    rank, size = 0, 1
    def allreduce_(self, array): array *= 2

summing = backend.summing(3, "float32", Alone())
with backend.active():
    summing.array.fill(3)
    summing.run()
assert backend.to_host(summing.total).tolist() == [6, 6, 6]
arrays = [summing.array, summing.total] + ([] if cells.cells is None else [cells.cells])
""",
    "a checkpoint": """
from pathlib import Path
from twostroke.models.checkpoint import restore, save_checkpoint
run, again = (
    TrainingRun(MLP([12, 16, 3]), data, TrainConfig(epochs=2, batch_size=32, optimizer="adam"), backend) for _ in "ab"
)
run.advance()
restore(again, data, save_checkpoint(run, data, Path(folder, "checkpoint")))
again.advance()
arrays = again.state.values()
""",
    "another thread": """
import threading
net = MLP([12, 16, 3], backend=backend)
found = []
thread = threading.Thread(target=lambda: found.append(net.predict(data.test_images)))
thread.start()
thread.join()
assert np.array_equal(found[0], net.predict(data.test_images))
arrays = [net.parameters]
""",
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("capture", ["auto", "0"])
def test_the_second_gpu(over: Over, part: str, capture: str, tmp_path: Path) -> None:
    end = """
assert {array.device.id for array in arrays} == {1}
assert cupy.cuda.Device().id == 0  # as before
"""
    begin = f"{START}\nbackend, folder = select_backend('cuda:1'), {str(tmp_path)!r}\n"
    done = over(begin + PARTS[part] + end, DEVICES="2", env={"TWOSTROKE_CAPTURE": capture})
    assert done.returncode == 0, done.stderr


def test_the_command_line_on_the_second_gpu(over: Over, tmp_path: Path) -> None:
    data = write_data(tmp_path)
    out = str(tmp_path / "run")
    words = [
        "train",
        data,
        *DATA,
        "--epochs",
        "4",
        "--optimizer",
        "adam",
        "--lr",
        "0.05",
        "--checkpoint-every",
        "2",
        "-q",
    ]
    for more in (["--out", out], ["--out", out, "--resume"]):
        done = over([*words, "--device", "cuda:1", *more], DEVICES="2")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "on cuda:1" in done.stdout
    done = over(["evaluate", f"{out}/model.safetensors", data, "--device", "cuda:1"], DEVICES="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["grad", "parity", "resume"])
def test_verification_on_the_second_gpu(over: Over, what: str) -> None:
    done = over(["verify", what, "--device", "cuda:1"], DEVICES="2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gpu_that_is_not_there(over: Over) -> None:
    done = over(["train", "--device", "cuda:2"], DEVICES="2")
    assert done.returncode == 3
    assert "there is no cuda:2, this machine has cuda:0, cuda:1" in done.stderr
