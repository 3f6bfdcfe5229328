"""Settings as a TOML file: read, and written as lines."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, DataError
from ..files.regular_file import open_regular

MAX_BYTES, MAX_COMMENT = 1 << 16, 200  # of a file, and of what ``train --show-config`` writes above the settings
MAX_NESTED: Final = 200  # dots or brackets in a line: for a dotted key of n parts tomllib takes n^2 of time and memory
MOST_SHOWN: Final = 200  # characters of a key or value in an error
KINDS: Final = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def read_config(file: Path, known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The settings in a TOML file, keys with ``_``; each key must be ``known``, and its value one of the kinds there.

    Raises ``ConfigError``, which names the file and the key.
    """
    try:
        with open_regular(file) as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = data.decode("utf-8-sig")
        if any(sum(map(line.count, ".[{")) > MAX_NESTED for line in text.split("\n")):
            raise ValueError(f"more than {MAX_NESTED} dots or brackets in a line")
        table = tomllib.loads(text)
    except (OSError, DataError) as error:
        found = error.found if isinstance(error, DataError) else error.strerror
        remedy = "Check the path of --config."
        raise ConfigError("cannot read the configuration", where=file, found=found, remedy=remedy) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML; nested over many lines
        raise ConfigError("not a TOML file", where=file, found=error, remedy="Write lines such as: lr = 0.3") from error
    given = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError("unknown setting", where=f"{file}: {key[:MOST_SHOWN]}", expected=" or ".join(known))
        kinds = known[name]
        # bool is an int to Python and a mistake here.
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong or (isinstance(value, int) and value.bit_length() > 63):  # TOML's integers have 64 bits
            expected = " or ".join(KINDS[kind] for kind in kinds)
            found = hex(value) if type(value) is int else repr(value)
            where, found = f"{file}: {key}", found[:MOST_SHOWN]
            raise ConfigError("wrong kind of value", where=where, found=found, expected=expected)
        given[name] = value
    return given


def to_toml(values: Mapping[str, Any]) -> list[str]:
    """Settings as the lines of a file that ``read_config`` takes. Raises ``ConfigError`` for what TOML cannot hold."""
    lines = [f"{key} = {_toml(key, value)}" for key, value in values.items() if value is not None]
    if (size := sum(map(len, lines)) + len(lines)) > MAX_BYTES - MAX_COMMENT:
        what, expected = "the settings could not be read again", f"<= {MAX_BYTES - MAX_COMMENT}"
        raise ConfigError(what, found=f"{size} bytes of TOML", expected=expected, remedy="Use fewer layers.")
    return lines


def _toml(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(key, str(name))} = {_toml(key, one)}' for name, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_toml(key, item) for item in value)}]"
    if not isinstance(value, str):
        return repr(value).lower() if isinstance(value, bool) else repr(value)
    if any("\ud800" <= c <= "\udfff" for c in value):  # bytes of a path that are no text
        found, remedy = ascii(value), "Rename it."
        raise ConfigError("TOML cannot hold this text", where=key, found=found, expected="Unicode", remedy=remedy)
    # In ASCII, so that no terminal or encoding on the way can change it.
    plain = (c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08X}" for c in value)
    return f'"{"".join(plain)}"'
