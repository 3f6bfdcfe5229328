"""What a training run shall do: flags over a TOML file over a preset, checked before any data is read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from ..data.dataset import Dataset
from ..engine.mlp import MLP, network_settings
from ..engine.training import TrainConfig
from ..errors import ConfigError, TwoStrokeError
from .presets import PRESETS

# Every key of a configuration file, with the kinds of TOML value it takes.
KEYS: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("data", "preset", "device", "out"), (str,)),
    **dict.fromkeys(("activation", "loss", "output", "init", "dtype", "optimizer", "schedule"), (str,)),
    **dict.fromkeys(("epochs", "seed", "patience"), (int,)),
    **dict.fromkeys(("lr", "momentum", "l2", "dropout", "warmup"), (float, int)),
    "layers": (str, list),
    "batch_size": (str, int),
    "threads": (str, int),
    "val_size": (float, int),
    "tf32": (bool,),
}
KINDS: Final = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list of numbers",
}
# Where one of these is changed, the preset's other value no longer belongs to it: the library's default does.
PAIRED: Final = {"optimizer": "lr", "activation": "init", "loss": "output"}


@dataclass(frozen=True)
class Settings:
    """One training run. ``layers`` is None where the preset's hidden widths await the data's."""

    preset: str
    data: str
    device: str
    threads: int | str
    tf32: bool
    out: str | None
    layers: tuple[int, ...] | None
    hidden: tuple[int, ...]
    network: dict[str, Any]
    config: TrainConfig
    names: dict[str, str]  # of each setting, as its user wrote it

    def make_network(self, data: Dataset) -> MLP:
        """The network for ``data``, on the host. Raises ``ConfigError`` if --layers does not fit."""
        layers = self.layers or (data.n_features, *self.hidden, data.n_classes)
        if (layers[0], layers[-1]) != (data.n_features, data.n_classes):
            raise ConfigError(
                "the network does not fit the data",
                where=self.names["layers"],
                found=",".join(map(str, layers)),
                expected=f"{data.n_features} inputs and {data.n_classes} outputs for {data.name}",
                remedy=f"Try {','.join(map(str, (data.n_features, *layers[1:-1], data.n_classes)))}.",
            )
        return MLP(layers, **self.network)

    def folder(self, data: Dataset) -> Path:
        """Where the run writes."""
        return Path(self.out or Path("runs") / (data.name.strip(".") or "data"))

    def effective(self, data: Dataset, net: MLP) -> dict[str, Any]:
        """Every setting of ``KEYS``, defaults included, with the value that it has for this data and network."""
        values = asdict(self.config) | network_settings(net)
        values |= {key: getattr(self, key) for key in ("data", "preset", "device", "threads", "tf32")}
        values |= {"lr": self.config.learning_rate, "layers": list(net.layers), "out": str(self.folder(data))}
        return {key: values[key] for key in KEYS}


def to_toml(values: Mapping[str, Any]) -> list[str]:
    """Settings as the lines of a file that ``read_config`` takes. Raises ``ConfigError`` for what TOML cannot hold."""
    return [f"{key} = {_toml(key, value)}" for key, value in values.items()]


def _toml(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return repr(value).lower() if isinstance(value, bool) else repr(value)
    if any("\ud800" <= c <= "\udfff" for c in value):  # bytes of a path that are no text
        remedy = "Rename it."
        raise ConfigError(
            "TOML cannot hold this text", where=key, found=ascii(value), expected="Unicode", remedy=remedy
        )
    # In ASCII, so that no terminal or encoding on the way can change it.
    plain = (c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08X}" for c in value)
    return f'"{"".join(plain)}"'


def resolve(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """Settings from the flags that were given (None: not given), a configuration file and a preset.

    Raises ``ConfigError`` naming the flag, or the file and its key.
    """
    given = read_config(file) if file else {}
    names = {key: f"{file}: {key}" if key in given else f"--{key.replace('_', '-')}" for key in KEYS}
    for key, value in flags.items():
        if value is not None:
            given[key], names[key] = value, f"--{key.replace('_', '-')}"
    try:
        return _settings(given, names)
    except ConfigError as error:
        raise named(error, names) from error


def _settings(given: dict[str, Any], names: dict[str, str]) -> Settings:
    name = given.get("preset", "fast")
    if name not in PRESETS:
        raise ConfigError("unknown preset", where="preset", found=repr(name), expected=" or ".join(PRESETS))
    preset = PRESETS[name]
    values: dict[str, Any] = {
        **{field.name: getattr(preset.config, field.name) for field in fields(TrainConfig)},
        **{key: getattr(preset, key) for key in ("activation", "output", "loss", "init")},
        "dtype": "float32",
    }
    for key, partner in PAIRED.items():
        if given.get(key, values[key]) != values[key]:
            values[partner] = None
    values |= given
    values["batch_size"] = as_integer(values["batch_size"])
    if values["val_size"] >= 1 and values["val_size"] % 1 == 0:
        values["val_size"] = int(values["val_size"])  # a number of samples; else a fraction
    config = TrainConfig(**{field.name: values[field.name] for field in fields(TrainConfig)})
    network = {key: values[key] for key in ("activation", "output", "loss", "init", "dtype", "seed")}
    layers = _layers(given["layers"]) if "layers" in given else None
    MLP(layers or (1, *preset.hidden, 1), **network)  # refuses what is wrong now, not after the data is read
    return Settings(
        preset=name,
        data=given.get("data", "mnist"),
        device=given.get("device", "auto"),
        threads=as_integer(given.get("threads", "auto")),
        tf32=given.get("tf32", False),
        out=given.get("out"),
        layers=layers,
        hidden=preset.hidden,
        network=network,
        config=config,
        names=names,
    )


def read_config(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, keys with ``_``; each key known and of the right kind."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "cannot read the configuration",
            where=file,
            found=error.strerror,
            remedy="Check the path of --config.",
        ) from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError("not a TOML file", where=file, found=error, remedy="Write lines such as: lr = 0.3") from error
    given = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in KEYS:
            raise ConfigError("unknown setting", where=f"{file}: {key}", expected=" or ".join(KEYS))
        # bool is an int to Python and a mistake here.
        if not isinstance(value, KEYS[name]) or (isinstance(value, bool) and bool not in KEYS[name]):
            kinds = " or ".join(KINDS[kind] for kind in KEYS[name])
            raise ConfigError("wrong kind of value", where=f"{file}: {key}", found=repr(value), expected=kinds)
        given[name] = value
    return given


def named(error: ConfigError, names: Mapping[str, str]) -> TwoStrokeError:
    """The same error, with the argument that the library names replaced by what the user wrote."""
    return error.at(names[str(error.where)]) if error.where in names else error


def _layers(value: str | list[Any]) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    widths = [as_integer(part) for part in parts]
    if not all(type(width) is int for width in widths):
        raise ConfigError(
            "bad layers",
            where="layers",
            found=repr(value),
            expected="whole numbers joined by commas: inputs, hidden layers, outputs",
            remedy="For MNIST: 784,128,10.",
        )
    return tuple(widths)


def as_integer(value: Any) -> Any:
    """Text as an integer where it is one, anything else unchanged."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value
