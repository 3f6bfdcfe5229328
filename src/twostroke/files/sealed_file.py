"""Sealed files: safetensors files with JSON texts in the metadata and one SHA-256 over all of it.

safetensors itself has no checksum. Reading a file runs and imports nothing; sizes are checked against the file before
anything is allocated; every fault is a ``ModelError`` that names the file. What could not be read is not written.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy

from ..errors import DataError, ModelError
from .atomic_file import write_atomically
from .regular_file import open_regular

FORMAT_VERSION: Final = 2
OLD_VERSION: Final = 1  # its digest covers one text and the tensors; it is still read
KINDS: Final = {"twostroke": "model", "twostroke-checkpoint": "checkpoint"}
MAX_HEADER_BYTES: Final = 1 << 20
MAX_FILE_BYTES: Final = 1 << 34


def pack(path: Path, kind: str, texts: dict[str, str], tensors: dict[str, np.ndarray]) -> bytes:
    """A sealed file for ``path``: C-contiguous ``tensors`` and ``texts``. ``ModelError`` for what would not be read."""
    slot = secrets.token_hex(32)  # where the digest will be
    data = safetensors.numpy.save(
        tensors, {"format": kind, "format_version": str(FORMAT_VERSION), "sha256": slot, **texts}
    )
    try:
        if len(data) > MAX_FILE_BYTES:
            raise too_large(path, len(data))
        header = parse_header(data, path)
        for key in texts:
            if key != "input":
                read_json(header["__metadata__"], key, path, kind)
    except ModelError as error:
        remedy = "Nothing was written. Store a smaller network, or less with it."
        raise ModelError("the file could not be read again", where=path, found=error.found, remedy=remedy) from error
    return data.replace(slot.encode(), seal_of(header, data).encode(), 1)


def write_sealed(path: Path, kind: str, data: bytes) -> None:
    """Write what ``pack`` made atomically."""
    if not path.name or "\0" in str(path):
        raise ModelError("not a file name", where=repr(str(path)), expected=f"a path such as {kind}.safetensors")
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ModelError("cannot write the model", where=path.absolute(), found=error.strerror) from error


def check_seal(data: bytes, header: dict[str, Any], sealed: str, where: Path) -> dict[str, np.ndarray]:
    """The tensors in ``data``, after a check of the SHA-256; ``sealed``: the text under an older file's digest."""
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(data)
    except Exception as error:  # safetensors raises many types, none with the path
        raise damaged(where, f"{type(error).__name__}: {error}") from error
    texts = header["__metadata__"]
    old = texts["format_version"] == str(OLD_VERSION)
    if texts.get("sha256") != (old_digest_of(texts[sealed], tensors) if old else seal_of(header, data)):
        raise damaged(where, "its SHA-256 differs from the one in its metadata")
    return tensors


def seal_of(header: dict[str, Any], data: bytes) -> str:
    """SHA-256, in hex, over a file's header (as sorted JSON, without this digest) and everything that follows it."""
    texts = {key: text for key, text in header["__metadata__"].items() if key != "sha256"}
    sha = hashlib.sha256(json.dumps(header | {"__metadata__": texts}, sort_keys=True).encode())
    sha.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
    return sha.hexdigest()


def old_digest_of(text: str, tensors: dict[str, np.ndarray]) -> str:
    """The digest of format version 1: SHA-256 over a text and the tensors' names and bytes, in hex."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def read_bytes(where: Path) -> bytes:
    """Read a regular file of at most ``MAX_FILE_BYTES`` whose tensors end where it ends."""
    try:
        with open_regular(where) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise too_large(where, size)
            # Before a large foreign, cut or lengthened file is read whole.
            start = file.read(9)
            _check_end(start + file.read(_check_start(start, size, where) - 1), size, where)
            file.seek(0)
            return file.read(size + 1)
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError("cannot read the model", where=where, found=error.strerror) from error


def too_large(where: Path, size: int) -> ModelError:
    """The error for a file beyond our limit."""
    return ModelError("the file is too large", where=where, found=f"{size} bytes", expected=f"<= {MAX_FILE_BYTES}")


def parse_header(data: bytes, where: Path, n_bytes: int | None = None) -> dict[str, Any]:
    """Parse the JSON header of a safetensors file of ``n_bytes``. The types of its values are not checked yet."""
    size = _check_start(data[:9], n_bytes or len(data), where)
    try:
        header = json.loads(data[8 : 8 + size].decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise damaged(where, "its header is not a JSON object")
    return header


def _check_start(start: bytes, n_bytes: int, where: Path) -> int:
    """Check the first 9 bytes, ``start``, of a file of ``n_bytes``; return the length of its header."""
    for magic, kind in (
        (b"PK", "a ZIP (.npz, .pt or .keras) file"),
        (b"\x80", "a pickle"),
        (b"\x89HDF", "an HDF5 file"),
    ):
        if start.startswith(magic) and start[8:9] != b"{":
            expected = "a .safetensors file written by twostroke"
            raise ModelError("not a model file", where=where, found=kind, expected=expected)
    size = int.from_bytes(start[:8], "little")
    if start and start.isascii() and start.decode().strip().isprintable():
        raise ModelError(
            "not a model file", where=where, found="text", expected="a .safetensors file written by twostroke"
        )
    if n_bytes < 8 or size > min(n_bytes - 8, MAX_HEADER_BYTES):
        raise damaged(where, f"{n_bytes} bytes, and a header of {size} by its length field")
    if start[8:9] != b"{":
        raise damaged(where, "its header is not a JSON object")
    return size


def _check_end(start: bytes, n_bytes: int, where: Path) -> None:
    """Check that the tensors named in a header, ``start``, end with the file."""
    try:
        entries = parse_header(start, where, n_bytes).items()
        end = max((entry["data_offsets"][1] for name, entry in entries if name != "__metadata__"), default=0)
    except (LookupError, TypeError) as error:
        raise damaged(where, f"tensors without an end in its header ({type(error).__name__})") from error
    if len(start) + end != n_bytes:
        raise damaged(where, f"{n_bytes} bytes", f"{len(start)} of header and {end} of tensors")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def read_json(metadata: Any, key: str, where: Path, kind: str) -> dict[str, Any]:
    """Parse the JSON object ``metadata[key]``, after a check of the file's kind and format version."""
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise ModelError(f"not a {KINDS[kind]} of twostroke", where=where, expected="a file written by twostroke")
    version = metadata.get("format_version")
    if version not in (str(OLD_VERSION), str(FORMAT_VERSION)):
        remedy = "Upgrade twostroke." if str(version).isdecimal() else "The file is damaged or foreign."
        expected = f"{OLD_VERSION} or {FORMAT_VERSION}"
        raise ModelError("unknown format version", where=where, found=version, expected=expected, remedy=remedy)
    try:
        value = json.loads(metadata[key], object_pairs_hook=_no_duplicates)
        return {**value}
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # TypeError: not an object
        raise damaged(where, f"no readable {key} in its metadata") from error


def damaged(where: Path, found: str, expected: object = None) -> ModelError:
    """The error for a damaged or foreign file."""
    what, remedy = "the model file is damaged or foreign", "Restore it from a copy, or train again."
    return ModelError(what, where=where, found=found, expected=expected, remedy=remedy)
