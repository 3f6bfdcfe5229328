"""``over``: a Python program, or a command, in a process of its own over the emulated device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import twostroke

from .build import environment, missing

Over = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
REQUIRED = "REQUIRE_EMULATED_GPU"  # set: a test that cannot run fails


@pytest.fixture(scope="session")
def over() -> Over:
    """``over("import cupy")`` runs a program, ``over(["doctor"])`` the command line; QUEUE="late" sets
    EMULATED_GPU_QUEUE.

    ``env`` adds variables that are not the device's.
    """
    reason = missing()
    if reason:
        if os.environ.get(REQUIRED):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    path = os.pathsep.join([str(Path(twostroke.__file__).parents[1]), str(ROOT)])

    def run(
        program: str | list[str], *, env: dict[str, str] | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        words = ["-c", program] if isinstance(program, str) else ["-m", "twostroke", *program]
        variables = environment(**settings) | {"PYTHONPATH": path} | (env or {})
        command = [sys.executable, *words]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=280)

    return run
