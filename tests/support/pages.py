"""The pages of the documentation, and ways to run what they show."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import twostroke as ts

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def environment() -> dict[str, str]:
    """The package under test, and plain wide output."""
    plain = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "MPLBACKEND": "Agg", "PYTHONWARNINGS": "error"}
    return os.environ | plain | {"PYTHONPATH": str(Path(ts.__file__).parents[1])}


def python(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=folder, env=environment()
    )


def tool(file: str) -> ModuleType:
    """A script of docs/ as a module."""
    if not (ROOT / "docs" / file).exists():
        pytest.skip("this copy of the project has no docs/")
    spec = importlib.util.spec_from_file_location(file.removesuffix(".py"), ROOT / "docs" / file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
