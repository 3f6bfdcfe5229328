"""Small runs of ``twostroke train``, each of another kind, for the tests of what is made of a run."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import pytest

from twostroke.backend import select_backend
from twostroke.cli import main
from twostroke.data.dataset import Dataset, load_dataset
from twostroke.engine.mlp import MLP
from twostroke.models.model_file import load_model
from twostroke.runs.record import read_record
from twostroke.show.findings import Findings, examine

NEEDS_PLOT = pytest.mark.skipif(
    not (util.find_spec("matplotlib") and util.find_spec("jinja2")),
    reason="matplotlib and jinja2 are not installed: pip install 'twostroke[plot]'",
)
# Shape of a sample, dtype, classes, noise, and the options of the run.
KINDS = {
    "pictures": ((12, 9), np.uint8, 4, 5.0, ["--layers", "108,20,4", "--epochs", "6", "--val-size", "60"]),
    "wide pictures": ((3, 40), np.float32, 3, 6.0, ["--layers", "120,3", "--epochs", "2", "--loss", "quadratic"]),
    "features": ((7,), np.float32, 3, 1.5, ["--layers", "7,5,3", "--epochs", "3"]),
    "many classes": ((8, 8), np.uint8, 26, 3.0, ["--layers", "64,20,26", "--epochs", "30"]),
    "no mistakes": ((6, 6), np.uint8, 3, 0.0, ["--layers", "36,8,3", "--epochs", "40"]),
}


def samples(kind: str, name: str = "arrays") -> Dataset:
    """Noisy copies of one random pattern per class."""
    shape, dtype, n_classes, noise, _ = KINDS[kind]
    rng = np.random.default_rng(3)
    labels = np.arange(600) % n_classes
    x = rng.normal(size=(n_classes, *shape))[labels] + noise * rng.normal(size=(600, *shape))
    x = np.clip(128 + 30 * x, 0, 255).astype(dtype) if dtype == np.uint8 else x.astype(dtype)
    return Dataset.from_arrays(x[:400], labels[:400], x[400:], labels[400:], name=name)


def train_run(kind: str, folder: Path, *options: str, data: str = "small.npz") -> Path:
    """Write the data set ``folder/data`` and train on it; the run's folder."""
    one = samples(kind)
    shape = one.image_shape
    np.savez(
        folder / data,
        x_train=one.train_images.reshape(-1, *shape),
        y_train=one.train_labels,
        x_test=one.test_images.reshape(-1, *shape),
        y_test=one.test_labels,
    )
    words = [
        "train",
        str(folder / data),
        "--preset",
        "fast",
        *KINDS[kind][4],
        "--batch-size",
        "20",
        "--lr",
        "0.05",
        "--device",
        "cpu",
    ]
    assert main([*words, "--threads", "1", "--out", str(folder / "run"), "-q", *options]) == 0
    return folder / "run"


def findings_of(run: Path) -> Findings:
    """What there is to show of a run."""
    found = read_record(run / "record.json")
    return examine(found, load_model(run / "model.safetensors"), load_dataset(found["source"]))


def echo_network(width: int) -> MLP:
    """A network whose outputs are its inputs: its mistakes can be written down."""
    net = MLP([width, width], loss="quadratic", output="identity", backend=select_backend("cpu", 1))
    net.weights[0][...] = np.eye(width)
    net.biases[0][...] = 0
    return net
