"""The checks behind ``twostroke verify``, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..backend import Backend
from ..engine.kinds import Named
from ..errors import ConfigError
from .checks import Report
from .gradients import verify_gradients
from .own_kernels import verify_kernel
from .parity import verify_parity
from .resume import verify_resume


def verify(name: str, backend: Backend, kernel: Named | None = None) -> Report:
    """Run the verification ``name`` on ``backend``; ``grad`` of a user's ``kernel`` if one is given. Raises
    ``ConfigError`` for an unknown name."""
    if name not in VERIFICATIONS:
        raise ConfigError("unknown check", where="CHECK", found=repr(name), expected=" or ".join(VERIFICATIONS))
    if kernel is not None and name != "grad":
        raise ConfigError("no check of a kernel", where="CHECK", found=repr(name), expected="grad")
    with backend.active():
        if kernel is not None:
            return verify_kernel(backend, kernel)
        return VERIFICATIONS[name](backend)


VERIFICATIONS: Final[dict[str, Callable[[Backend], Report]]] = {
    "grad": verify_gradients,
    "parity": verify_parity,
    "resume": verify_resume,
}
