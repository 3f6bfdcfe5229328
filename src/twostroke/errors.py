"""The errors that a user can cause: one class per kind, each with an exit code for the command line.

A message is one line: what is wrong, where, the value found, the value expected, what to do.
"""

from __future__ import annotations

import shlex
import sys
from importlib import util
from typing import Final


class TwoStrokeError(Exception):
    """Base class of all errors that a user can cause.

    ``what`` is the problem, ``where`` the file or argument; the rest is optional.
    ``str(error)`` is ``what: where: found VALUE, expected VALUE. remedy``.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.found, self.expected, self.remedy = what, where, found, expected, remedy
        values = []
        if found is not None:
            values.append(f"found {found}")
        if expected is not None:
            values.append(f"expected {expected}")
        parts = [what]
        if where is not None:
            parts.append(str(where))
        if values:
            parts.append(", ".join(values))
        line = ": ".join(parts)
        if remedy:
            line = f"{line.rstrip('.')}. {remedy}"
        # A path may hold a newline; the message may not.
        super().__init__(" ".join(line.splitlines()))

    def at(self, where: object) -> TwoStrokeError:
        """The same error with another ``where``, such as a flag in place of the argument that it sets."""
        return type(self)(self.what, where=where, found=self.found, expected=self.expected, remedy=self.remedy)


class ConfigError(TwoStrokeError, ValueError):
    """An option, argument or configuration value is out of range or contradicts another."""

    exit_code = 2


class DeviceError(TwoStrokeError, RuntimeError):
    """The requested device is missing, cannot run our kernels, or ran out of memory."""

    exit_code = 3


class DataError(TwoStrokeError, ValueError):
    """A data file, or an array of samples or labels, is invalid."""

    exit_code = 4


class ModelError(TwoStrokeError, ValueError):
    """A model or checkpoint file is damaged, not ours, or belongs to another network or run."""

    exit_code = 5


class DivergenceError(TwoStrokeError, ArithmeticError, ValueError):
    """The loss became infinite or NaN during training. A ``ValueError``, as scikit-learn's searches expect it."""

    exit_code = 6


class VerificationError(TwoStrokeError, AssertionError):
    """A numerical check (gradients, parity) failed."""

    exit_code = 7


class PeerError(TwoStrokeError, RuntimeError):
    """Another process of a distributed run was lost."""

    exit_code = 75


# --- optional packages: which extra installs them, and the error when they are missing --------------------------

# The packages that each extra of pyproject.toml installs, by import name. Below, the text for the user.
PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "draw": ("waitress",), "mpi": ("mpi4py",), "onnx": ("onnx",), "plot": ("matplotlib", "jinja2"),
    "sklearn": ("sklearn",),
}  # fmt: skip
NAMES: Final = {"sklearn": "scikit-learn 1.7 or newer"}
ALSO: Final = {"mpi": " (a cluster with its own MPI) or 'twostroke[mpi-local]'"}


class MissingExtra(ConfigError, ImportError):
    """A package of an extra is not installed."""


def need(extra: str, feature: str) -> None:
    """Raise ``MissingExtra`` if a package of ``extra`` is not installed. Does not import it."""
    if _absent(extra):
        raise missing(extra, feature)


def missing(extra: str, feature: str, cause: Exception | None = None, *, what: str | None = None) -> MissingExtra:
    """The error for ``feature``. Names the missing packages (or ``what``) and the command to install them."""
    names = what or " and ".join(NAMES.get(package, package) for package in _absent(extra) or PACKAGES[extra])
    python = shlex.quote(sys.executable or "python")  # the pip on the PATH may be another Python's
    remedy = f"Install with: {python} -m pip install 'twostroke[{extra}]'{ALSO.get(extra, '')}."
    return MissingExtra(f"{feature} needs {names}", found=cause, remedy=remedy)


def _absent(extra: str) -> list[str]:
    def installed(package: str) -> bool:
        try:
            return util.find_spec(package) is not None
        except ValueError:  # None in sys.modules
            return False

    return [package for package in PACKAGES[extra] if not installed(package)]
