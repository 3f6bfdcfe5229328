"""Data sets: the bundled MNIST, files, arrays, and every fault that a kernel would not notice."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from twostroke.data import bundled, dataset, numpy_files
from twostroke.data.checks import check_images, check_labels
from twostroke.data.dataset import Dataset, check_fit, load_dataset
from twostroke.errors import ConfigError, DataError, ModelError

Array = NDArray[Any]
NAMES = list(bundled.MNIST_DIGESTS)
MIB = 1 << 20


def refused(call: Callable[[], object], where: object, *parts: str) -> str:
    """The DataError of a call: one line with the place, the values found and expected, and a remedy."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert f": {where}: found " in message
    assert ", expected " in message
    assert message.endswith((".", "?"))
    for part in parts:
        assert part in message
    return message


def encode(array: Array) -> bytes:
    code = {"u1": 0x08, "i2": 0x0B, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def small(dtype: str = "u1") -> dict[str, Array]:
    """12 training and 6 test images of 3 x 4, in 3 classes."""
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (12, 3, 4)).astype(dtype),
        "train_labels": (np.arange(12) % 3).astype("u1"),
        "test_images": rng.integers(0, 256, (6, 3, 4)).astype(dtype),
        "test_labels": (np.arange(6) % 3).astype("u1"),
    }


def write_folder(folder: Path, arrays: dict[str, Array], names: list[str] = NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in zip(names, arrays.values(), strict=True):
        data = encode(array)
        packed = gzip.compress(data) if name.endswith(".gz") else lzma.compress(data) if name.endswith(".xz") else data
        (folder / name).write_bytes(packed)
    return folder


def assert_holds(data: Dataset, arrays: dict[str, Array]) -> None:
    for role, array in arrays.items():
        loaded = getattr(data, role)
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, array.reshape(loaded.shape))


def of(arrays: dict[str, Array]) -> Dataset:
    return Dataset.from_arrays(*arrays.values())


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load_dataset()


# The bundled set.


def test_bundled_mnist(mnist: Dataset) -> None:
    assert (mnist.name, mnist.n_classes, mnist.image_shape, mnist.n_features) == ("mnist", 10, (28, 28), 784)
    assert mnist.train_images.shape == (60000, 784)
    assert mnist.test_images.shape == (10000, 784)
    for array in (mnist.train_images, mnist.train_labels, mnist.test_images, mnist.test_labels):
        assert array.dtype == np.uint8
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(mnist.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert round(float(mnist.train_images.mean() / 255), 4) == 0.1307  # the mean every tutorial quotes


def test_bundled_files_are_the_canonical_ones(mnist: Dataset) -> None:
    md5 = {  # as other libraries pin them
        "train_images": "6bbc9ace898e44ae57da46a324031adb",
        "train_labels": "a25bea736e30d166cdddb491f175f624",
        "test_images": "2646ac647ad5339dbf082846283269ea",
        "test_labels": "27ae3e4e09519cfbb04c329615203637",
    }
    for role, digest in md5.items():
        array = getattr(mnist, role)
        shaped = array.reshape(-1, 28, 28) if role.endswith("images") else array
        assert hashlib.md5(encode(shaped), usedforsecurity=False).hexdigest() == digest
    readme = (Path(dataset.__file__).parent / "mnist" / "README.md").read_text()
    assert all(digest in readme for digest in bundled.MNIST_DIGESTS.values())


def test_loading_mnist_reads_no_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "mnist", small())
    assert len(load_dataset("mnist").train_labels) == 60000
    assert len(load_dataset("./mnist").train_labels) == 12


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was begun to be read ahead."""
    monkeypatch.setattr(bundled, "_ahead", [])
    return bundled._ahead


@pytest.mark.parametrize(
    ("line", "begun"),
    [
        ("train", True),
        ("train mnist --epochs 1", True),
        ("train -q", True),
        ("train digits.npz", False),
        ("train --config run.toml", False),
        ("train --help", False),
        ("evaluate model.safetensors", False),
        ("", False),
    ],
)
def test_training_on_mnist_reads_it_ahead(ahead: list[Any], line: str, begun: bool) -> None:
    bundled.read_ahead(line.split())
    assert bool(ahead) == begun
    for one in ahead:
        one.join()


def test_what_was_read_ahead_is_used_once(ahead: list[Any], mnist: Dataset) -> None:
    """The second data set has memory of its own: the first one's owner may write into it."""
    bundled.read_ahead(["train"])
    thread = ahead[0]
    first, second = load_dataset("mnist"), load_dataset("mnist")
    assert np.shares_memory(first.train_images, np.frombuffer(thread.unpacked[0], np.uint8))
    assert not ahead
    assert not np.shares_memory(first.train_images, second.train_images)
    for role in ("train_images", "train_labels", "test_images", "test_labels"):
        for found in (first, second):
            assert np.array_equal(getattr(found, role), getattr(mnist, role))


@pytest.mark.parametrize("words", [[], ["train"]])
@pytest.mark.parametrize("fault", ["one label", "truncated", "missing"])
def test_damaged_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: list[Any], fault: str, words: list[str]
) -> None:
    bundle = tmp_path / "mnist"
    shutil.copytree(bundled.FOLDER, bundle)
    monkeypatch.setattr(bundled, "FOLDER", bundle)
    path = bundle / "train-labels-idx1-ubyte.gz"
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[100] ^= 1
    found = f"SHA-256 {hashlib.sha256(data).hexdigest()}"
    if fault == "one label":
        path.write_bytes(gzip.compress(data))
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
        found = "the gzip data is truncated"
    else:
        path.unlink()
        found = "No such file"
    expected = bundled.MNIST_DIGESTS["train-labels-idx1-ubyte"]
    bundled.read_ahead(words)
    assert len(ahead) == len(words)
    refused(load_dataset, path, found, f"expected SHA-256 {expected}", "Reinstall twostroke")


# Folders of IDX files.

LAYOUTS = {
    "plain": NAMES,
    "gz": [f"{name}.gz" for name in NAMES],
    "mixed": [NAMES[0] + ".xz", NAMES[1], NAMES[2] + ".gz", NAMES[3] + ".xz"],
    "dotted": [name.replace("-idx", ".idx") for name in NAMES],
    "kmnist": [f"kmnist-{name.replace('t10k', 'test')}.gz" for name in NAMES],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder_layouts(tmp_path: Path, layout: str) -> None:
    folder = write_folder(tmp_path / "digits", small(), LAYOUTS[layout])
    (folder / "README.md").write_text("other files are left alone")
    (folder / "train-images-idx3-ubyte.d").mkdir()
    for source in (folder, str(folder)):
        data = load_dataset(source)
        assert_holds(data, small())
        assert (data.name, data.n_classes, data.image_shape, data.n_features) == ("digits", 3, (3, 4), 12)


def test_a_file_and_its_own_packed_copy_are_one(tmp_path: Path) -> None:  # torchvision's MNIST/raw
    folder = write_folder(write_folder(tmp_path, small()), small(), LAYOUTS["gz"])
    (folder / LAYOUTS["gz"][0]).write_bytes(b"not read")
    assert_holds(load_dataset(folder), small())


def test_a_folder_named_like_a_file_is_not_one(tmp_path: Path) -> None:  # Kaggle's layout
    (tmp_path / NAMES[0]).mkdir()
    assert_holds(load_dataset(write_folder(tmp_path, small(), LAYOUTS["dotted"])), small())


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_folder_of_floats(tmp_path: Path, dtype: str) -> None:  # row A14
    data = load_dataset(write_folder(tmp_path, small(dtype)))
    assert data.train_images.dtype == np.dtype(dtype)  # as they are: 0..255 in floats is not rescaled
    assert_holds(data, small(dtype))


def test_folder_of_short_integers_is_ambiguous(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small("i2"))
    refused(lambda: load_dataset(folder), folder / NAMES[0], "dtype int16", "uint8 pixels 0..255", "astype")


def test_folder_with_files_missing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small())
    (folder / NAMES[1]).unlink()
    message = refused(lambda: load_dataset(folder), folder, NAMES[0], "Add or rename")
    assert message.startswith("train labels missing: ")
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)
    refused(lambda: load_dataset(folder), folder, "train images, train labels, test images, test labels missing")
    refused(lambda: load_dataset(folder), folder, "found no IDX file", *NAMES)


@pytest.mark.parametrize("others", [LAYOUTS["dotted"], LAYOUTS["kmnist"]])
def test_folder_of_two_sets(tmp_path: Path, others: list[str]) -> None:
    folder = write_folder(write_folder(tmp_path, small()), small(), others)
    refused(lambda: load_dataset(folder), folder, NAMES[0], others[0].removesuffix(".gz"), "folder of its own")


def test_halves_of_two_sets_are_not_one(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, small(), [*LAYOUTS["kmnist"][:2], *NAMES[2:]])
    refused(lambda: load_dataset(folder), folder, "more than one data set", NAMES[2])


def test_images_and_labels_swapped(tmp_path: Path) -> None:  # row A1
    folder = write_folder(tmp_path, small(), [NAMES[1], NAMES[0], *NAMES[2:]])
    refused(lambda: load_dataset(folder), folder / NAMES[0], "0x00000801", "0x00000803", "swapped?")


def test_numbers_of_images_and_labels_differ(tmp_path: Path) -> None:  # rows A12, 83
    for part in ("train", "test"):
        arrays = small()
        arrays[f"{part}_labels"] = arrays[f"{part}_labels"][1:]
        folder = write_folder(tmp_path, arrays)
        n, offset = (12, 0) if part == "train" else (6, 2)
        found = f"{n - 1} labels, expected {n} as images in {folder / NAMES[offset]}"
        refused(lambda folder=folder: load_dataset(folder), folder / NAMES[offset + 1], found)  # type: ignore[misc]


def test_no_images(tmp_path: Path) -> None:  # row A8
    arrays = small()
    arrays["train_images"] = arrays["train_images"][:0]
    folder = write_folder(tmp_path, arrays)
    refused(lambda: load_dataset(folder), folder / NAMES[0], "no samples", "0 samples of 12 values")


def test_parts_of_different_shape_or_dtype() -> None:
    arrays = small()
    arrays["test_images"] = arrays["test_images"].transpose(0, 2, 1)
    refused(lambda: of(arrays), "test_images", "(4, 3) uint8", "(3, 4) uint8 as in train_images")
    arrays = small() | {"test_images": small("f4")["test_images"]}
    refused(lambda: of(arrays), "test_images", "float32", "uint8 as in train_images")


def test_a_damaged_label_does_not_widen_the_network(tmp_path: Path) -> None:  # row A13
    arrays = small() | {
        "train_images": np.zeros((3000, 3, 4), "u1"),
        "train_labels": (np.arange(3000) % 10).astype("u1"),
    }
    arrays["train_labels"][17] = 200
    folder = write_folder(tmp_path, arrays)
    refused(lambda: load_dataset(folder), folder / NAMES[1], "value 200 at index 17", "expected 0..9", "n_classes=201")
    refused(lambda: load_dataset(folder, n_classes=10), folder / NAMES[1], "value 200 at index 17", "0..9")
    assert load_dataset(folder, n_classes=201).n_classes == 201


def test_gaps_between_classes_are_allowed() -> None:
    arrays = small()
    arrays["train_labels"][:] = [3, 8] * 6
    assert of(arrays).n_classes == 9
    arrays["train_labels"][:] = 2  # one class only
    assert of(arrays).n_classes == 3


def test_a_test_label_beyond_the_training_classes(tmp_path: Path) -> None:
    arrays = small()
    arrays["test_labels"][4] = 3
    folder = write_folder(tmp_path, arrays)
    refused(lambda: load_dataset(folder), folder / NAMES[3], "value 3 at index 4", "0..2", "Repair the data")


# .npz files.


def as_keras(arrays: dict[str, Array]) -> dict[str, Array]:
    return dict(zip(numpy_files.KERAS_NAMES, arrays.values(), strict=True))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("rename", [as_keras, dict])
def test_npz(tmp_path: Path, save: Any, rename: Any) -> None:
    path = tmp_path / "digits.npz"
    save(path, extra=np.arange(3), **rename(small()))
    data = load_dataset(path)
    assert_holds(data, small())
    assert (data.name, data.n_classes, data.image_shape) == ("digits", 3, (3, 4))
    assert load_dataset(str(path)).n_features == 12


def test_npz_with_fortran_order_columns_and_flat_samples(tmp_path: Path) -> None:
    arrays = small("f4")
    stored = {role: np.asfortranarray(array.reshape(len(array), -1).astype(">f4" if array.ndim == 3 else "i8"))
              for role, array in arrays.items()}  # fmt: skip
    np.savez(tmp_path / "a.npz", **stored)
    data = load_dataset(tmp_path / "a.npz")
    assert_holds(data, arrays)
    assert data.image_shape == (12,)
    assert data.train_labels.dtype == np.uint8


def npz_with(tmp_path: Path, member: bytes, method: int = zipfile.ZIP_STORED, key: str = "x_train") -> Path:
    """An .npz of the small set with one member's bytes replaced."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in as_keras(small()).items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", member if name == key else buffer.getvalue())
    return path


def npy(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    ("member", "parts"),
    [
        (npy((10**12, 8), "<f8"), ["0 data bytes", "64000000000000 by its header"]),
        (npy((12, 3, 4), data=bytes(143)), ["143 data bytes", "144 by its header"]),
        (npy((12, 3, 4), data=bytes(145)), ["145 data bytes", "144 by its header"]),
        (npy((2,), "|O", bytes(16)), ["dtype object", "numbers"]),
        (npy((12, 3), "<c8", bytes(288)), ["dtype complex64", "uint8 pixels"]),
    ],
)
def test_npz_members_that_lie(tmp_path: Path, member: bytes, parts: list[str]) -> None:
    path = npz_with(tmp_path, member)
    tracemalloc.start()
    refused(lambda: load_dataset(path), f"{path}[x_train]", *parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MIB


@pytest.mark.parametrize(
    "member",
    [b"", b"\x93NUMPY", b"garbage" * 9, npy((-2, -3), data=bytes(6)), npy((0, 2**62, 2**62)),
     npy((2,)).replace(b"'descr'", b"'desce'"), b"\x93NUMPY\x09\x09" + npy((2,))[8:] + b"ab",
     npy((2,), data=b"ab").replace(b"(2,)", b"(2 ("), npy((2,), data=b"ab").replace(b"(2,)", b"(2L)")],
)  # fmt: skip
def test_npz_members_that_are_no_arrays(tmp_path: Path, member: bytes) -> None:
    path = npz_with(tmp_path, member)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "2L": additional header parsing was required
        with pytest.raises(DataError, match=r"a\.npz"):
            load_dataset(path)


def test_npz_bomb(tmp_path: Path) -> None:  # row A20
    path = npz_with(tmp_path, npy((256 * MIB,), data=bytes(256 * MIB)), zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    refused(lambda: load_dataset(path), path, "promises too much", str(path.stat().st_size), "uncompressed")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MIB


def test_npz_of_other_compression(tmp_path: Path) -> None:
    path = npz_with(tmp_path, npy((12, 3, 4), data=bytes(144)), zipfile.ZIP_LZMA)
    refused(lambda: load_dataset(path), f"{path}[x_train]", "method 14", "8 (deflated)", "numpy.savez")


@pytest.mark.parametrize("names", [["x_train.npy"], ["x_train"], ["extra.npy", "extra.npy"]])
def test_npz_with_a_member_that_is_there_twice(tmp_path: Path, names: list[str]) -> None:
    """NumPy takes the last one, other readers the first."""
    path = npz_with(tmp_path, npy((12, 3, 4), data=bytes(144)))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # of zipfile, of the same
        for name in names:
            archive.writestr(name, b"other")
    refused(lambda: load_dataset(path), path, "an array is there twice", names[0])


def test_npz_with_a_damaged_member_that_is_not_used(tmp_path: Path) -> None:
    path = npz_with(tmp_path, npy((12, 3, 4), data=bytes(144)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note", b"what this is")
    load_dataset(path)
    path.write_bytes(path.read_bytes().replace(b"what this", b"what thiz"))
    refused(lambda: load_dataset(path), path, "Bad CRC-32", "note")


def test_npz_with_arrays_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays = as_keras(small())
    del arrays["y_test"]
    np.savez(path, other=np.arange(2), **arrays)
    message = refused(lambda: load_dataset(path), path, "found other, x_train", "train_images", "Save")
    assert message.startswith("y_test missing: ")
    np.savez(path)
    refused(lambda: load_dataset(path), path, "found nothing")


def test_npz_that_holds_a_pickle_runs_nothing(tmp_path: Path) -> None:  # row 42
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(canary),)

    arrays = as_keras(small()) | {"x_train": np.array([Evil()], dtype=object)}
    np.savez(tmp_path / "a.npz", **arrays)
    refused(lambda: load_dataset(tmp_path / "a.npz"), f"{tmp_path / 'a.npz'}[x_train]", "dtype object")
    assert not canary.exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_cut_or_flipped_anywhere(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "a.npz"
    save(path, **as_keras(small()))
    good = path.read_bytes()
    for cut in range(0, len(good) - 1, 7):
        path.write_bytes(good[:cut])
        refused(lambda: load_dataset(path), path, "not a valid .npz file", "numpy.savez")
    refusals = []
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1 :])
        try:
            data = load_dataset(path)
        except DataError as error:
            refusals.append(str(error))
        else:
            assert_holds(data, small())  # the flip hit a time stamp or the like
    assert all(str(path) in message for message in refusals)
    assert len(refusals) > len(good) // 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_npz_bytes_are_refused(tmp_path: Path, data: bytes, zipped: bool) -> None:
    path = tmp_path / "a.npz"
    if zipped:
        npz_with(tmp_path, data)
    else:
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz"):
        load_dataset(path)


@pytest.mark.timeout(20)
def test_sources_that_are_none(tmp_path: Path) -> None:
    for name in ("minst", "", "fashion", "no/such/path", "a\0b", "x" * 5000):
        parts = ["neither a known name nor a path", "'mnist', a folder, an .npz file or a table", "spelling"]
        refused(lambda name=name: load_dataset(name), repr(name), *parts)  # type: ignore[misc]
    one = write_folder(tmp_path, small()) / NAMES[0]
    refused(lambda: load_dataset(one), one, "not a valid .npz file", "a folder of IDX files")
    refused(lambda: load_dataset("/dev/zero"), "/dev/zero", "not a regular file")
    os.mkfifo(tmp_path / "fifo")
    refused(lambda: load_dataset(tmp_path / "fifo"), tmp_path / "fifo", "not a regular file")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    refused(lambda: load_dataset(tmp_path), tmp_path, "Permission denied", "a readable folder")


# Images.

X = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)


def spoiled(value: float, dtype: str = "f4") -> Array:
    array = X.astype(dtype)
    array[2, 1] = array[3, 0] = value
    return array


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (spoiled(np.nan), ["NaN or infinite", "value nan at index (2, 1) (2 in all)", "finite"]),  # 78
        (spoiled(np.inf), ["NaN or infinite", "value inf at index (2, 1)"]),
        (spoiled(-np.inf, "f8"), ["NaN or infinite", "value -inf at index (2, 1)"]),
        (spoiled(1e300, "f8"), ["beyond float32", "value 1e+300 at index (2, 1) (2 in all)", "3.403e+38"]),  # 79
        (spoiled(-3.5e38, "f8"), ["beyond float32", "value -3.5e+38"]),
        (X.astype(object), ["dtype object", "uint8 pixels 0..255, or float32 or float64", "astype"]),  # 80
        (X.astype(complex), ["dtype complex128"]),
        (X.astype(str), ["dtype <U"]),
        (X > 0.5, ["dtype bool"]),
        (X.astype("i8"), ["dtype int64"]),
        (X.astype("i1"), ["dtype int8"]),
        (X.astype("u2"), ["dtype uint16"]),
        (X.astype("f2"), ["dtype float16"]),
        (X.astype(np.longdouble), ["dtype "]),
        (np.zeros(4, "M8[s]"), ["dtype datetime64[s]"]),
        (np.zeros(4, "u1,f4"), ["dtype [("]),
        ([[1, 2], [3, 4]], ["dtype int64"]),
        ([[1.0, 2.0], [3.0]], ["not a NumPy array", "builtins.list", "Convert"]),
        (np.ma.masked_array(X, X > 0.5), ["MaskedArray", "mask would be lost"]),
        (None, ["dtype object"]),
        ("mnist", ["dtype <U5"]),
        (X[0], ["1-D, shape (6,)", "X[None, :]"]),  # 81
        (X[0, 0], ["0-D, shape ()"]),
        (X.reshape(1, 2, 3, 4), ["4-D, shape (1, 2, 3, 4)", "one channel"]),
        (X.reshape(1, 1, 2, 3, 4), ["5-D"]),
        (X[:0], ["0 samples of 6 values"]),  # 83
        (X[:, :0], ["4 samples of 0 values"]),
    ],
)
def test_image_faults(images: Any, parts: list[str]) -> None:
    refused(lambda: check_images(images, "X"), "X", *parts)


def test_arrays_of_a_device_are_refused_not_copied() -> None:
    class DeviceArray:
        def __array__(self, dtype: object = None, copy: object = None) -> Array:
            raise TypeError("Implicit conversion to a NumPy array is not allowed")

    refused(lambda: check_images(DeviceArray(), "X"), "X", "DeviceArray", "Implicit conversion", "Convert")
    refused(lambda: check_labels(DeviceArray(), "y"), "y", "DeviceArray", "Implicit conversion", "Convert")


def test_wrong_number_of_features() -> None:  # row 81
    with pytest.raises(DataError) as caught:
        check_images(np.zeros((2, 783), np.uint8), "X", 784)
    assert str(caught.value).startswith("X has 783 features, model expects 784. Give ")
    assert check_images(np.zeros((2, 784), np.uint8), "X", 784).shape == (2, 784)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_image_shapes(dtype: str) -> None:
    array = np.arange(24, dtype=dtype)
    for shape in [(1, 24), (24, 1), (2, 3, 4), (2, 1, 3, 4), (2, 3, 4, 1), (2, 1, 12, 1), (1, 1, 24)]:
        result = check_images(array.reshape(shape), "X")
        assert result.shape == (shape[0], 24 // shape[0])
        assert result.dtype == np.dtype(dtype)
        assert result.ravel().tolist() == array.tolist()
    arrays = small(dtype) | {r: small(dtype)[r][:, None] for r in ("train_images", "test_images")}
    assert of(arrays).image_shape == (3, 4)
    arrays = small(dtype) | {r: small(dtype)[r][..., None] for r in ("train_images", "test_images")}
    assert of(arrays).image_shape == (3, 4)


def test_sound_images_are_not_copied_and_not_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((3, 4), np.uint8)
    monkeypatch.setattr(np, "isfinite", None)
    assert np.shares_memory(check_images(array, "X"), array)


def test_float_lists_and_whole_floats_are_taken_as_they_are() -> None:
    assert check_images([[0.5, 1.5]], "X").dtype == np.float64
    raw = np.array([[0.0, 255.0]], np.float32)
    np.testing.assert_array_equal(check_images(raw, "X"), raw)


def layouts(array: Array) -> dict[str, Array]:
    """The same values in every memory layout of NumPy."""
    strided = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    strided[..., ::2] = array
    raw = np.frombuffer(b"x" + array.tobytes(), np.uint8)
    read_only = array.copy()
    read_only.flags.writeable = False
    return {
        "contiguous": array.copy(),
        "fortran": np.asfortranarray(array),
        "strided": strided[..., ::2],
        "reversed": array[::-1].copy()[::-1],
        "read-only": read_only,
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
        "misaligned": raw[1:].view(array.dtype).reshape(array.shape),
        "subclass": array.copy().view(type("Sub", (np.ndarray,), {})),
    }


def assert_checked(result: Array, expected: Array, layout: Array, before: bytes) -> None:
    np.testing.assert_array_equal(result, expected)
    assert type(result) is np.ndarray
    assert result.dtype == expected.dtype
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    assert result.flags.aligned
    assert layout.tobytes() == before


@settings(deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "f4", "f8"]).map(np.dtype),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
        elements={"min_value": 0, "max_value": 200},
    )
)
def test_any_layout_of_images(array: Array) -> None:
    for layout in layouts(array).values():
        before = layout.tobytes()
        assert_checked(check_images(layout, "X"), array.reshape(len(array), -1), layout, before)


def test_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    result = check_images(np.load(tmp_path / "a.npy", mmap_mode="r"), "X")
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, X)


# Labels.


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (np.array([0, 1, -1, -2]), ["value -1 at index 2 (2 in all)", "expected 0..9", "Repair"]),  # 84
        (np.array([0, 1, 9, 10], "u1"), ["value 10 at index 3 (1 in all)", "expected 0..9"]),
        (np.array([0, 2**64 - 1], "u8"), [f"value {2**64 - 1} at index 1"]),
        (np.array([0, 1.5, 2]), ["not a whole number", "value 1.5 at index 1"]),
        (np.array([0, np.nan]), ["not a whole number", "value nan at index 1"]),
        (np.array([0, np.inf]), ["value inf at index 1", "expected 0..9"]),
        (np.array([0, 1e300]), ["value 1e+300 at index 1", "expected 0..9"]),
        (np.array([True, False]), ["dtype bool", "integers, one per sample", "Number the classes"]),
        (np.array(["5", "0"]), ["dtype <U1"]),
        (np.array([1, None]), ["dtype object"]),
        (np.array([1j]), ["dtype complex128"]),
        (np.eye(3, dtype="u1"), ["shape (3, 3)", "One-hot", "argmax"]),
        (np.zeros((3, 1), "u1"), ["shape (3, 1)", "A column? Use labels.ravel()"]),
        (np.uint8(3), ["shape ()"]),
        (np.array([], "u1"), ["0 labels", "at least 1"]),  # 83
        ([[1], [1, 2]], ["builtins.list", "Convert"]),
    ],
)
def test_label_faults(labels: Any, parts: list[str]) -> None:
    refused(lambda: check_labels(labels, "y", 10), "y", *parts)


def test_label_count() -> None:  # row 83
    refused(lambda: check_labels([1, 2], "y", 10, 3), "y", "2 labels", "expected 3, one per sample")
    assert check_labels([1, 2, 3], "y", 10, 3).tolist() == [1, 2, 3]


def test_labels_without_a_known_number_of_classes() -> None:
    refused(lambda: check_labels([3, -1], "y"), "y", "value -1 at index 1", "0 or more")
    refused(lambda: check_labels([3, 2**31 - 1], "y"), "y", "value 2147483647 at index 1")
    assert check_labels([255], "y").dtype == np.uint8
    assert check_labels([256], "y").dtype == np.int32


@pytest.mark.parametrize("n_classes", [2, 256, 257, 70000])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i4", "i8", "u8", "f4", "f8"])
def test_labels_take_the_smallest_common_form(n_classes: int, kind: str) -> None:
    top = min(n_classes - 1, 127 if kind == "i1" else 255 if kind == "u1" else 65535 if kind == "u2" else n_classes)
    labels = np.array([0, 1, top], kind)
    result = check_labels(labels, "y", n_classes)
    assert result.dtype == (np.uint8 if n_classes <= 256 else np.int32)
    assert result.tolist() == [0, 1, top]


@settings(deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "i1", "u2", "i4", "i8", "f4", "f8"]).map(np.dtype),
        st.integers(1, 9),
        elements={"min_value": 0, "max_value": 100},
    ).map(np.floor)
)
def test_any_layout_of_labels(array: Array) -> None:
    for layout in layouts(array).values():
        before = layout.tobytes()
        assert_checked(check_labels(layout, "y", 101), array.astype(np.uint8), layout, before)


# Splits.


def test_split(mnist: Dataset) -> None:
    rest, images, labels = mnist.split(5000, seed=3)
    assert (len(rest.train_labels), rest.train_images.shape, images.shape) == (55000, (55000, 784), (5000, 784))
    assert labels.shape == (5000,)
    assert rest.test_images is mnist.test_images
    assert (rest.n_classes, rest.image_shape, rest.name) == (10, (28, 28), "mnist")
    # Nothing lost, nothing twice.
    both = np.bincount(rest.train_labels, minlength=10) + np.bincount(labels, minlength=10)
    assert both.tolist() == np.bincount(mnist.train_labels).tolist()
    assert min(np.bincount(labels)) > 400  # random, not one end of the file
    again = mnist.split(5000, seed=3)
    np.testing.assert_array_equal(again[1], images)
    assert (mnist.split(5000, seed=4)[1] != images).any()


def test_split_keeps_images_with_their_labels() -> None:
    n = np.arange(200)
    data = Dataset.from_arrays(n[:, None].astype("u1"), n, n[:1, None].astype("u1"), n[:1])
    rest, images, labels = data.split(0.25, seed=0)
    assert len(labels) == 50
    np.testing.assert_array_equal(images[:, 0], labels)
    np.testing.assert_array_equal(rest.train_images[:, 0], rest.train_labels)
    assert sorted([*labels, *rest.train_labels]) == list(range(200))
    assert np.all(np.diff(rest.train_labels.astype(int)) > 0)  # the order of the file is kept


@pytest.mark.parametrize("val_size", [0, -1, 12, 13, 0.0, 1.0, -0.5, 1.5, 0.01, 0.99, np.nan, True, None, "0.1"])
def test_split_refuses(val_size: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        of(small()).split(val_size, seed=0)
    message = str(caught.value)
    assert f": val_size: found {val_size!r}, expected a count in 1..11, or a fraction in (0, 1)" in message
    assert message.endswith("Change val_size.")


@pytest.mark.parametrize("val_size", [1, 11, np.int64(3), np.float32(0.5), 0.1, 0.9])
def test_split_accepts(val_size: Any) -> None:
    data = of(small())
    rest, images, labels = data.split(val_size, seed=0)
    assert len(images) == len(labels) == 12 - len(rest.train_labels) > 0


def test_a_data_set_is_frozen() -> None:
    data = of(small())
    with pytest.raises(AttributeError):
        data.n_classes = 4  # type: ignore[misc]
    assert data.name == "arrays"


# --- does a network fit? ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "exact"), [((11, 3), False), ((12, 2), False), ((12, 5, 4), True)])
def test_a_network_that_does_not_fit_is_refused(layers: tuple[int, ...], exact: bool) -> None:
    found, data = ",".join(map(str, layers)), of(small())
    line = (
        rf"^the network does not fit the data: layers: found {found} .*, expected 12 inputs and 3 outputs for arrays$"
    )
    with pytest.raises(ConfigError, match=line):
        check_fit(layers, data, exact=exact)
    with pytest.raises(ModelError, match=rf": m\.st: found {found} \({layers[0]} inputs and {layers[-1]} .*\. Try\.$"):
        check_fit(layers, data, error=ModelError, where="m.st", remedy="Try.", exact=exact)


def test_a_network_needs_the_inputs_and_at_least_the_classes() -> None:
    check_fit((12, 5, 3), of(small()), exact=True)
    check_fit((12, 4), of(small()))
