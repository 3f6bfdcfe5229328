"""What is said of data that is valid and that a network learns nothing from, and that it is said of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twostroke import Dataset, load_dataset
from twostroke.cli import main
from twostroke.data.doubts import doubts, guessing


def pixels(rng: np.random.Generator, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of 6 x 6 pictures: a bright band at the top, in the middle, at the bottom."""
    labels = np.arange(n) % 3
    images = rng.integers(0, 40, (n, 6, 6), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 200
    return images, labels


def dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    return Dataset.from_arrays(images[:240], labels[:240], images[240:], labels[240:], name="mine")


@pytest.mark.parametrize("change", ["as it is", "scaled", "standardised", "float64", "one hot"])
def test_nothing_is_said_of_good_data(change: str, rng: np.random.Generator) -> None:
    images, labels = pixels(rng)
    flat = images.reshape(len(images), -1).astype(np.float64)
    changed = {
        "as it is": images,
        "scaled": (images / 255).astype("float32"),
        "standardised": (flat - flat.mean(0)) / flat.std(0),
        "float64": images / 255,
        "one hot": np.eye(200, dtype="float32")[rng.integers(0, 200, 300)],
    }
    assert doubts(dataset(changed[change], labels)) == []


def test_nothing_is_said_of_mnist() -> None:
    assert doubts(load_dataset("mnist")) == []


def test_pixels_as_floats_are_named(rng: np.random.Generator) -> None:
    images, labels = pixels(rng)
    (line,) = doubts(dataset(images.astype("float32"), labels))
    assert line.startswith("the values of mine lie in 0..239, and floats are taken as they are. Scale them to 0..1")


@pytest.mark.parametrize("top", [1, 16])
def test_uint8_that_are_no_pixels_are_named(top: int, rng: np.random.Generator) -> None:
    images, labels = pixels(rng)
    (line,) = doubts(dataset((images > 100).astype("uint8") * np.uint8(top), labels))
    said = f"the values of mine are uint8 of 0..{top}: divided by 255 they are at most {top / 255:.2g}. Multiply them"
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3], "1 of 4 classes have no training sample: 0. Number the classes from 0 without a gap; the highest"),
        ([0, 1, 200], "198 of 201 classes have no training sample: 2, 3, 4, 5, 6, 7, 8, 9, ... . Number"),
        ([0, 2, 4], "2 of 5 classes have no training sample: 1, 3. Number"),
    ],
)
def test_classes_without_a_sample_are_named(labels: list[int], said: str, rng: np.random.Generator) -> None:
    images, classes = pixels(rng)
    (line,) = doubts(dataset(images, np.array(labels)[classes]))
    assert line.startswith(said.replace("... .", "...."))
    assert line.endswith(f"label, {labels[-1]}, has 80")


def test_guessing() -> None:
    labels = np.array([0, 0, 1, 2])
    assert guessing(0.75, labels) == []
    (line,) = guessing(0.5, labels)
    assert line == "no better than guessing: 50.00% are right, and class 0 alone is 50.00% of the test part"
    assert guessing(1.0, np.zeros(3, int)) == []


def test_a_label_of_255_has_a_remedy_that_works(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (2000, 4), dtype=np.uint8)
    labels = (np.arange(2000) % 3).astype(np.uint8)
    labels[7] = 255
    with pytest.raises(ValueError, match="pass n_classes=256 if it is right"):
        Dataset.from_arrays(images, labels, images, labels)


# --- the commands ----------------------------------------------------------------------------------------


@pytest.fixture
def loud(tmp_path: Path, rng: np.random.Generator) -> str:
    """Pixels of 0..255 as floats, in a file."""
    images, labels = pixels(rng)
    x = images.astype("float32")
    np.savez(tmp_path / "loud.npz", x_train=x[:240], y_train=labels[:240], x_test=x[240:], y_test=labels[240:])
    return str(tmp_path / "loud.npz")


def test_train_says_it_before_the_first_epoch_and_strict_refuses(
    loud: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", loud, "--device", "cpu", "--epochs", "1", "--lr", "0.001", "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().err.startswith("note: the values of loud lie in 0..239, and floats")
    assert main([*words, "--strict"]) == 4
    out, err = capsys.readouterr()
    assert err.startswith("error: the values of loud lie in 0..239, and floats")
    assert err.count("\n") == 1
    assert "epoch" not in out
    assert not (tmp_path / "out").exists()
    (tmp_path / "run.toml").write_text("strict = true")
    assert main([*words, "--config", str(tmp_path / "run.toml")]) == 4


def test_a_run_that_learned_nothing_says_so_at_its_end(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of almost nothing; the class that the first weights name is not the most common one."""
    images, labels = pixels(rng)
    labels[240:] = 1
    labels[240:260] = 0
    parts = {"x_train": images[:240], "y_train": labels[:240], "x_test": images[240:], "y_test": labels[240:]}
    np.savez(tmp_path / "d.npz", **parts)
    words = ["train", str(tmp_path / "d.npz"), "--device", "cpu", "--epochs", "1", "--lr", "1e-9", "-q"]
    model = tmp_path / "model.safetensors"
    assert main([*words, "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("test accuracy ")
    assert err.startswith("note: no better than guessing: ")
    assert main([*words, "--out", str(tmp_path), "--strict"]) == 6
    assert capsys.readouterr().err.startswith("error: no better than guessing: ")
    assert model.exists()
    assert main(["evaluate", str(model), str(tmp_path / "d.npz"), "--device", "cpu"]) == 0
    assert capsys.readouterr().err.startswith("note: no better than guessing: ")
    assert main(["evaluate", str(model), str(tmp_path / "d.npz"), "--device", "cpu", "--strict"]) == 5


def test_evaluate_says_what_it_sees(loud: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", loud, "--device", "cpu", "--epochs", "1", "--lr", "0.001", "--out", str(tmp_path), "-q"]
    assert main(words) == 0
    capsys.readouterr()
    model = str(tmp_path / "model.safetensors")
    assert main(["evaluate", model, loud, "--device", "cpu"]) == 0
    assert "note: the values of loud lie in 0..239" in capsys.readouterr().err
    assert main(["evaluate", model, loud, "--device", "cpu", "--strict"]) == 4
