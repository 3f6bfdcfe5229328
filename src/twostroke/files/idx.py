"""A strict reader of IDX files: a file that differs from its header in type, shape or size is refused.

The format (http://yann.lecun.com/exdb/mnist/, "THE IDX FILE FORMAT"): two zero bytes, a type code, the number
of dimensions, one big-endian unsigned 32-bit size per dimension, then the values, big-endian, row by row.
A file may be plain, gzip or xz; its first bytes decide, not its name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .compressed import AGAIN, CHUNK, inflate, packing
from .regular_file import absolute, check_size, open_regular

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAMES = dict(zip(TYPES, ("ubyte", "byte", "short", "int", "float", "double"), strict=True))
MAX_NDIM = 4
_MEANING = {1: " (labels)", 3: " (images)"}


def read_idx(path: str | os.PathLike[str], ndim: int | None = None) -> NDArray[Any]:
    """Read an IDX file as an array in native byte order that owns its memory.

    ``ndim`` is the expected number of dimensions (3: images, 1: labels). The first dimension may be 0.
    Raises DataError for every other file that is not valid IDX.
    """
    return parse_idx(read_bytes(path, ndim), absolute(path), ndim)


def parse_idx(data: bytes | bytearray, where: str, ndim: int | None = None) -> NDArray[Any]:
    """As :func:`read_idx`, for uncompressed bytes in memory; ``where`` names them in errors.

    ``bytes`` are copied; the array shares the memory of a ``bytearray`` if its values need no byte swap.
    """
    dtype, shape, start, total = _header(data, where, ndim)
    _check_length(len(data), start, total, where)
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=start)
    return flat.astype(dtype.newbyteorder("="), copy=isinstance(data, bytes)).reshape(shape)


def read_bytes(path: str | os.PathLike[str], ndim: int | None = None) -> bytearray:
    """Read and decompress an IDX file, and check its length against its header.

    Nothing is allocated by a size in the header: the buffer grows with the bytes that were read.
    """
    where = absolute(path)
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            magic = file.read(6)
            file.seek(0)
            if not magic:
                raise _bad("the file is empty", where, "0 bytes", "an IDX file")
            kind = packing(magic)
            read = inflate(file, kind, size, where) if kind else file.read
            data = bytearray()
            _fill(data, read, 4 + 4 * MAX_NDIM)
            _, _, start, total = _header(data, where, ndim)
            if not kind:
                _check_length(size, start, total, where)
            check_size(total, size if kind else total, where)
            _fill(data, read, total + 1)  # one byte more must meet the end, where gzip and xz check their sums
        except OSError as error:
            raise _bad("cannot read the file", where, error.strerror or error, "a readable file") from error
    _check_length(len(data), start, total, where)
    return data


def _bad(what: str, where: str, found: object, expected: str, remedy: str = AGAIN) -> DataError:
    return DataError(what, where=where, found=found, expected=expected, remedy=remedy)


def _fill(data: bytearray, read: Callable[[int], bytes], count: int) -> None:
    """Append to ``data`` until it has ``count`` bytes or ``read`` is at its end."""
    while len(data) < count and (part := read(min(CHUNK, count - len(data)))):
        data += part


def _header(data: bytes | bytearray, where: str, ndim: int | None) -> tuple[Any, tuple[int, ...], int, int]:
    """Parse the header: dtype, shape, offset of the values, length of the whole file."""
    if any(data[:2]):
        found = f"{bytes(data[:9])!r}, magic 0x{data[:4].hex()}"
        remedy = "Is it a saved web page? Download it again. Compressed twice? Unpack it once."
        raise _bad("not an IDX file", where, found, "two zero bytes first (plain, or in gzip or xz)", remedy)
    if len(data) < 4:
        raise _bad("the IDX header is cut short", where, f"{len(data)} bytes", "at least 4")
    code, dims = data[2], data[3]
    if code not in TYPES:
        known = ", ".join(f"0x{code:02X} {name}" for code, name in NAMES.items())
        raise _bad("unknown IDX type", where, f"0x{code:02X}", known)
    if not 1 <= dims <= MAX_NDIM:
        raise _bad("unsupported number of dimensions", where, dims, f"1 to {MAX_NDIM}")
    if ndim not in (None, dims):
        found = f"magic 0x{data[:4].hex()} is a {dims}-D {NAMES[code]} file{_MEANING.get(dims, '')}"
        expected = f"0x0000{code:02x}{ndim:02x}{_MEANING.get(ndim, '')}"
        raise _bad("the wrong kind of IDX file", where, found, expected, "Were images and labels swapped?")
    dtype, start = np.dtype(TYPES[code]), 4 + 4 * dims
    if len(data) < start:
        raise _bad("the IDX header is cut short", where, f"{len(data)} bytes", f"{start}")
    # Python integers: np.prod overflows, [65536] * 4 to 0.
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    if 0 in shape[1:]:
        raise _bad("an IDX dimension is zero", where, f"shape {shape}", "sizes of at least 1")
    if shape[0] == 0:  # NumPy refuses oversized items even in an empty array
        check_size(math.prod(shape[1:]) * dtype.itemsize, 0, where)
    return dtype, shape, start, start + math.prod(shape) * dtype.itemsize


def _check_length(size: int, start: int, total: int, where: str) -> None:
    found, promised = size - start, total - start
    if found < promised:
        raise _bad("the data is truncated", where, f"{found} data bytes", f"{promised} by its header")
    if found > promised:
        extra = f"at least {found - promised} extra bytes after the data"
        raise _bad("bytes after the data", where, extra, f"{promised} by its header")
