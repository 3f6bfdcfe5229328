"""Folders of IDX files: MNIST and its successors, under the names that each has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..files.idx import read_idx
from ..files.regular_file import open_regular
from .bundled import MNIST_DIGESTS
from .checks import bad
from .source import ROLES, Source

_NAME = re.compile(
    r"(?P<set>.+-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx(?P<dims>\d)-[a-z]+(?P<packed>\.gz|\.xz)?",
    re.IGNORECASE,
)
_LETTERS: Final = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_MOST_MAPPING: Final = 1 << 16  # bytes of a file of class names


def read(folder: Path) -> Source:
    """The four files of a folder, or of the folder below it that has them, such as torchvision's MNIST/raw.

    EMNIST's pictures are stored on their side, and are put upright; its letters are 1..26. QMNIST's labels have eight
    columns, of which the first is the class.
    """
    files = _files(folder)
    if not any(files.values()):
        below = [path for depth in ("*", "*/*") for path in sorted(folder.glob(depth)) if path.is_dir()]
        full = [path for path in below if any(_files(path).values())]
        if len(full) > 1:
            found = ", ".join(str(path.relative_to(folder)) for path in full[:9])
            raise bad("more than one data set", str(folder), found, "one", "Name the folder of one of them.")
        if full:
            folder, files = full[0], _files(full[0])
    names = ", ".join(name for there in files.values() for name in there) or "no IDX file"
    if missing := [role.replace("_", " ") for role in ROLES if not files[role]]:
        expected = f"{', '.join(MNIST_DIGESTS)}, each plain, .gz or .xz"
        remedy = "Add or rename the files. Other kinds of folders: docs/your-own-data.md."
        raise bad(f"{', '.join(missing)} missing", str(folder), names, expected, remedy)
    chosen = {role: next(iter(there.values())) for role, there in files.items()}
    sets = {(_match(path)["set"] or "").lower() for path in chosen.values()}
    if len(sets) > 1 or any(len(there) > 1 for there in files.values()):
        remedy = "Keep each set in a folder of its own."
        raise bad("more than one data set", str(folder), names, "one file of each kind", remedy)
    arrays = [_read(path, role) for role, path in chosen.items()]
    where = {role: str(path) for role, path in chosen.items()}
    kind = sets.pop()
    if not kind.startswith("emnist-"):
        return Source(arrays, where)
    for part in (0, 2):
        arrays[part] = np.ascontiguousarray(arrays[part].transpose(0, 2, 1))
    classes = _mapping(folder, kind)
    if kind == "emnist-letters-" and all(
        labels.min() >= 1 and labels.max() <= 26 for labels in arrays[1::2] if len(labels)
    ):
        arrays[1::2] = [labels - 1 for labels in arrays[1::2]]
        classes = _LETTERS
    return Source(arrays, where, classes, how="pictures of EMNIST, put upright")


def _match(path: Path) -> re.Match[str]:
    found = _NAME.fullmatch(path.name)
    assert found
    return found


def _files(folder: Path) -> dict[str, dict[str, Path]]:
    """For each role the files that have its name, by their name without .gz or .xz."""
    found: dict[str, dict[str, Path]] = {role: {} for role in ROLES}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise bad("cannot read the folder", str(folder), str(error.strerror), "a readable folder") from error
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match and not path.is_dir():
            role = f"{'train' if match['part'].lower() == 'train' else 'test'}_{match['kind'].lower()}"
            # A plain file sorts before its .gz and .xz and is used instead of them (torchvision keeps both).
            found[role].setdefault(path.name.removesuffix(match["packed"] or ""), path)
    return found


def _read(path: Path, role: str) -> NDArray[Any]:
    if role.endswith("images"):
        return read_idx(path, 3)
    if _match(path)["dims"] == "2":
        return np.ascontiguousarray(read_idx(path, 2)[:, 0])
    return read_idx(path, 1)


def _mapping(folder: Path, kind: str) -> tuple[str, ...]:
    """EMNIST's class names from its file of lines "class code", the codes those of ASCII; () without that file."""
    path = folder / f"{kind}mapping.txt"
    if not path.exists():
        return ()
    with open_regular(path) as file:
        text = file.read(_MOST_MAPPING).decode("ascii", "replace")
    try:
        codes = {int(words[0]): int(words[1]) for words in map(str.split, text.splitlines()) if words}
        return tuple(chr(codes[number]) for number in range(len(codes)))
    except (LookupError, ValueError, OverflowError) as error:
        found, expected = f"{text[:40]!r}", "lines of a class, from 0, and a code"
        raise bad(
            "not a file of class names", str(path), found, expected, "Remove it, or download it again."
        ) from error
