"""Optional packages: which extra installs them, and the one error where they are missing."""

from __future__ import annotations

from importlib import util
from typing import Final

from .errors import ConfigError

# For each extra of pyproject.toml, the packages to import. The words for a user are below.
PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "draw": ("waitress",), "mpi": ("mpi4py",), "onnx": ("onnx",), "plot": ("matplotlib", "jinja2"),
    "sklearn": ("sklearn",),
}  # fmt: skip
NAMES: Final = {"sklearn": "scikit-learn 1.7 or newer"}
ALSO: Final = {"mpi": " (a cluster with its own MPI) or 'twostroke[mpi-local]'"}


class MissingExtra(ConfigError, ImportError):
    """The packages of an extra are not installed."""


def need(extra: str, feature: str) -> None:
    """Raise ``MissingExtra`` if a package of ``extra`` is not installed. Imports none of them."""
    if _absent(extra):
        raise missing(extra, feature)


def missing(extra: str, feature: str, cause: Exception | None = None, *, what: str | None = None) -> MissingExtra:
    """The error for ``feature``: names the missing packages (or ``what``) and the command that installs them."""
    names = what or " and ".join(NAMES.get(package, package) for package in _absent(extra) or PACKAGES[extra])
    remedy = f"Install with: pip install 'twostroke[{extra}]'{ALSO.get(extra, '')}."
    return MissingExtra(f"{feature} needs {names}", found=cause, remedy=remedy)


def _absent(extra: str) -> list[str]:
    def installed(package: str) -> bool:
        try:
            return util.find_spec(package) is not None
        except ValueError:  # None in sys.modules
            return False

    return [package for package in PACKAGES[extra] if not installed(package)]
