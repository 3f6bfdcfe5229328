"""Data sets on the host, checked before they are uploaded.

Kernels do not check: CuPy silently wraps an index that is out of range.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, TwoStrokeError
from ..files.idx import CHUNK, parse_idx, read_bytes, read_idx
from ..files.regular_file import absolute, check_size, open_regular
from ..randomness import generator

ROLES = ("train_images", "train_labels", "test_images", "test_labels")
KERAS_NAMES = ("x_train", "y_train", "x_test", "y_test")
# SHA-256 of the uncompressed canonical files: mnist/README.md.
MNIST_DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MNIST_FOLDER = Path(__file__).parent / "mnist"
_IDX_NAME = re.compile(
    r"(?P<set>.+-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx\d-[a-z]+(?P<packed>\.gz|\.xz)?"
)
_PIXELS = "uint8 pixels 0..255, or float32 or float64 already scaled"
_CLASSES = "integers, one per sample"
_ROWS = "(n, features), (n, height, width), or the latter with one channel"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a test part: arrays that passed :func:`check_images` and :func:`check_labels`.

    ``train_images`` and ``test_images`` are (N, D) uint8 pixels, or float32 or float64 already scaled; ``train_labels``
    and ``test_labels`` (N,) are 0..``n_classes`` - 1. ``image_shape`` is the shape of one sample before flattening, and
    ``name`` the set's name in output.

    Use ``from_arrays`` to build one: it raises ``DataError``; the constructor checks nothing.
    """

    train_images: NDArray[Any]  # (N, D) uint8 raw pixels, or float32 / float64 already scaled
    train_labels: NDArray[Any]  # (N,) uint8, or int32 beyond 256 classes
    test_images: NDArray[Any]
    test_labels: NDArray[Any]
    n_classes: int
    image_shape: tuple[int, ...]  # (28, 28); (D,) where the source held flat samples
    name: str

    @property
    def n_features(self) -> int:
        """D, the number of values per sample."""
        return int(self.train_images.shape[1])

    @classmethod
    def from_arrays(
        cls,
        train_images: object,
        train_labels: object,
        test_images: object,
        test_labels: object,
        *,
        n_classes: int | None = None,
        name: str = "arrays",
        where: Mapping[str, str] | None = None,
    ) -> Dataset:
        """Check arrays and make a Dataset of them; images (N, D), (N, H, W), (N, H, W, 1) or (N, 1, H, W).

        ``n_classes`` defaults to the largest training label plus one; ``where`` names each array in errors.
        Raises DataError if an array is invalid or two arrays disagree.
        """
        at = {role: role for role in ROLES} | dict(where or {})
        train, shape = _images(train_images, at["train_images"])
        test, test_shape = _images(test_images, at["test_images"])
        if (shape, train.dtype) != (test_shape, test.dtype):
            found, expected = f"{test_shape} {test.dtype}", f"{shape} {train.dtype} as in {at['train_images']}"
            remedy = "Prepare both parts in the same way."
            raise _bad("training and test images differ", at["test_images"], found, expected, remedy)
        labels = check_labels(train_labels, at["train_labels"], n_classes)
        n_classes = n_classes or _count_classes(labels, at["train_labels"])
        tested = check_labels(test_labels, at["test_labels"], n_classes)
        for part, x, y in (("train", train, labels), ("test", test, tested)):
            if len(x) != len(y):
                found, expected = f"{len(y)} labels", f"{len(x)} as images in {at[f'{part}_images']}"
                what = "images and labels differ in number"
                raise _bad(what, at[f"{part}_labels"], found, expected, "Do both belong together?")
        return cls(train, labels, test, tested, n_classes, shape, name)

    def split(self, val_size: int | float, seed: int) -> tuple[Dataset, NDArray[Any], NDArray[Any]]:
        """Hold out random training samples; return the remaining set, the held-out images and their labels.

        ``val_size`` is a count, or a fraction in (0, 1) as a float. Both parts keep the order of the samples.
        Raises ConfigError if a part would be empty.
        """
        n = len(self.train_labels)
        whole = isinstance(val_size, (int, np.integer)) and not isinstance(val_size, bool)
        fraction = isinstance(val_size, (float, np.floating)) and 0 < val_size < 1
        count = int(val_size) if whole else round(val_size * n) if fraction else 0
        if not 0 < count < n:
            expected = f"a count in 1..{n - 1}, or a fraction in (0, 1) that leaves samples in both parts"
            what, remedy = "the training part cannot be split", "Change val_size."
            raise ConfigError(what, where="val_size", found=repr(val_size), expected=expected, remedy=remedy)
        order = generator(seed, "split").permutation(n)
        held, kept = np.sort(order[:count]), np.sort(order[count:])
        rest = replace(self, train_images=self.train_images[kept], train_labels=self.train_labels[kept])
        return rest, self.train_images[held], self.train_labels[held]


def load_dataset(source: str | os.PathLike[str] = "mnist", *, n_classes: int | None = None) -> Dataset:
    """The data set ``source``: the bundled ``"mnist"``, a folder of IDX files with the usual names, or an .npz file.

    An .npz holds x_train, y_train, x_test, y_test (as in Keras) or train_images, train_labels, test_images,
    test_labels. Pass ``n_classes`` if some classes have no training sample. Raises DataError.
    """
    if source == "mnist":
        return _load_mnist()
    path = Path(absolute(source))
    if not os.fspath(source) or not os.path.exists(path):
        found, expected = "neither a known name nor a path", "'mnist', a folder of IDX files, or an .npz file"
        raise _bad("no such data set", repr(os.fspath(source)), found, expected, "Check the spelling.")
    arrays, where = _read_folder(path) if path.is_dir() else _read_npz(path)
    return Dataset.from_arrays(*arrays, n_classes=n_classes, name=path.stem, where=where)


def check_images(images: object, where: str, n_features: int | None = None) -> NDArray[Any]:
    """Check images; return a C-contiguous, aligned (N, D) array of native uint8, float32 or float64; N and D > 0.

    Accepts (N, D), (N, H, W) and (N, H, W) with one channel: NumPy arrays, and whatever exports ``__array__`` or
    ``__dlpack__``, such as a PyTorch tensor on the CPU. The input is never modified; the result shares its memory if
    possible. Raises DataError for NaN, infinity, values beyond float32, and any other dtype, shape or D.
    """
    flat, _ = _images(images, where)
    if n_features not in (None, flat.shape[1]):
        what = f"{where} has {flat.shape[1]} features, model expects {n_features}"
        raise DataError(what, remedy="Give samples shaped like those the model was trained on.")
    return flat


def check_labels(
    labels: object, where: str, n_classes: int | None = None, n_samples: int | None = None
) -> NDArray[Any]:
    """Check labels; return a C-contiguous (N,) array in 0..n_classes-1: uint8, or int32 beyond 256 classes.

    Accepts integers, and floats with integer values. Raises DataError with the first invalid value and its index.
    """
    array = _as_array(labels, where, _CLASSES)
    if array.dtype.kind not in "uif":
        remedy = "Number the classes from 0."
        raise _bad("labels of the wrong type", where, f"dtype {array.dtype}", _CLASSES, remedy)
    if array.ndim != 1:
        remedy = "One-hot labels? Use labels.argmax(axis=1). A column? Use labels.ravel()."
        raise _bad("labels are not 1-D", where, f"shape {array.shape}", _CLASSES, remedy)
    if array.size == 0:
        raise _bad("no labels", where, "0 labels", "at least 1")
    if n_samples not in (None, len(array)):
        what, expected = "labels and samples differ in number", f"{n_samples}, one per sample"
        raise _bad(what, where, f"{len(array)} labels", expected, "Give one label per sample.")
    if array.dtype.kind == "f":
        _refuse(array, array != np.trunc(array), where, "a label is not a whole number", "whole numbers")
    top = 2**31 - 2 if n_classes is None else n_classes - 1
    if not 0 <= array.min() <= array.max() <= top:
        allowed = "0 or more" if n_classes is None else f"0..{top}"
        _refuse(array, (array < 0) | (array > top), where, "a label is out of range", allowed)
    small = (int(array.max()) if n_classes is None else top) < 256
    return np.require(array, np.uint8 if small else np.int32, ["C", "A"])


def check_fit(
    layers: Sequence[int],
    data: Dataset,
    *,
    error: type[TwoStrokeError] = ConfigError,
    where: object = "layers",
    remedy: str | None = None,
    exact: bool = False,
) -> None:
    """Raise ``error`` unless the network has D inputs and an output for each class; ``exact``: no more outputs."""
    spare = layers[-1] - data.n_classes
    if layers[0] != data.n_features or spare < 0 or (exact and spare):
        found = f"{','.join(map(str, layers))} ({layers[0]} inputs and {layers[-1]} outputs)"
        expected = f"{data.n_features} inputs and {data.n_classes} outputs for {data.name}"
        raise error("the network does not fit the data", where=where, found=found, expected=expected, remedy=remedy)


def _images(images: object, where: str) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Check images; return the (N, D) array and the shape of one image."""
    array = _as_array(images, where, _PIXELS)
    if array.dtype.kind + str(array.dtype.itemsize) not in ("u1", "f4", "f8"):
        remedy = "Use .astype('uint8') on raw pixels, or scale them and use .astype('float32')."
        raise _bad("values of the wrong type", where, f"dtype {array.dtype}", _PIXELS, remedy)
    shape = array.shape[1:]
    if array.ndim == 4 and 1 in (shape[0], shape[2]):
        shape = shape[:2] if shape[2] == 1 else shape[1:]
    if len(shape) not in (1, 2):
        remedy = "One row per sample: X.reshape(n, -1), or X[None, :] for a single sample."
        raise _bad("not an array of samples", where, f"{array.ndim}-D, shape {array.shape}", _ROWS, remedy)
    if array.size == 0:
        raise _bad("no samples", where, f"{len(array)} samples of {math.prod(shape)} values", "at least 1 of each")
    if array.dtype.kind == "f":
        # Minimum and maximum reveal NaN and infinity without a mask as large as the data.
        with np.errstate(invalid="ignore"):
            low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            _refuse(array, ~np.isfinite(array), where, "NaN or infinite values", "finite values")
        limit = float(np.finfo(np.float32).max)
        if not -limit <= low <= high <= limit:
            _refuse(array, np.abs(array) > limit, where, "values beyond float32", f"at most {limit:.4g}")
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    return array.reshape(len(array), -1), shape


def _bad(what: str, where: str, found: str, expected: str, remedy: str = "Check the data.") -> DataError:
    return DataError(what, where=where, found=found, expected=expected, remedy=remedy)


def _as_array(value: object, where: str, accepted: str) -> NDArray[Any]:
    try:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError("its mask would be lost")
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:  # ragged lists; arrays on a device
        found = f"{type(value).__module__}.{type(value).__qualname__} ({error})"
        raise _bad("not a NumPy array", where, found, accepted, "Convert it to a NumPy array.") from error


def _refuse(array: NDArray[Any], bad: NDArray[np.bool_], where: str, what: str, expected: str) -> None:
    """If a value is bad, raise DataError with the first one, its index and their number."""
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        at = index[0] if len(index) == 1 else index
        found = f"value {array[index]} at index {at} ({np.count_nonzero(bad)} in all)"
        raise _bad(what, where, found, expected, "Repair the data.")


def _count_classes(labels: NDArray[Any], where: str) -> int:
    values, counts = np.unique(labels, return_counts=True)
    # A rare label above a gap is taken for a damaged byte, which would silently widen the network.
    if len(values) > 1 and values[-1] > values[-2] + 1 and 50 * counts[-1] < counts.mean():
        found = f"value {values[-1]} at index {int(labels.argmax())} ({counts[-1]} in all)"
        remedy = f"Repair the data, or pass n_classes={int(values[-1]) + 1} if it is right."
        raise _bad("a label is out of range", where, found, f"0..{values[-2]} like all others", remedy)
    return int(values[-1]) + 1


def _load_mnist() -> Dataset:
    arrays, where = [], {}
    for role, (name, digest) in zip(ROLES, MNIST_DIGESTS.items(), strict=True):
        path = _MNIST_FOLDER / f"{name}.gz"
        where[role] = absolute(path)
        data = bytearray()
        try:
            data = read_bytes(path)
            found = f"SHA-256 {hashlib.sha256(data).hexdigest()}"
        except DataError as error:
            found = str(error)
        if found != f"SHA-256 {digest}":
            expected, remedy = f"SHA-256 {digest}", "Reinstall twostroke."
            raise _bad("the bundled MNIST is damaged", where[role], found, expected, remedy)
        arrays.append(parse_idx(data, where[role]))
    return Dataset.from_arrays(*arrays, n_classes=10, name="mnist", where=where)


def _read_folder(folder: Path) -> tuple[list[NDArray[Any]], dict[str, str]]:
    found: dict[str, dict[str, Path]] = {role: {} for role in ROLES}
    sets = set()
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise _bad("cannot read the folder", str(folder), str(error.strerror), "a readable folder") from error
    for path in paths:
        match = _IDX_NAME.fullmatch(path.name)
        if match and not path.is_dir():
            role = f"{'train' if match['part'] == 'train' else 'test'}_{match['kind']}"
            # A plain file sorts before its .gz and .xz and is used instead of them (torchvision keeps both).
            found[role].setdefault(path.name.removesuffix(match["packed"] or ""), path)
            sets.add(match["set"])
    names = ", ".join(name for files in found.values() for name in files) or "no IDX file"
    if missing := [role.replace("_", " ") for role in ROLES if not found[role]]:
        expected = f"{', '.join(MNIST_DIGESTS)}, each plain, .gz or .xz"
        raise _bad(f"{', '.join(missing)} missing", str(folder), names, expected, "Add or rename the files.")
    if len(sets) > 1 or any(len(files) > 1 for files in found.values()):
        remedy = "Keep each set in a folder of its own."
        raise _bad("more than one data set", str(folder), names, "one file of each kind", remedy)
    chosen = {role: next(iter(files.values())) for role, files in found.items()}
    arrays = [read_idx(path, 3 if role.endswith("images") else 1) for role, path in chosen.items()]
    return arrays, {role: str(path) for role, path in chosen.items()}


def _read_npz(path: Path) -> tuple[list[NDArray[Any]], dict[str, str]]:
    at, arrays, where = str(path), [], {}
    with open_regular(path) as file:
        try:
            stored = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if len(infos) < len(archive.infolist()):
                    twice = ", ".join(sorted(info.filename for info in archive.infolist())[:9])
                    raise _bad("an array is there twice", at, twice, "different names", "Save it again.")
                keys = ROLES if infos.keys() >= set(ROLES) else KERAS_NAMES
                if missing := [key for key in keys if key not in infos]:
                    expected = f"{', '.join(KERAS_NAMES)}, or {', '.join(ROLES)}"
                    what, names = f"{', '.join(missing)} missing", ", ".join([*infos][:9]) or "nothing"
                    raise _bad(what, at, names, expected, "Save the arrays under these names.")
                check_size(sum(info.file_size for info in infos.values()), stored, at)
                for role, key in zip(ROLES, keys, strict=True):
                    where[role] = f"{at}[{key}]"
                    array = _read_member(archive, infos[key], where[role])
                    # MedMNIST keeps its labels in a column.
                    column = role.endswith("labels") and array.shape[1:] == (1,)
                    arrays.append(array[:, 0] if column else array)
                for name in sorted(infos.keys() - set(keys)):  # not used, and not damaged either: zipfile compares sums
                    with _open_member(archive, infos[name], f"{at}[{name}]") as member:
                        while member.read(CHUNK):
                            pass
        except TwoStrokeError:
            raise
        except Exception as error:  # zipfile and numpy.lib.format raise a dozen types for a damaged file
            found, expected = f"{type(error).__name__}: {error}", "an .npz file, or a folder of IDX files"
            raise _bad("not a valid .npz file", at, found, expected, "Save it again with numpy.savez.") from error
    return arrays, where


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> IO[bytes]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may need GiB to unpack
        found, expected = f"method {info.compress_type}", "0 (stored) or 8 (deflated)"
        raise _bad("unsupported compression", where, found, expected, "Save it again with numpy.savez.")
    return archive.open(info)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    """Read one array. NumPy allocates what its header claims, so the header is checked first."""
    with _open_member(archive, info, where) as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(member)
        promised, present = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
    if dtype.hasobject:
        raise _bad("values of the wrong type", where, f"dtype {dtype}", "numbers", "Save plain numbers.")
    if promised != present:
        found, expected = f"{present} data bytes", f"{promised} by its header"
        raise _bad("the data is truncated or padded", where, found, expected, "Save it again with numpy.savez.")
    with archive.open(info) as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
