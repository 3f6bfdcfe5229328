"""Folders: of pictures by class, of .npy files, and the names that MNIST's successors have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.test_dataset import NAMES, small, write_folder
from twostroke.data.dataset import load_dataset
from twostroke.errors import DataError


def picture(path: Path, grey: int = 200, size: tuple[int, int] = (8, 6), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


def refused(source: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(source, **options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "pictures", "archive/pictures"])
def test_a_folder_for_each_class(tmp_path: Path, below: str) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            picture(tmp_path / below / name / f"{number}.png", 100 + 50 * label)
    (tmp_path / below / ".hidden").mkdir()
    (tmp_path / below / "cat" / "notes.txt").write_text("not a picture")
    data = load_dataset(tmp_path)
    assert (data.classes, data.image_shape, str(data.train_images.dtype)) == (("cat", "dog"), (6, 8), "uint8")
    assert (len(data.train_images), len(data.test_images)) == (16, 4)
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        np.testing.assert_array_equal(images[:, 0], 100 + 50 * labels)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Training", "testing"), ("trainingSet/trainingSet", "testSet/testSet"), ("train", "val")],
)
def test_parts_with_classes(tmp_path: Path, train: str, test: str) -> None:
    for part, count in ((train, 5), (test, 2)):
        for label in range(11):
            for number in range(count):
                picture(tmp_path / part / str(label) / f"{number}.jpg", 10 * label)
    data = load_dataset(tmp_path)
    assert (len(data.train_images), len(data.test_images), data.n_classes) == (55, 22, 11)
    assert data.classes == ()  # 0..10, by their size and not as text
    np.testing.assert_allclose(data.test_images[:, 0], 10.0 * data.test_labels, atol=2)


def test_colour_transparency_and_different_sizes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number, mode in enumerate(("L", "RGB", "RGBA", "1", "P")):
            picture(tmp_path / name / f"{number}.png", mode=mode)
        picture(tmp_path / name / "large.png", size=(640, 480))
    data = load_dataset(tmp_path)
    assert data.image_shape == (6, 8)
    assert "scaled to 6 x 8" in data.how


def test_large_pictures_are_scaled_as_they_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", size=(640, 480))
    assert load_dataset(tmp_path).image_shape == (48, 64)


def test_faults_of_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "one" / "a" / "0.png")
    refused(tmp_path / "one", "fewer than two classes", "a")
    for part in ("train", "test"):
        picture(tmp_path / "flat" / part / "0.png")
    refused(tmp_path / "flat", "pictures without classes", "test, train")
    for part, name in (("train", "a"), ("train", "b"), ("test", "c")):
        picture(tmp_path / "other" / part / name / "0.png")
    refused(tmp_path / "other", "an unknown class", "'c'", "a, b")
    for name in ("a", "b"):
        picture(tmp_path / "bad" / name / "0.png")
    (tmp_path / "bad" / "b" / "1.png").write_bytes(b"not a picture")
    refused(tmp_path / "bad", str(tmp_path / "bad" / "b" / "1.png"), "cannot read the image")


def test_names_of_classes_fix_their_numbers(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        for number in range(4):
            picture(tmp_path / name / f"{number}.png")
    data = load_dataset(tmp_path, classes=["c", "a", "b"])
    assert data.classes == ("c", "a", "b")
    refused(tmp_path, "an unknown class", "'c'", classes=["a", "b"])


# --- files of one array -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("x_train", "y_train", "x_test", "y_test"), tuple(small())])
def test_npy_files_are_mapped(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays = small()
    for name, array in zip(names, arrays.values(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    data = load_dataset(tmp_path)
    np.testing.assert_array_equal(data.train_images, arrays["train_images"].reshape(len(data.train_images), -1))
    base: Any = data.train_images
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_faults_of_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x_train.npy", np.zeros((2, 3)))
    refused(tmp_path, "train labels, test images, test labels missing", "x_train.npy", "y_test.npy")
    for name in ("y_train", "x_test", "y_test"):
        np.save(tmp_path / f"{name}.npy", np.array([object()] * 2), allow_pickle=True)
    refused(tmp_path, "y_train.npy", "not a valid .npy file")
    np.save(tmp_path / "train_images.npy", np.zeros((2, 3)))
    refused(tmp_path, "more than one data set")
    cut = (tmp_path / "x_train.npy").read_bytes()[:-8]
    (tmp_path / "train_images.npy").unlink()
    (tmp_path / "x_train.npy").write_bytes(cut)
    refused(tmp_path, "x_train.npy", "not a valid .npy file")


def test_kmnist_s_four_archives(tmp_path: Path) -> None:
    arrays = small()
    for name, array in zip(("train-imgs", "train-labels", "test-imgs", "test-labels"), arrays.values(), strict=True):
        np.savez_compressed(tmp_path / f"kmnist-{name}.npz", array)
    data = load_dataset(tmp_path)
    np.testing.assert_array_equal(data.test_labels, arrays["test_labels"])
    np.savez(tmp_path / "kmnist-test-imgs.npz", a=np.zeros(2), b=np.zeros(2))
    refused(tmp_path, "kmnist-test-imgs.npz", "more than one array")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x00\x00\x08\x03rest", "one IDX file"), (b"\x1f\x8brest", "a gzip file"), (b"\x93NUMPY", "one .npy file"),
        (b"\x89HDFrest", "an HDF5 file"), (b"\x80\x04rest", "a pickle"), (b"PAR1rest", "a Parquet file"),
        (b"\x89PNGrest", "a picture"), (b"<!DOCTYPE html>", "a web page"), (b"a,b\n1,2\n", "text"),
        (bytes(257) + b"ustar  ", "IDX"), (b"x" * 257 + b"ustar\x00rest", "a tar archive"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "data.bin").write_bytes(content)
    refused(tmp_path / "data.bin", kind, "docs/your-own-data.md")


# --- MNIST's successors -------------------------------------------------------------------------------------------


def test_torchvision_s_folders_and_capitals(tmp_path: Path) -> None:
    for name in ("MNIST", "FashionMNIST"):
        (tmp_path / name).mkdir()
    names = [name.upper() for name in NAMES]
    write_folder(tmp_path / "MNIST" / "raw", small(), names)
    assert load_dataset(tmp_path).n_classes == 3
    write_folder(tmp_path / "FashionMNIST" / "raw", small(), NAMES)
    refused(tmp_path, "more than one data set", "FashionMNIST/raw", "MNIST/raw")


def emnist(kind: str) -> list[str]:
    return [f"emnist-{kind}-{name.replace('t10k', 'test')}" for name in NAMES]


def test_emnist_is_put_upright(tmp_path: Path) -> None:
    arrays = small()
    data = load_dataset(write_folder(tmp_path, arrays, emnist("digits")))
    upright = arrays["train_images"].transpose(0, 2, 1)
    assert data.image_shape == upright.shape[1:]
    np.testing.assert_array_equal(data.train_images, upright.reshape(len(upright), -1))


def test_emnist_s_letters_are_named(tmp_path: Path) -> None:
    arrays = small()
    for part in ("train", "test"):
        arrays[f"{part}_labels"] = np.resize(np.arange(1, 27, dtype=np.uint8), len(arrays[f"{part}_labels"]))
    data = load_dataset(write_folder(tmp_path, arrays, emnist("letters")), n_classes=26)
    assert (data.classes[0], data.classes[25]) == ("A", "Z")
    np.testing.assert_array_equal(data.train_labels, arrays["train_labels"] - 1)


def test_emnist_s_mapping_names_the_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small(), emnist("balanced"))
    mapping = folder / "emnist-balanced-mapping.txt"
    mapping.write_text("0 48\n1 65\n2 97\n")
    assert load_dataset(folder).classes == ("0", "A", "a")
    mapping.write_text("0 48\n2 97\n")
    refused(folder, str(mapping), "not a file of class names")


def test_qmnist_s_labels_are_the_first_column(tmp_path: Path) -> None:
    arrays = small()
    names = [name.replace("t10k", "test") for name in NAMES]
    write_folder(tmp_path, arrays, [f"qmnist-{name}" for name in names])
    for part in ("train", "test"):
        labels = arrays[f"{part}_labels"]
        table = np.zeros((len(labels), 8), ">i4")
        table[:, 0], table[:, 1] = labels, 99
        (tmp_path / f"qmnist-{part}-labels-idx1-ubyte").unlink()
        header = b"\x00\x00\x0c\x02" + len(labels).to_bytes(4, "big") + (8).to_bytes(4, "big")
        (tmp_path / f"qmnist-{part}-labels-idx2-int").write_bytes(header + table.tobytes())
    data = load_dataset(tmp_path)
    np.testing.assert_array_equal(data.train_labels, arrays["train_labels"])
