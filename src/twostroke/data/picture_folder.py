"""A folder of pictures for each class, with or without folders for training and testing above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .checks import bad
from .source import ROLES, Source, held_out, names_of, unnamed

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
TRAIN, TEST = (
    ("train", "training", "trainingset", "trainingsample"),
    ("test", "testing", "testset", "val", "valid", "validation"),
)
DEEPEST: Final = 3  # folders with one folder in them, as archives unpack to
HOW: Final = "pictures in grey"  # what the log and the record say of such data begins so
LARGEST: Final = 64  # the longer side: larger pictures are scaled down, then all to the most common size


def find(path: Path) -> Path | None:
    """The folder at or below ``path`` whose folders are classes, or parts with classes; None: there are no pictures."""
    try:
        return _below(path, lambda folder: _parts(folder) is not None or _has_classes(folder))
    except OSError:
        return None  # the reader of IDX files says why


def _below(path: Path, right: Callable[[Path], bool]) -> Path | None:
    """The first right folder on the way down, as long as each has only one folder in it."""
    for _ in range(DEEPEST):
        if right(path):
            return path
        folders = _folders(path)
        if len(folders) != 1:
            return None
        path = folders[0]
    return None


def read(path: Path, classes: Sequence[str] | None = None) -> Source:
    """All pictures in grey. A class is a folder; ``classes`` fixes the names and their order."""
    parts = _parts(path) or (path, None)
    train, test = (_files(part) if part else [] for part in parts)
    where, tested = str(path), str(parts[1] or path)
    names = names_of([name for name, _ in train], classes)
    if {_plain(name) for name in names} & {*TRAIN, *TEST}:
        expected = "folders of classes, in both of them" if len(names) > 1 else "a test part beside it"
        raise bad("pictures without classes", where, f"folders {', '.join(names)}", expected, "A class is a folder.")
    if len(names) < 2:
        raise bad(
            "fewer than two classes", where, ", ".join(names) or "no folder of pictures", "a folder for each class"
        )
    for name, file in [*train, *test]:
        if name not in names:
            raise bad("an unknown class", str(file.parent), repr(name), ", ".join(names), "Rename the folder.")
    from .picture import read_grey  # imports Pillow, which other data sets do not need

    shapes, pictures = set(), []
    for _, file in [*train, *test]:
        picture = read_grey(file)
        shapes.add(picture.shape)
        pictures.append(_scaled(picture, _within(picture.shape)))
    size = Counter(picture.shape for picture in pictures).most_common(1)[0][0]
    how = HOW + ("" if shapes == {size} else f", scaled to {size[0]} x {size[1]}")
    images = np.stack([_scaled(picture, size) for picture in pictures])
    labels = np.array([names.index(name) for name, _ in [*train, *test]], np.int64)
    if parts[1]:
        kept, held = np.arange(len(train)), np.arange(len(train), len(images))
    else:
        kept, held = held_out(len(images))
        how += "; a fifth held out for testing"
    if not len(kept) or not len(held):
        raise bad("too few pictures", tested, f"{len(kept)} to train, {len(held)} to test", "some for each part")
    arrays = [images[kept], labels[kept], images[held], labels[held]]
    return Source(
        arrays, dict(zip(ROLES, (where, where, tested, tested), strict=True)), () if unnamed(names) else names, how=how
    )


def prepare(path: Path, size: Sequence[int]) -> NDArray[np.uint8]:
    """One picture as a row (1, H W), as those of a folder were prepared."""
    from .picture import read_grey

    return _scaled(read_grey(path), tuple(size)).reshape(1, -1)


def _folders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith((".", "__")))


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )


def _has_classes(path: Path) -> bool:
    return any(_pictures(folder) for folder in _folders(path))


def _parts(path: Path) -> tuple[Path, Path] | None:
    """The folders of the training and of the test part, each at the level of its classes."""
    found = {_plain(folder.name): folder for folder in _folders(path)}
    train, test = ([found[name] for name in names if name in found][:1] for names in (TRAIN, TEST))
    if not train or not test:
        return None
    both = [_below(folder, _has_classes) for folder in (train[0], test[0])]
    return (both[0], both[1]) if both[0] and both[1] else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _files(path: Path) -> list[tuple[str, Path]]:
    return [(folder.name, file) for folder in _folders(path) for file in _pictures(folder)]


def _within(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The size of a picture (H, W) scaled down to at most LARGEST."""
    scale = min(1.0, LARGEST / max(shape))
    return tuple(max(1, round(side * scale)) for side in shape)


def _scaled(picture: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    if picture.shape == size:
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX))
