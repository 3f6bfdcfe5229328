"""The MNIST of the package: four canonical files, each held to its SHA-256, read ahead while a command starts."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import DataError
from ..files.idx import parse_idx, read_bytes
from ..files.regular_file import absolute
from .checks import bad
from .idx_folder import MNIST_DIGESTS
from .source import ROLES, Source

PATIENCE_S: Final = 1e-4  # it asks for the interpreter some hundred times, and would wait 5 ms each time
FIELD: Final = 28  # the side of a picture in pixels
FOLDER = Path(__file__).parent / "mnist"


class _Ahead(threading.Thread):
    """Reads beside the imports of a command: zlib and SHA-256 leave them the interpreter."""

    found: Source | None = None

    def __init__(self) -> None:
        super().__init__(daemon=True)  # a command that ends before it needs the data waits for nothing

    def run(self) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(PATIENCE_S)
        try:
            with suppress(DataError):  # ``read`` finds the fault again, where it can be said
                self.found = _read()
        finally:
            sys.setswitchinterval(interval)


_ahead: list[_Ahead] = []


def read_ahead(words: Sequence[str]) -> None:
    """Begin to read in a thread if the command line ``words`` is a training on MNIST, as far as its first words say."""
    first, second = [*words, "", ""][:2]
    if first == "train" and (second in ("", "mnist") or second[0] == "-") and not {"--config", "--help"} & {*words}:
        _ahead.append(_Ahead())
        _ahead[0].start()


def read() -> Source:
    """The four arrays. Raises ``DataError`` if a file is missing, damaged or another one."""
    for ahead in [_ahead.pop()] if _ahead else []:
        ahead.join()
        if ahead.found:
            return ahead.found
    return _read()


def _read() -> Source:
    arrays, where = [], {}
    for role, (name, digest) in zip(ROLES, MNIST_DIGESTS.items(), strict=True):
        path = FOLDER / f"{name}.gz"
        where[role] = absolute(path)
        data = bytearray()
        try:
            data = read_bytes(path)
            found = f"SHA-256 {hashlib.sha256(data).hexdigest()}"
        except DataError as error:
            found = str(error)
        if found != f"SHA-256 {digest}":
            expected, remedy = f"SHA-256 {digest}", "Reinstall twostroke."
            raise bad("the bundled MNIST is damaged", where[role], found, expected, remedy)
        arrays.append(parse_idx(data, where[role]))
    return Source(arrays, where)
