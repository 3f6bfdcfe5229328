"""Data sets on the host: where they come from, and their checked arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, TwoStrokeError
from ..files.regular_file import absolute
from ..randomness import generator
from . import bundled, idx_folder, numpy_files, picture_folder, tables
from .checks import bad, check_labels, check_targets, check_weights, count_classes, images_and_shape
from .source import ROLES, Source

TASKS = ("classification", "regression")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a test part: arrays that passed :func:`check_images` and :func:`check_labels`.

    ``train_images`` and ``test_images`` are (N, D) uint8 pixels, or float32 or float64 already scaled; ``train_labels``
    and ``test_labels`` (N,) are 0..``n_classes`` - 1; of a regression they are the targets (N, K) float64, and
    ``n_classes`` is 0. ``image_shape`` is the shape of one sample before flattening, and ``name`` the set's name in
    output. ``classes`` are the names of the classes, or of the targets, if they have names, and ``columns`` those of a
    table's columns, whose values a network standardises. ``how`` says how a file was read. ``sample_weight`` (N,) are
    the weights >= 0 of the training samples; None: all weigh the same.

    Use ``from_arrays`` to build one: it raises ``DataError``; the constructor checks nothing.
    """

    train_images: NDArray[Any]  # (N, D) uint8 raw pixels, or float32 / float64 already scaled
    train_labels: NDArray[Any]  # (N,) uint8, or int32 beyond 256 classes
    test_images: NDArray[Any]
    test_labels: NDArray[Any]
    n_classes: int
    image_shape: tuple[int, ...]  # (28, 28); (D,) where the source held flat samples
    name: str
    classes: tuple[str, ...] = ()  # names of the classes, where they have names
    columns: tuple[str, ...] = ()  # of a table: a network standardises its values
    how: str = ""  # how a file was read, for the log
    sample_weight: NDArray[np.float64] | None = None  # (N,) of the training samples

    @property
    def n_features(self) -> int:
        """D, the number of values per sample."""
        return int(self.train_images.shape[1])

    @property
    def regression(self) -> bool:
        """Whether the labels are numbers to be predicted."""
        return self.n_classes == 0

    @property
    def n_outputs(self) -> int:
        """K, the number of classes, or of targets."""
        return int(self.train_labels.shape[1]) if self.regression else self.n_classes

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
        classes: Sequence[str] = (),
        columns: Sequence[str] = (),
        how: str = "",
        sample_weight: object = None,
        task: str = "classification",
    ) -> Dataset:
        """Check arrays and make a Dataset of them; images (N, D), (N, H, W), (N, H, W, 1) or (N, 1, H, W).

        ``n_classes`` defaults to the number of ``classes``, the names of labels 0, 1, ...; without names to the largest
        training label plus one. ``columns`` are the names of a table's columns. ``sample_weight`` (N,), >= 0,
        multiplies the loss of each training sample. With ``task="regression"`` the labels are targets, (N,) or (N, K)
        numbers, and ``classes`` their names. ``where`` names each array in errors.
        Raises DataError if an array is invalid or two arrays disagree.
        """
        if task not in TASKS:
            raise ConfigError("unknown task", where="task", found=repr(task), expected=" or ".join(TASKS))
        n_classes = 0 if task == "regression" else n_classes or len(classes) or None
        if classes and n_classes and len(classes) != n_classes:
            raise bad("names and classes differ in number", name, f"{len(classes)} names", f"{n_classes}, one a class")
        at = {role: role for role in ROLES} | dict(where or {})
        train, shape = images_and_shape(train_images, at["train_images"])
        test, test_shape = images_and_shape(test_images, at["test_images"])
        if (shape, train.dtype) != (test_shape, test.dtype):
            found, expected = f"{test_shape} {test.dtype}", f"{shape} {train.dtype} as in {at['train_images']}"
            remedy = "Prepare both parts in the same way."
            raise bad("training and test images differ", at["test_images"], found, expected, remedy)
        if task == "regression":
            labels = check_targets(train_labels, at["train_labels"], len(classes) or None)
            tested = check_targets(test_labels, at["test_labels"], labels.shape[1])
        else:
            labels = check_labels(train_labels, at["train_labels"], n_classes)
            n_classes = n_classes or count_classes(labels, at["train_labels"])
            tested = check_labels(test_labels, at["test_labels"], n_classes)
        for part, x, y in (("train", train, labels), ("test", test, tested)):
            if len(x) != len(y):
                found, expected = f"{len(y)} labels", f"{len(x)} as images in {at[f'{part}_images']}"
                what = "images and labels differ in number"
                raise bad(what, at[f"{part}_labels"], found, expected, "Do both belong together?")
        at_weights = at.get("sample_weight", "sample_weight")
        weights = None if sample_weight is None else check_weights(sample_weight, at_weights, len(train))
        return cls(
            train, labels, test, tested, n_classes or 0, shape, name, tuple(classes), tuple(columns), how, weights
        )

    def split(self, val_size: int | float, seed: int) -> tuple[Dataset, NDArray[Any], NDArray[Any]]:
        """Hold out random training samples; return the remaining set, the held-out images and their labels.

        ``val_size`` is a count, or a fraction in (0, 1) as a float. Both parts keep the order of the samples.
        Raises ConfigError if a part would be empty.
        """
        kept, held = self.split_indices(val_size, seed)
        rest = replace(self, train_images=self.train_images[kept], train_labels=self.train_labels[kept])
        if self.sample_weight is not None:
            rest = replace(rest, sample_weight=self.sample_weight[kept])
        return rest, self.train_images[held], self.train_labels[held]

    def split_indices(self, val_size: int | float, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The training samples that ``split`` keeps, and those that it holds out: two sorted arrays of indices."""
        n = len(self.train_labels)
        whole = isinstance(val_size, (int, np.integer)) and not isinstance(val_size, bool)
        fraction = isinstance(val_size, (float, np.floating)) and 0 < val_size < 1
        count = int(val_size) if whole else round(val_size * n) if fraction else 0
        if not 0 < count < n:
            expected = f"a count in 1..{n - 1}, or a fraction in (0, 1) that leaves samples in both parts"
            what, remedy = "the training part cannot be split", "Change val_size."
            raise ConfigError(what, where="val_size", found=repr(val_size), expected=expected, remedy=remedy)
        order = generator(seed, "split").permutation(n)
        return np.sort(order[count:]), np.sort(order[:count])


def load_dataset(
    source: str | os.PathLike[str] = "mnist",
    *,
    n_classes: int | None = None,
    classes: Sequence[str] | None = None,
    label: str | None = None,
    drop: Sequence[str] = (),
    weight: str | None = None,
    test: str | os.PathLike[str] | None = None,
    columns: Sequence[str] = (),
    task: str = "classification",
) -> Dataset:
    """The data set ``source``: the bundled ``"mnist"``, a folder, or a file.

    A folder holds IDX files with the usual names, ``.npy`` files, or a folder of pictures for each class. A file is an
    ``.npz``, or a table: ``.csv``, ``.tsv`` or ``.parquet``. The forms are described in docs/your-own-data.md.

    ``classes`` are the names of the classes in the order of their numbers; pass ``n_classes`` if some classes have no
    training sample. Of a table, ``label`` is the column of the class, by name or by number (from the end, if negative),
    ``drop`` are columns to leave out, ``weight`` is the column of the samples' weights, and ``test`` is a table to test
    on; without it a fifth of the rows is held out. ``columns`` are those of the values, where a table has more.

    With ``task="regression"`` the labels are numbers to be predicted: of a table the column ``label``, or several
    joined by commas; of other data the arrays of labels.
    Raises DataError.
    """
    path, mnist = Path(absolute(source)), source == "mnist"
    is_table = tables.is_table(path) and not mnist
    if (mnist or os.path.exists(path)) and not is_table and (drop or (label, weight, test) != (None,) * 3):
        what, where = "label, drop, weight and test are for tables", "mnist" if mnist else str(path)
        raise bad(what, where, "another kind of data", "a .csv, .tsv or .parquet file", "Leave them out.")
    if mnist:
        there = bundled.read()
        return Dataset.from_arrays(*there.arrays, n_classes=10, name="mnist", where=there.where, task=task)
    if not os.fspath(source) or not os.path.exists(path):
        found, expected = "neither a known name nor a path", "'mnist', a folder, an .npz file or a table"
        raise bad("no such data set", repr(os.fspath(source)), found, expected, "Check the spelling.")
    if is_table:
        found_there = tables.read(
            path, label=label, drop=drop, weight=weight, test=test, columns=columns, classes=classes, task=task
        )
    elif path.is_dir():
        found_there = _read_folder(path, classes)
    else:
        found_there = numpy_files.read_npz(path)
    names = found_there.classes or tuple(classes or ())
    if task == "regression" and found_there.classes and not is_table:
        found, remedy = (
            f"classes with names: {', '.join(names[:9])}",
            "Leave task='regression' (--task regression) out.",
        )
        raise bad("no numbers to predict", str(path), found, "a table, or arrays of numbers", remedy)
    return Dataset.from_arrays(
        *found_there.arrays,
        n_classes=n_classes,
        name=path.name.partition(".")[0] if is_table else path.stem,
        where=found_there.where,
        classes=names,
        columns=found_there.columns,
        how=found_there.how,
        sample_weight=found_there.weights,
        task=task,
    )


def _read_folder(path: Path, classes: Sequence[str] | None) -> Source:
    """A folder's kind is that of the files in it; IDX, whose message is the most helpful, where there is no other."""
    if folder := picture_folder.find(path):
        return picture_folder.read(folder, classes)
    if numpy_files.has_arrays(path):
        return numpy_files.read_folder(path)
    if found := tables.within(path):
        expected, remedy = "a file, or a folder of other data", f"Name the table: {found[0]}."
        raise bad("a folder of tables", str(path), ", ".join(one.name for one in found[:9]), expected, remedy)
    return idx_folder.read(path)


def check_fit(
    layers: Sequence[int],
    data: Dataset,
    *,
    error: type[TwoStrokeError] = ConfigError,
    task: str | None = None,
    where: object = "layers",
    remedy: str | None = None,
    exact: bool = False,
) -> None:
    """Raise ``error`` unless the network has D inputs and an output for each class; ``exact``: no more outputs.

    ``task`` is the network's. A regression has as many outputs as there are targets.
    """
    if task not in (None, TASKS[data.regression]):
        expected, remedy = f"{TASKS[data.regression]}, as the data", "Set task (--task) for both."
        raise error("the network does not fit the data", where="task", found=task, expected=expected, remedy=remedy)
    spare = layers[-1] - data.n_outputs
    if layers[0] != data.n_features or spare < 0 or ((exact or data.regression) and spare):
        found = f"{','.join(map(str, layers))} ({layers[0]} inputs and {layers[-1]} outputs)"
        expected = f"{data.n_features} inputs and {data.n_outputs} outputs for {data.name}"
        raise error("the network does not fit the data", where=where, found=found, expected=expected, remedy=remedy)
