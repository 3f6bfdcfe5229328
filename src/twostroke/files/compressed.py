"""Reads gzip and xz strictly: whole, one member, and not more than a file of that size is likely to hold."""

from __future__ import annotations

import lzma
import os
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

from ..errors import DataError
from .regular_file import absolute, check_size, open_regular

XZ_MEMORY = 128 << 20  # `xz -9` needs 65 MiB; a malicious header can ask for 4 GiB
CHUNK = 1 << 20
AGAIN = "Download it again."


def packing(start: bytes) -> str:
    """ "gzip" or "xz", by a file's first 6 bytes; else ""."""
    return "gzip" if start[:2] == b"\x1f\x8b" else "xz" if start == b"\xfd7zXZ\x00" else ""


def read_whole(path: str | os.PathLike[str], at_once: int = CHUNK) -> bytearray:
    """A file's bytes, unpacked, at most ``at_once`` of them at a time. Raises ``DataError``."""
    where = absolute(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        kind = packing(file.read(6))
        file.seek(0)
        read = inflate(file, kind, size, where) if kind else file.read
        data = bytearray()
        while part := read(at_once):
            data += part
            check_size(len(data), size, where)
    return data


def inflate(file: BinaryIO, kind: str, size: int, where: str) -> Callable[[int], bytes]:
    """A ``read(n)`` of up to n decompressed bytes; b"" only at the verified end of the file."""
    # gzip.open silently joins members and skips zero padding; lzma.open has no memory limit.
    xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY) if kind == "xz" else None
    decoder: Any = xz or zlib.decompressobj(wbits=31)

    def read(count: int) -> bytes:
        out = b""
        while not out and not decoder.eof:
            holding = xz is not None and not xz.needs_input
            chunk = b"" if holding else getattr(decoder, "unconsumed_tail", b"") or file.read(CHUNK)
            try:
                out = decoder.decompress(chunk, count)
            except (zlib.error, lzma.LZMAError, EOFError) as error:
                raise _bad(f"the {kind} data is damaged", where, error, "an intact file") from error
            if not (out or chunk or holding or decoder.eof):
                found = f"its end at byte {file.tell()}"
                raise _bad(f"the {kind} data is truncated", where, found, f"a whole {kind} file")
        if not out and (extra := len(decoder.unused_data) + size - file.tell()):
            raise _bad(f"bytes after the {kind} data", where, f"{extra} extra bytes", "one member only")
        return out

    return read


def _bad(what: str, where: str, found: object, expected: str) -> DataError:
    return DataError(what, where=where, found=found, expected=expected, remedy=AGAIN)
