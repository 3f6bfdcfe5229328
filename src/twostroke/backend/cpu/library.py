"""The small C library behind the CPU: compiled once by the system's C compiler, kept in the user's cache.

It plays recorded steps and multiplies the matrices of small networks. Where it cannot be compiled, steps are
replayed from Python and every product is BLAS's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from ...files.atomic_file import write_atomically

SOURCES: Final = ("threads.c", "tiles.c", "blocks.c", "rows.c", "products.c", "player.c")
SWITCH: Final = "TWOSTROKE_COMPILE"  # 0: never compile
FLAGS: Final = ("-O2", "-march=native", "-fPIC", "-shared", "-pthread", "-x", "c", "-", "-o")
LIMIT_S: Final = 60


class Native(NamedTuple):
    """The library's functions; all take the address of an array of 64-bit words."""

    play: Callable[[int], None]
    product: Callable[[int], None] | None  # None on a processor that it was not written for
    set_threads: Callable[[int], None]
    threads: Callable[[], int]


class Library(NamedTuple):
    """The library, or None, and the compiler or the reason."""

    native: Native | None
    reason: str


class _NotCompiled(Exception):
    """Why not."""


@cache
def library() -> Library:
    """The compiled library, made at the first call. Never raises."""
    if os.environ.get(SWITCH) == "0":
        return Library(None, f"{SWITCH}=0")
    try:
        path, how = _compiled()
        functions = ctypes.CDLL(str(path))
    except (OSError, _NotCompiled) as error:
        return Library(None, str(error).partition("\n")[0])
    play, product = functions.twostroke_play, functions.twostroke_product
    set_threads, threads = functions.twostroke_set_threads, functions.twostroke_threads
    for function in (play, product):
        function.argtypes, function.restype = [ctypes.c_void_p], None
    set_threads.argtypes, set_threads.restype = [ctypes.c_int64], None
    threads.argtypes, threads.restype = [], ctypes.c_int64
    return Library(Native(play, product if functions.twostroke_has_products() else None, set_threads, threads), how)


def _compiled() -> tuple[Path, str]:
    """The library's file, from the cache or compiled now, and by what."""
    words = shlex.split(os.environ.get("CC", "cc"))
    compiler = shutil.which(words[0]) if words else None
    if compiler is None:
        raise _NotCompiled("no C compiler found (cc, or the one in CC)")
    source = b"\n".join((Path(__file__).parent / "native" / name).read_bytes() for name in SOURCES)
    command = [compiler, *words[1:], *FLAGS]
    key = hashlib.sha256(b"\0".join([source, *map(os.fsencode, command), _processor()]))
    name, how = f"{key.hexdigest()[:32]}.so", f"compiled by {compiler}"
    folder = _cache_folder()
    if folder is not None and (folder / name).is_file():
        return folder / name, how
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="twostroke-") as scratch:
        made = Path(scratch, name)
        try:
            done = subprocess.run(
                [*command, str(made)], input=source, capture_output=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _NotCompiled(f"{compiler} took longer than {LIMIT_S} s") from error
        if done.returncode:
            complaint = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise _NotCompiled(f"{compiler} failed: {complaint[0]}")
        if folder is None:
            ctypes.CDLL(str(made))  # stays mapped when its file is gone
            return made, how
        write_atomically(folder / name, made.read_bytes())
    return folder / name, how


def _processor() -> bytes:
    """What -march=native depends on: a home may be shared by machines of several kinds."""
    flags = b""
    try:
        with open("/proc/cpuinfo", "rb") as lines:
            flags = next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
    except OSError:
        pass
    return platform.machine().encode() + flags


def _cache_folder() -> Path | None:
    """A folder that only this user can write to, or None."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twostroke"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError):
        return None
    mine = status.st_uid == os.getuid() and not folder.is_symlink() and not status.st_mode & 0o022
    return folder if mine and os.access(folder, os.W_OK) else None


class Products:
    """``product(alpha, a, b, beta, c)``: c <- alpha a b + beta c, 2-D arrays of any strides, where it ``knows`` c."""

    def __init__(self, multiply: Callable[[int], None] | None) -> None:
        self._multiply = multiply

    def knows(self, c: Any) -> bool:
        """Whether ``product`` can compute ``c``."""
        return self._multiply is not None and c.dtype == np.float32

    def product(self, alpha: Any, a: Any, b: Any, beta: Any, c: Any) -> None:
        """Compute it now."""
        assert self._multiply is not None
        numbers = np.array([alpha, beta], np.float32)
        words = np.array(product_words(a, b, c, numbers.ctypes.data, numbers.ctypes.data + 4), np.int64)
        self._multiply(words.ctypes.data)


def product_words(a: Any, b: Any, c: Any, alpha: int, beta: int) -> list[int]:
    """The arguments of ``twostroke_product``; alpha and beta are addresses."""
    words = []
    for x in (a, b, c):
        by_row, by_column = (stride // x.itemsize for stride in x.strides)
        # An axis of one element has any stride: the one that lets the other be contiguous is the useful one.
        words += [x.ctypes.data, by_row if len(x) > 1 else x.shape[1], by_column if x.shape[1] > 1 else 1]
    return [*words, *c.shape, b.shape[0], alpha, beta]
