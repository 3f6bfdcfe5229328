"""Checks of samples and labels, before kernels see them: CuPy silently wraps an index that is out of range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

_PIXELS = "uint8 pixels 0..255, or float32 or float64 already scaled"
_CLASSES = "integers, one per sample"
LARGEST = float(np.finfo(np.float32).max)
_NUMBERS = "Numbers to be predicted? Use task='regression' (--task regression)."
_ROWS = "(n, features), (n, height, width), or the latter with one channel"

Largest: TypeAlias = Callable[[NDArray[Any]], float]


def check_images(
    images: object, where: str, n_features: int | None = None, largest: Largest | None = None
) -> NDArray[Any]:
    """Check images; return a C-contiguous, aligned (N, D) array of native uint8, float32 or float64; N and D > 0.

    Accepts (N, D), (N, H, W) and (N, H, W) with one channel: NumPy arrays, and whatever exports ``__array__`` or
    ``__dlpack__``, such as a PyTorch tensor on the CPU. The input is never modified; the result shares its memory if
    possible. ``largest`` finds the largest magnitude in place of ``largest_magnitude``, if something is quicker. Raises
    DataError for NaN, infinity, values beyond float32, and any other dtype, shape or D.
    """
    flat, _ = images_and_shape(images, where, largest)
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
        raise bad("labels of the wrong type", where, f"dtype {array.dtype}", _CLASSES, remedy)
    if array.ndim != 1:
        remedy = f"One-hot labels? Use labels.argmax(axis=1). A column? Use labels.ravel(). {_NUMBERS}"
        raise bad("labels are not 1-D", where, f"shape {array.shape}", _CLASSES, remedy)
    if array.size == 0:
        raise bad("no labels", where, "0 labels", "at least 1")
    if n_samples not in (None, len(array)):
        what, expected = "labels and samples differ in number", f"{n_samples}, one per sample"
        raise bad(what, where, f"{len(array)} labels", expected, "Give one label per sample.")
    if array.dtype.kind == "f":
        _refuse(array, array != np.trunc(array), where, "a label is not a whole number", "whole numbers", _NUMBERS)
    top = 2**31 - 2 if n_classes is None else n_classes - 1
    if not 0 <= array.min() <= array.max() <= top:
        allowed = "0 or more" if n_classes is None else f"0..{top}"
        _refuse(array, (array < 0) | (array > top), where, "a label is out of range", allowed)
    small = (int(array.max()) if n_classes is None else top) < 256
    return np.require(array, np.uint8 if small else np.int32, ["C", "A"])


def check_targets(
    targets: object, where: str, n_targets: int | None = None, n_samples: int | None = None
) -> NDArray[np.float64]:
    """Check the targets of a regression; return a C-contiguous float64 array (N, K). (N,) becomes (N, 1).

    Raises DataError for text, NaN, infinity, values beyond float32, and another shape.
    """
    expected = "numbers, (n,) or (n, targets)"
    array = _as_array(targets, where, expected)
    if array.dtype.kind not in "uif":
        remedy = "Names of classes? Leave task='regression' (--task regression) out."
        raise bad("targets of the wrong type", where, f"dtype {array.dtype}", expected, remedy)
    rows = array[:, None] if array.ndim == 1 else array
    if rows.ndim != 2 or not rows.size:
        raise bad("not the targets of samples", where, f"shape {array.shape}", expected)
    for found, due, unit in ((len(rows), n_samples, "samples"), (rows.shape[1], n_targets, "targets")):
        if due not in (None, found):
            raise bad(f"wrong number of {unit}", where, f"shape {array.shape}", f"{due} {unit}")
    wrong = ~(np.abs(rows.astype(np.float64)) <= LARGEST)
    _refuse(rows, wrong, where, "NaN or infinite targets", f"at most {LARGEST:.4g}")
    return np.require(rows, np.float64, ["C", "A"])


def check_weights(weights: object, where: str, n_samples: int) -> NDArray[np.float64]:
    """Check the weights of ``n_samples`` samples: a float64 array (N,), >= 0, one above 0. Raises DataError."""
    expected = f"{n_samples} numbers >= 0, one per sample"
    array = _as_array(weights, where, expected)
    if array.dtype.kind not in "uif":
        raise bad("weights of the wrong type", where, f"dtype {array.dtype}", expected)
    if array.shape != (n_samples,):
        raise bad("wrong number of weights", where, f"shape {array.shape}", expected, "Give one weight per sample.")
    wrong = ~((array >= 0) & (array < 1e38))
    _refuse(array, wrong, where, "a weight is negative, infinite or NaN", "finite numbers >= 0")
    if not array.any():
        raise bad("all weights are zero", where, f"{n_samples} zeros", "one weight above 0")
    return np.require(array, np.float64, ["C", "A"])


def images_and_shape(
    images: object, where: str, largest: Largest | None = None
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Check images; return the (N, D) array and the shape of one image."""
    array = _as_array(images, where, _PIXELS)
    if array.dtype.char not in "Bfd":
        remedy = "Use .astype('uint8') on raw pixels, or scale them and use .astype('float32')."
        raise bad("values of the wrong type", where, f"dtype {array.dtype}", _PIXELS, remedy)
    shape = array.shape[1:]
    if array.ndim == 4 and 1 in (shape[0], shape[2]):
        shape = shape[:2] if shape[2] == 1 else shape[1:]
    if len(shape) not in (1, 2):
        remedy = "One row per sample: X.reshape(n, -1), or X[None, :] for a single sample."
        raise bad("not an array of samples", where, f"{array.ndim}-D, shape {array.shape}", _ROWS, remedy)
    if array.size == 0:
        raise bad("no samples", where, f"{len(array)} samples of {math.prod(shape)} values", "at least 1 of each")
    if not (array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative):
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    if array.dtype.kind == "f" and not (largest or largest_magnitude)(array) <= LARGEST:
        _refuse(array, ~np.isfinite(array), where, "NaN or infinite values", "finite values")
        _refuse(array, np.abs(array) > LARGEST, where, "values beyond float32", f"at most {LARGEST:.4g}")
    return array if array.ndim == 2 else array.reshape(len(array), -1), shape


def largest_magnitude(array: NDArray[Any]) -> float:
    """The largest magnitude in an array of floats, NaN if one is NaN; without a mask as large as the data."""
    with np.errstate(invalid="ignore"):
        return float(max(-array.min(), array.max()))


def bad(what: str, where: str, found: str, expected: str, remedy: str = "Check the data.") -> DataError:
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
        raise bad("not a NumPy array", where, found, accepted, "Convert it to a NumPy array.") from error


def _refuse(
    array: NDArray[Any],
    wrong: NDArray[np.bool_],
    where: str,
    what: str,
    expected: str,
    remedy: str = "Repair the data.",
) -> None:
    """If a value is bad, raise DataError with the first one, its index and their number."""
    if wrong.any():
        index = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        at = index[0] if len(index) == 1 else index
        found = f"value {array[index]} at index {at} ({np.count_nonzero(wrong)} in all)"
        raise bad(what, where, found, expected, remedy)


def count_classes(labels: NDArray[Any], where: str) -> int:
    values, counts = np.unique(labels, return_counts=True)
    # A rare label above a gap is taken for a damaged byte, which would silently widen the network.
    if len(values) > 1 and values[-1] > values[-2] + 1 and 50 * counts[-1] < counts.mean():
        found = f"value {values[-1]} at index {int(labels.argmax())} ({counts[-1]} in all)"
        remedy = f"Repair the data, or pass n_classes={int(values[-1]) + 1} if it is right."
        raise bad("a label is out of range", where, found, f"0..{values[-2]} like all others", remedy)
    return int(values[-1]) + 1
