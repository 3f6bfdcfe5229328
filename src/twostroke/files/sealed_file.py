"""Sealed files: safetensors files with JSON texts in the metadata and one SHA-256 over a text and the tensors.

safetensors itself has no checksum. Reading a file runs and imports nothing; sizes are checked against the file before
anything is allocated; every fault is a ``ModelError`` that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy

from ..errors import DataError, ModelError
from .atomic_file import write_atomically
from .regular_file import open_regular

FORMAT_VERSION: Final = 1
KINDS: Final = {"twostroke": "model", "twostroke-checkpoint": "checkpoint"}
MAX_HEADER_BYTES: Final = 1 << 20
MAX_FILE_BYTES: Final = 1 << 34


def write_sealed(path: Path, kind: str, texts: dict[str, str], tensors: dict[str, np.ndarray], sealed: str) -> None:
    """Write C-contiguous ``tensors`` and ``texts`` atomically; the digest covers the tensors and ``texts[sealed]``."""
    if not path.name or "\0" in str(path):
        raise ModelError("not a file name", where=repr(str(path)), expected=f"a path such as {kind}.safetensors")
    metadata = {"format": kind, "format_version": str(FORMAT_VERSION), **texts}
    metadata["sha256"] = digest_of(texts[sealed], tensors)
    try:
        write_atomically(path, safetensors.numpy.save(tensors, metadata))
    except OSError as error:
        raise ModelError("cannot write the model", where=path.absolute(), found=error.strerror) from error


def load_sealed(data: bytes, text: str, digest: object, where: Path) -> dict[str, np.ndarray]:
    """The tensors in ``data``; the SHA-256 of ``text`` and tensors must be ``digest``."""
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(data)
    except Exception as error:  # safetensors raises many types, none with the path
        raise damaged(where, f"{type(error).__name__}: {error}") from error
    if digest_of(text, tensors) != digest:
        raise damaged(where, "its SHA-256 differs from the one in its metadata")
    return tensors


def digest_of(settings: str, tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over a text and the tensors' names and bytes, in hex."""
    digest = hashlib.sha256(settings.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def read_bytes(where: Path) -> bytes:
    """Read a regular file of at most ``MAX_FILE_BYTES``."""
    try:
        with open_regular(where) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                expected = f"<= {MAX_FILE_BYTES} bytes"
                raise ModelError("the file is too large", where=where, found=size, expected=expected)
            _check_start(file.read(9), size, where)  # before a large foreign file is read whole
            file.seek(0)
            return file.read(size + 1)
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError("cannot read the model", where=where, found=error.strerror) from error


def parse_header(data: bytes, where: Path) -> dict[str, Any]:
    """Parse the JSON header of a safetensors file. The types of its values are not checked yet."""
    size = _check_start(data[:9], len(data), where)
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
    if n_bytes < 8 or size > min(n_bytes - 8, MAX_HEADER_BYTES):
        raise damaged(where, f"{n_bytes} bytes, and a header of {size} by its length field")
    if start[8:9] != b"{":
        raise damaged(where, "its header is not a JSON object")
    return size


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
    if version != str(FORMAT_VERSION):
        remedy = "Upgrade twostroke." if str(version).isdecimal() else "The file is damaged or foreign."
        raise ModelError("unknown format version", where=where, found=version, expected=FORMAT_VERSION, remedy=remedy)
    try:
        value = json.loads(metadata[key], object_pairs_hook=_no_duplicates)
        return {**value}
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # TypeError: not an object
        raise damaged(where, f"no readable {key} in its metadata") from error


def damaged(where: Path, found: str, expected: object = None) -> ModelError:
    """The error for a damaged or foreign file."""
    what, remedy = "the model file is damaged or foreign", "Restore it from a copy, or train again."
    return ModelError(what, where=where, found=found, expected=expected, remedy=remedy)
