"""Is there an MPI? And a small data set in a file, for jobs of several processes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from tests.support.mpi_jobs import SAMPLES, why_not


@pytest.fixture
def mpi() -> None:
    """A real MPI, or the test is skipped; with REQUIRE_MPI=1 in the environment it fails."""
    reason = why_not()
    if reason and os.environ.get("REQUIRE_MPI", "0") not in ("", "0"):
        pytest.fail(f"MPI is required: {reason}", pytrace=False)
    if reason:
        pytest.skip(f"{reason} (pip install 'twostroke[mpi-local]')")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    centres = rng.random((5, 20))
    arrays: dict[str, Any] = {}
    for part, n in (("train", SAMPLES), ("test", 41)):
        labels = rng.integers(0, 5, n)
        arrays |= {f"x_{part}": centres[labels] + 0.3 * rng.random((n, 20)), f"y_{part}": labels}
    path = tmp_path_factory.mktemp("data") / "clouds.npz"
    np.savez(path, **arrays)
    return str(path)
