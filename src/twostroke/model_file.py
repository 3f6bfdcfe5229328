"""A trained network as one safetensors file: tensors W1, b1, W2, b2, ... and what they mean, as metadata.

W is (fan_in, fan_out), b is (fan_out,). The metadata holds the network's settings, its origin, and a SHA-256 of
settings and tensors, because the format itself has no checksum. Nothing in a file is ever run or imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy

from .atomic_file import write_atomically
from .backend import Backend
from .errors import ConfigError, DataError, ModelError
from .idx import open_regular
from .mlp import DTYPES, MLP, parameter_count
from .version import __version__

FORMAT_VERSION: Final = 1
MAX_HEADER_BYTES: Final = 1 << 20
MAX_FILE_BYTES: Final = 1 << 34
SETTINGS: Final = ("layers", "activation", "output", "loss", "init", "seed", "dtype")


def save_model(net: MLP, path: str | os.PathLike[str], provenance: dict[str, Any] | None = None) -> Path:
    """Write ``net`` to ``path`` (atomically, durably) and return the path. Raises ``ModelError``."""
    path = Path(path)
    if not path.name or "\0" in str(path):
        raise ModelError("not a file name", where=repr(str(path)), expected="a path such as digits.safetensors")
    tensors = _tensors(net)
    settings = {name: getattr(net, name) for name in SETTINGS}
    origin = {"twostroke": __version__, "numpy": np.__version__, "python": platform.python_version()}
    origin |= {"device": net.backend.device, "reason": net.backend.reason, **(provenance or {})}
    metadata = {
        "format": "twostroke",
        "format_version": str(FORMAT_VERSION),
        "settings": json.dumps(settings, sort_keys=True),
        "origin": json.dumps(origin, sort_keys=True, default=str),
        "input": "rows of pixels 0..255 divided by 255, or floats already scaled",
    }
    metadata["sha256"] = _digest(metadata["settings"], tensors)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelError("weights are not finite", where=name, remedy=f"Nothing was written to {path}.")
    try:
        write_atomically(path, safetensors.numpy.save(tensors, metadata))
    except OSError as error:
        raise ModelError("cannot write the model", where=path.absolute(), found=error.strerror) from error
    return path


def load_model(path: str | os.PathLike[str], *, backend: Backend | None = None) -> MLP:
    """The network in ``path``, on ``backend`` (by default the CPU).

    Everything is checked before it is believed. Raises ``ModelError`` naming the file and the reason.
    """
    where = Path(path).absolute()
    data = _read(where)
    header = _header(data, where)
    metadata = header.pop("__metadata__", {})
    net = _network(metadata, header, len(data), where, backend)
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as error:  # safetensors raises many kinds, none with the path
        raise _damaged(where, f"{type(error).__name__}: {error}") from error
    if _digest(metadata["settings"], tensors) != metadata.get("sha256"):
        raise _damaged(where, "the SHA-256 of its contents is not the one it records")
    flat = np.concatenate([tensors[name].ravel() for name in _shapes(net.layers)])
    if not np.isfinite(flat).all():
        raise ModelError("weights are not finite", where=where, remedy="The training diverged: train again.")
    net.parameters = net.backend.asarray(flat, net.dtype)
    return net


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings and origin recorded in a model file, without its tensors. Raises ``ModelError``."""
    where = Path(path).absolute()
    metadata = _header(_read(where), where).get("__metadata__", {})
    return {"settings": _json(metadata, "settings", where), "origin": _json(metadata, "origin", where)}


def _tensors(net: MLP) -> dict[str, np.ndarray]:
    # Contiguous copies: safetensors 0.8.0 writes the wrong bytes of a view without a word.
    tensors = {}
    for number, layer in enumerate(net.views, start=1):
        tensors[f"W{number}"] = np.array(net.backend.to_host(layer.W), order="C")
        tensors[f"b{number}"] = np.array(net.backend.to_host(layer.b), order="C").ravel()
    return tensors


def _shapes(layers: tuple[int, ...]) -> dict[str, list[int]]:
    """Each tensor's name and shape, in the order of the flat parameters."""
    shapes = {}
    for number, (fan_in, fan_out) in enumerate(pairwise(layers), start=1):
        shapes[f"W{number}"] = [fan_in, fan_out]
        shapes[f"b{number}"] = [fan_out]
    return shapes


def _digest(settings: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(settings.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _read(where: Path) -> bytes:
    try:
        with open_regular(where) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise ModelError(
                    "the file is too large", where=where, found=size, expected=f"<= {MAX_FILE_BYTES} bytes"
                )
            return file.read(size + 1)
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError("cannot read the model", where=where, found=error.strerror) from error


def _header(data: bytes, where: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, with every value's kind still unknown."""
    for magic, kind in (
        (b"PK", "a ZIP (.npz, .pt or .keras) file"),
        (b"\x80", "a pickle"),
        (b"\x89HDF", "an HDF5 file"),
    ):
        if data.startswith(magic) and data[8:9] != b"{":
            raise ModelError(
                "not a model file", where=where, found=kind, expected="a .safetensors file written by twostroke"
            )
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, MAX_HEADER_BYTES):
        raise _damaged(where, f"{len(data)} bytes with a header said to have {size}")
    try:
        header = json.loads(data[8 : 8 + size].decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"its header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise _damaged(where, "its header is not a JSON object")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _json(metadata: Any, key: str, where: Path) -> dict[str, Any]:
    if not isinstance(metadata, dict) or metadata.get("format") != "twostroke":
        raise ModelError("not a model of twostroke", where=where, expected="a file written by twostroke")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise ModelError(
            "unknown format version",
            where=where,
            found=version,
            expected=FORMAT_VERSION,
            remedy="Upgrade twostroke." if str(version).isdecimal() else "The file is damaged or foreign.",
        )
    try:
        value = json.loads(metadata[key], object_pairs_hook=_no_duplicates)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(where, f"no readable {key} in its metadata") from error
    if not isinstance(value, dict):
        raise _damaged(where, f"no readable {key} in its metadata")
    return value


def _network(metadata: Any, header: dict[str, Any], n_bytes: int, where: Path, backend: Backend | None) -> MLP:
    """The network that the metadata describes, once names, shapes, dtype and size of the tensors agree with it."""
    settings = _json(metadata, "settings", where)
    try:
        layers = tuple(settings["layers"])
        dtype = settings["dtype"]
        if set(settings) != set(SETTINGS) or dtype not in DTYPES or not all(type(n) is int for n in layers):
            raise KeyError("settings")
        # Compared with the bytes present before anything of that size is allocated.
        if min(layers) < 1 or parameter_count(layers) * np.dtype(dtype).itemsize > n_bytes:
            raise _damaged(where, f"{n_bytes} bytes for layers {list(layers)}")
        shapes = _shapes(layers)
        if set(shapes) != set(header):
            raise _damaged(where, f"tensors {sorted(header)}", sorted(shapes))
        names = {"float32": "F32", "float64": "F64"}
        for name, shape in shapes.items():
            found = (header[name]["dtype"], header[name]["shape"])
            if found != (names[dtype], shape):
                raise _damaged(where, f"{name} is {found}", (names[dtype], shape))
        return MLP(**settings, backend=backend)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        if isinstance(error, ModelError):
            raise
        raise _damaged(where, f"settings that make no network ({error})") from error


def _damaged(where: Path, found: str, expected: object = None) -> ModelError:
    return ModelError(
        "the model file is damaged or foreign",
        where=where,
        found=found,
        expected=expected,
        remedy="Restore it from a copy, or train again.",
    )
