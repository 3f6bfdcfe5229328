"""Checks that anyone can run on their own machine: gradients, agreement of devices, exact resume.

Each returns a ``Report`` of rows, every one with what was found and the limit it is held against.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..backend import Backend
from ..errors import VerificationError
from ..provenance import versions


@dataclass(frozen=True)
class Check:
    """One row: what was compared, in which setting, the error found and its limit. NaN never passes."""

    what: str
    where: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """The outcome of one verification: text to explain it, the rows to show, and every single check."""

    name: str
    backend: Backend
    unit: str  # of the errors
    text: list[str]
    checks: list[Check]
    closing: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def rows(self) -> list[Check]:
        """The worst check of each kind, in the order in which the kinds came."""
        worst: dict[str, Check] = {}
        for check in self.checks:
            if check.what not in worst or _badness(check) > _badness(worst[check.what]):
                worst[check.what] = check
        return list(worst.values())

    def lines(self) -> list[str]:
        """The report as text; the last line says how it ended."""
        width = max(len(row.what) for row in self.rows)
        head = f"{'':{width}}  {self.unit:>22}  {'limit':>7}  worst in"
        table = [
            f"{row.what:{width}}  {row.error:22.2g}  {row.limit:7.0e}  {row.where}{'' if row.passed else '  FAILED'}"
            for row in self.rows
        ]
        failed = sum(not check.passed for check in self.checks)
        end = f"{failed} of {len(self.checks)} checks FAILED" if failed else f"all {len(self.checks)} checks passed"
        return [*self.text, head, *table, *self.closing, f"verify {self.name}: {end} on {self.backend.device}"]

    def record(self) -> dict[str, Any]:
        """The report as the dictionary that ``--json`` prints."""
        return {
            "verification": self.name,
            "passed": self.passed,
            "backend": self.backend.name,
            **{name: getattr(self.backend, name) for name in ("device", "reason", "threads")},
            "unit": self.unit,
            "notes": self.closing,
            "checks": [asdict(check) | {"passed": check.passed} for check in self.checks],
            "machine": self.backend.describe(),
            "versions": versions(),
        }

    def require(self) -> None:
        """Raise ``VerificationError`` with the worst row unless everything passed."""
        if not self.passed:
            worst = max(self.checks, key=_badness)
            raise VerificationError(
                f"verify {self.name} failed on {self.backend.device}",
                where=f"{worst.what}, {worst.where}",
                found=f"{worst.error:.3g}",
                expected=f"<= {worst.limit:.0e}",
                remedy="Please report it with: twostroke doctor --json.",
            )


def _badness(check: Check) -> float:
    if np.isnan(check.error):
        return float("inf")
    return check.error / check.limit if check.limit else check.error


def relative_error(found: Any, expected: Any) -> float:
    """||found - expected|| / max(||found||, ||expected||), in float64; 0 where both are zero."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shapes {found.shape} and {expected.shape}")
    # A difference that overflows is NaN, and NaN passes no limit.
    with np.errstate(all="ignore"):
        scale = np.maximum(np.linalg.norm(found), np.linalg.norm(expected))
        return float(np.linalg.norm(found - expected) / scale) if scale else 0.0
