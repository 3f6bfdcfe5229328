"""The API reference: every public name is documented, and pdoc writes it without a warning."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import twostroke as ts
from tests.support.pages import ROOT, python, tool

PUBLIC = {key: getattr(ts, key) for key in ts.__all__ if key != "__version__"}
# These raise nothing of their own.
QUIET = {"Backend", "EpochRecord", "array_module", "to_host"}


def parts(value: Any) -> dict[str, Any]:
    """A public object and, of a class, its public methods and properties of this package."""
    found = {"": value}
    if inspect.isclass(value):
        for base in reversed(value.__mro__):
            if base.__module__.startswith("twostroke"):
                found |= {
                    key: part
                    for key, part in vars(base).items()
                    if key[0] != "_" and (callable(part) or isinstance(part, property | classmethod))
                }
    return found


@pytest.mark.parametrize("public", PUBLIC)
def test_a_public_name_is_documented(public: str) -> None:
    """It and its parts have a docstring; its parameters or fields are named there, and the error that it raises."""
    value = PUBLIC[public]
    for key, part in parts(value).items():
        part = part.fget if isinstance(part, property) else part  # noqa: PLW2901
        assert inspect.getdoc(part), f"{public}.{key} has no docstring"
        assert (inspect.getdoc(part) or "").rstrip()[-1] in ".:)`", f"{public}.{key}: the docstring ends in mid-air"
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value) and issubclass(value, ts.TwoStrokeError):
        return
    missing = [
        parameter
        for parameter in inspect.signature(value).parameters
        if not re.search(rf"\b{parameter}\b", text) and (inspect.isclass(value) or parameter != "self")
    ]
    assert not missing, f"{public}: not in its docstring: {missing}"
    if public not in QUIET:
        assert re.search(r"\b[A-Z]\w*Error\b", text), f"{public} does not say what it raises"


def test_the_reference_is_made_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason='pdoc writes the reference: pip install -e ".[docs]"')
    modules = tool("reference.py").MODULES
    run = python(str(ROOT / "docs" / "reference.py"), "--out", str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    for module in modules:
        assert (tmp_path / f"{module.replace('.', '/')}.html").exists()
    text = (tmp_path / "twostroke.html").read_text(encoding="utf-8")
    for public in PUBLIC:
        assert f'id="{public}"' in text, f"{public} is not in the reference"
