"""The results of the checks: gradients, parity, exact resume.

Each check returns a ``Report``, whose rows hold an error and its limit.
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
    """One comparison: what, where, the error and its limit. NaN never passes."""

    what: str
    where: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """The result of one verification: explanatory text and all checks; ``rows`` selects those to print."""

    name: str
    backend: Backend
    unit: str  # of the errors, as a column title
    text: list[str]
    checks: list[Check]
    closing: tuple[str, ...] = ()
    remedy: str = "Please report it with: twostroke doctor --json."

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def rows(self) -> list[Check]:
        """The worst check of each kind, in order of first appearance."""
        worst: dict[str, Check] = {}
        for check in self.checks:
            if check.what not in worst or _badness(check) > _badness(worst[check.what]):
                worst[check.what] = check
        return list(worst.values())

    def lines(self) -> list[str]:
        """The report as lines of text; the last is the verdict."""
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
        """Raise ``VerificationError``, with the worst check, unless all passed."""
        if not self.passed:
            worst = max(self.checks, key=_badness)
            raise VerificationError(
                f"verify {self.name} failed on {self.backend.device}",
                where=f"{worst.what}, {worst.where}",
                found=f"{worst.error:.3g}",
                expected=f"<= {worst.limit:.0e}",
                remedy=self.remedy,
            )


def _badness(check: Check) -> float:
    if np.isnan(check.error):
        return float("inf")
    return check.error / check.limit if check.limit else check.error


def relative_error(found: Any, expected: Any) -> float:
    """||found - expected|| / max(||found||, ||expected||), in float64; 0 if both are zero."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"shapes {found.shape} and {expected.shape}")
    # Overflow gives NaN, which never passes.
    with np.errstate(all="ignore"):
        scale = np.maximum(np.linalg.norm(found), np.linalg.norm(expected))
        return float(np.linalg.norm(found - expected) / scale) if scale else 0.0
