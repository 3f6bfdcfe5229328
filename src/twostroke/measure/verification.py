"""The checks behind ``twostroke verify``, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..backend import Backend
from ..errors import ConfigError
from .checks import Report
from .gradients import verify_gradients
from .parity import verify_parity
from .resume import verify_resume


def verify(name: str, backend: Backend) -> Report:
    """Run the verification ``name`` on ``backend``. Raises ``ConfigError`` for an unknown name."""
    if name not in VERIFICATIONS:
        raise ConfigError("unknown check", where="CHECK", found=repr(name), expected=" or ".join(VERIFICATIONS))
    with backend.active():
        return VERIFICATIONS[name](backend)


VERIFICATIONS: Final[dict[str, Callable[[Backend], Report]]] = {
    "grad": verify_gradients,
    "parity": verify_parity,
    "resume": verify_resume,
}
