"""Imports a user's own kernel, which the user names as ``MODULE:NAME`` on the command line. No file can ask for it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..engine.kinds import Named
from ..errors import ConfigError


def own_kernel(name: str, where: str, kind: type[Named] = Named) -> Named:
    """The object NAME of the module MODULE, from the working folder or the installed packages.

    Raises ``ConfigError`` with ``where``: no such module or name, or another kind of object.
    """
    module, _, attribute = name.partition(":")
    if not (attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ConfigError("not the name of a kernel", where=where, found=repr(name), expected="MODULE:NAME")
    if (here := os.getcwd()) not in sys.path:  # a command is not run as ``python -m`` is
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # anything may happen in a user's module
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]
        what = "no such module" if missing else f"the module {module} fails when it is imported"
        remedy = f"It is looked for in {here} and in the installed packages." if missing else None
        detail = repr(module) if missing else f"{type(error).__name__}: {error}"
        raise ConfigError(what, where=where, found=detail, remedy=remedy) from error
    if found is None:
        raise ConfigError(f"no such name in the module {module}", where=where, found=repr(attribute))
    if not isinstance(found, kind) or type(found) is Named:
        raise ConfigError(f"not {kind.said}", where=where, found=f"{name}, of type {type(found).__name__}")
    return found


def own_kernels(names: Sequence[str] | None, where: str = "--kernel") -> list[Named]:
    """The kernels that a flag names."""
    return [own_kernel(name, where) for name in names or ()]


def by_name(argument: str, kind: type[Named]) -> Callable[[Any], Any]:
    """What a setting's flag gives: a built-in's name as it is, ``MODULE:NAME`` as the object."""

    def convert(value: Any) -> Any:
        return own_kernel(value, argument, kind) if isinstance(value, str) and ":" in value else value

    return convert
