"""Model files: a network as one safetensors file, with its settings and origin as metadata.

The tensors are W1 (fan_in, fan_out), b1 (fan_out,), W2, b2, ... and, of a network of tables, mean (D,) and deviation
(D,), float64, by which its input is standardised; of a regression target_mean (K,) and target_deviation (K,), float64,
which bring its outputs back into the units of the targets.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..backend import Backend
from ..data.scaling import Scaling
from ..engine.kinds import NAME, Activation, Loss, Named
from ..engine.layers import parameter_count
from ..engine.mlp import DTYPES, MLP, SETTINGS, network_settings
from ..errors import ConfigError, ModelError
from ..files.sealed_file import check_seal, damaged, pack, parse_header, read_bytes, read_json, write_sealed
from ..version import __version__

KIND: Final = "twostroke"
# Every model file holds these settings. A file older than some other setting lacks it; the network has its default.
TARGET_SCALING: Final = ("target_mean", "target_deviation")
ALWAYS_SAVED: Final = frozenset({"layers", "activation", "output", "loss", "init", "seed", "dtype"})


def save_model(net: MLP, path: str | os.PathLike[str], provenance: dict[str, Any] | None = None) -> Path:
    """Write ``net`` to ``path`` atomically and durably, and return ``path``.

    ``provenance`` is stored as the model's origin, for information. Raises ``ModelError`` if weights are not finite,
    if the file could not be read again, or if it cannot be written.
    """
    path = Path(path)
    tensors = host_tensors(net, path) | (net.scaling._asdict() if net.scaling else {})
    if net.target_scaling:
        tensors |= dict(zip(TARGET_SCALING, net.target_scaling, strict=True))
    origin = {"twostroke": __version__, "numpy": np.__version__, "python": platform.python_version()}
    origin |= {"device": net.backend.device, "reason": net.backend.reason, **(provenance or {})}
    texts = {
        "settings": json.dumps(network_settings(net), sort_keys=True),
        "origin": json.dumps(origin, sort_keys=True, default=str),
        "input": "rows of numbers, standardised by mean and deviation"
        if net.scaling
        else "rows of pixels 0..255 divided by 255, or floats already scaled",
        **({"classes": json.dumps({"names": net.classes})} if net.classes else {}),
    }
    write_sealed(path, KIND, pack(path, KIND, texts, tensors))
    return path


def load_model(path: str | os.PathLike[str], *, backend: Backend | None = None, kernels: Collection[Named] = ()) -> MLP:
    """Load the network in ``path`` onto ``backend`` (by default the CPU).

    A file holds no code and imports none: it holds the name of an ``Activation`` or ``Loss`` of your own, and
    ``kernels`` must have the one of that name. The whole file is checked. Raises ``ModelError`` with the file and the
    reason, and ``ConfigError`` for ``kernels`` that are none.
    """
    for kernel in kernels:
        if not isinstance(kernel, Named):
            expected = "an Activation or a Loss"
            raise ConfigError("not a kernel", where="kernels", found=repr(kernel), expected=expected)
    where = Path(path).absolute()
    data = read_bytes(where)
    header = parse_header(data, where)
    net = _network(header, len(data), where, backend, kernels)
    tensors = check_seal(data, header, "settings", where)
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError("weights are not finite", where=where, remedy="The training diverged: train again.")
    flat = np.concatenate([tensors[name].ravel() for name in _shapes(net.layers)])
    net.parameters = net.backend.asarray(flat, net.dtype)
    if "mean" in tensors:
        net.scaling = Scaling(tensors["mean"], tensors["deviation"])
    if TARGET_SCALING[0] in tensors:
        net.target_scaling = Scaling(*(tensors[name] for name in TARGET_SCALING))
    if not all((one.deviation > 0).all() for one in (net.scaling, net.target_scaling) if one):
        raise damaged(where, "a deviation that is not above 0")
    return net


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings and origin recorded in a model file, which is checked like its tensors. Raises ``ModelError``."""
    where = Path(path).absolute()
    data = read_bytes(where)
    header = parse_header(data, where)
    described = {key: read_json(header.get("__metadata__"), key, where, KIND) for key in ("settings", "origin")}
    check_seal(data, header, "settings", where)
    return described


def host_tensors(net: MLP, path: Path) -> dict[str, np.ndarray]:
    """W1 (fan_in, fan_out), b1 (fan_out,), W2, ... on the host, for ``path``. Raises ``ModelError`` if not finite."""
    # Contiguous copies: safetensors 0.8.0 silently writes the wrong bytes of a view.
    tensors = {}
    for number, layer in enumerate(net.views, start=1):
        tensors[f"W{number}"] = np.array(net.backend.to_host(layer.W), order="C")
        tensors[f"b{number}"] = np.array(net.backend.to_host(layer.b), order="C").ravel()
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ModelError("weights are not finite", where=name, remedy=f"Nothing was written to {path}.")
    return tensors


def _classes(header: dict[str, Any], where: Path) -> list[str]:
    """The names of the classes, if they have names."""
    if "classes" not in header["__metadata__"]:
        return []
    names = read_json(header["__metadata__"], "classes", where, KIND)["names"]
    if not isinstance(names, list):
        raise damaged(where, "names of classes that are no list")
    return names


def _shapes(layers: tuple[int, ...]) -> dict[str, list[int]]:
    """Each tensor's name and shape, in the order of the flat parameters."""
    shapes = {}
    for number, (fan_in, fan_out) in enumerate(pairwise(layers), start=1):
        shapes[f"W{number}"] = [fan_in, fan_out]
        shapes[f"b{number}"] = [fan_out]
    return shapes


def _with_own(settings: dict[str, Any], kernels: Collection[Named], where: Path) -> dict[str, Any]:
    """The settings, with the user's own rows in place of their names. Raises ``ModelError`` if one was not given."""
    found = {}
    for argument, kind in (("activation", Activation), ("loss", Loss)):
        name = settings[argument]
        if not isinstance(name, str) or name in kind.taken or not NAME.fullmatch(name):
            continue
        own = next((kernel for kernel in kernels if isinstance(kernel, kind) and kernel == name), None)
        if own is None:
            expected = f"{' or '.join(sorted(kind.taken))}, or {kind.said} that is given"
            remedy = "Give it: load_model(path, kernels=[...]), or --kernel MODULE:NAME."
            what = f"the model needs {kind.said} that is not built in"
            raise ModelError(what, where=where, found=repr(name), expected=expected, remedy=remedy)
        found[argument] = own
    return settings | found


def _network(
    header: dict[str, Any], n_bytes: int, where: Path, backend: Backend | None, kernels: Collection[Named]
) -> MLP:
    """Make the network that the metadata describes, after a check of the tensors' names, shapes, dtype and size."""
    settings = read_json(header.get("__metadata__"), "settings", where, KIND)
    try:
        layers = tuple(settings["layers"])
        dtype = settings["dtype"]
        known = ALWAYS_SAVED <= settings.keys() <= set(SETTINGS)
        if not known or dtype not in DTYPES or not all(type(n) is int for n in layers):
            raise KeyError("settings")
        # Compared with the file's size before anything of that size is allocated.
        if min(layers) < 1 or parameter_count(layers) * np.dtype(dtype).itemsize > n_bytes:
            raise damaged(where, f"{n_bytes} bytes for layers {list(layers)}")
        kinds = dict.fromkeys(shapes := _shapes(layers), {"float32": "F32", "float64": "F64"}[dtype])
        if "mean" in header:
            shapes |= {name: [layers[0]] for name in Scaling._fields}
            kinds |= dict.fromkeys(Scaling._fields, "F64")
        if TARGET_SCALING[0] in header:
            shapes |= {name: [layers[-1]] for name in TARGET_SCALING}
            kinds |= dict.fromkeys(TARGET_SCALING, "F64")
        if set(shapes) != (found := header.keys() - {"__metadata__"}):
            raise damaged(where, f"tensors {sorted(found)}", sorted(shapes))
        for name, shape in shapes.items():
            kind = (header[name]["dtype"], header[name]["shape"])
            if kind != (kinds[name], shape):
                raise damaged(where, f"{name} is {kind}", (kinds[name], shape))
        net = MLP(**_with_own(settings, kernels, where), classes=_classes(header, where), backend=backend)
        if TARGET_SCALING[0] in header and not (net.regression and net.output == "identity"):
            raise damaged(where, f"a scaling of targets, of {net.task} with output {net.output}")
        return net
    except (KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
        if isinstance(error, ModelError):
            raise
        raise damaged(where, f"settings that make no network ({error})") from error
