"""Settings as a TOML file: read, and written as lines."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError

KINDS: Final = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of numbers"}


def read_config(file: Path, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The settings in a TOML file, keys with ``_``; each key must be ``known``, and its value one of the kinds there.

    Raises ``ConfigError``, which names the file and the key.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        found, remedy = error.strerror, "Check the path of --config."
        raise ConfigError("cannot read the configuration", where=file, found=found, remedy=remedy) from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError("not a TOML file", where=file, found=error, remedy="Write lines such as: lr = 0.3") from error
    given = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError("unknown setting", where=f"{file}: {key}", expected=" or ".join(known))
        kinds = known[name]
        # bool is an int to Python and a mistake here.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(KINDS[kind] for kind in kinds)
            raise ConfigError("wrong kind of value", where=f"{file}: {key}", found=repr(value), expected=expected)
        given[name] = value
    return given


def to_toml(values: Mapping[str, Any]) -> list[str]:
    """Settings as the lines of a file that ``read_config`` takes. Raises ``ConfigError`` for what TOML cannot hold."""
    return [f"{key} = {_toml(key, value)}" for key, value in values.items()]


def _toml(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return repr(value).lower() if isinstance(value, bool) else repr(value)
    if any("\ud800" <= c <= "\udfff" for c in value):  # bytes of a path that are no text
        found, remedy = ascii(value), "Rename it."
        raise ConfigError("TOML cannot hold this text", where=key, found=found, expected="Unicode", remedy=remedy)
    # In ASCII, so that no terminal or encoding on the way can change it.
    plain = (c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08X}" for c in value)
    return f'"{"".join(plain)}"'
