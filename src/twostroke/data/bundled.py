"""The MNIST of the package: four canonical files, each held to its SHA-256, unpacked while a command starts.

A command begins to unpack before it imports NumPy, so what this file needs for that is Python's own.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import DataError
from ..files.compressed import read_whole
from ..files.regular_file import absolute

if TYPE_CHECKING:
    from .source import Source

# SHA-256 of the uncompressed canonical files: mnist/README.md.
MNIST_DIGESTS: Final = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# The thread asks for the interpreter whenever it has unpacked some, and would wait 5 ms each time.
PATIENCE_S, AT_ONCE = 1e-4, 1 << 24
FIELD: Final = 28  # the side of a picture in pixels
FOLDER = Path(__file__).parent / "mnist"


class _Ahead(threading.Thread):
    """Unpacks beside the imports of a command: zlib and SHA-256 leave them the interpreter."""

    unpacked: list[bytearray] | None = None

    def __init__(self) -> None:
        super().__init__(daemon=True)  # a command that ends before it needs the data waits for nothing

    def run(self) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(PATIENCE_S)
        try:
            with suppress(DataError):  # ``read`` finds the fault again, where it can be said
                self.unpacked = _unpack()
        finally:
            sys.setswitchinterval(interval)


_ahead: list[_Ahead] = []


def read_ahead(words: Sequence[str]) -> None:
    """Begin to unpack in a thread if the command line ``words`` is a training on MNIST: its first words tell."""
    first, second = [*words, "", ""][:2]
    if first == "train" and (second in ("", "mnist") or second[0] == "-") and not {"--config", "--help"} & {*words}:
        _ahead.append(_Ahead())
        _ahead[0].start()


def read() -> Source:
    """The four arrays. Raises ``DataError`` if a file is missing, damaged or another one."""
    from ..files.idx import parse_idx
    from .source import ROLES, Source

    unpacked = None
    for ahead in [_ahead.pop()] if _ahead else []:
        ahead.join()
        unpacked = ahead.unpacked
    where = [absolute(_path(name)) for name in MNIST_DIGESTS]
    arrays = [parse_idx(*each) for each in zip(unpacked or _unpack(), where, strict=True)]
    return Source(arrays, dict(zip(ROLES, where, strict=True)))


def _path(name: str) -> Path:
    return FOLDER / f"{name}.gz"


def _unpack() -> list[bytearray]:
    """The four files. Raises ``DataError``."""
    files = []
    for name, digest in MNIST_DIGESTS.items():
        data = bytearray()
        try:
            data = read_whole(_path(name), AT_ONCE)
            found = f"SHA-256 {hashlib.sha256(data).hexdigest()}"
        except DataError as error:
            found = str(error)
        if found != f"SHA-256 {digest}":
            what, expected, remedy = "the bundled MNIST is damaged", f"SHA-256 {digest}", "Reinstall twostroke."
            raise DataError(what, where=absolute(_path(name)), found=found, expected=expected, remedy=remedy)
        files.append(data)
    return files
