"""Standardisation of a table's columns, which a model keeps and applies to every input."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Scaling(NamedTuple):
    """Column j of the input becomes (x_j - ``mean``_j) / ``deviation``_j; both are (D,) float64.

    ``MLP`` raises ``ConfigError`` where D is not its number of inputs.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, samples: Any) -> Scaling:
        """The mean and the standard deviation of each column of samples (N, D). A constant column has deviation 1."""
        values = np.asarray(samples, np.float64)
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        # A constant such as 0.1 has a mean that is rounded, and so a deviation that is not quite 0.
        constant = deviation <= 1e-12 * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, deviation))

    def __call__(self, samples: Any, dtype: Any) -> NDArray[Any]:
        """Samples (N, D) standardised in float64, then in ``dtype``."""
        return np.asarray((samples - self.mean) / self.deviation, dtype)

    def undo(self, values: Any) -> NDArray[np.float64]:
        """Standardised values (N, D) in their units again, float64: a mean may be large beside its deviation."""
        return np.asarray(np.asarray(values, np.float64) * self.deviation + self.mean)
