"""Optional packages: one sentence where one is missing."""

from __future__ import annotations

import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from twostroke import ConfigError
from twostroke.errors import ALSO, NAMES, PACKAGES, MissingExtra, missing, need


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extra of two packages that are there, and one whose second package is not."""
    monkeypatch.setitem(PACKAGES, "plot", ("json", "math"))
    monkeypatch.setitem(PACKAGES, "draw", ("json", "no_such_package", "neither_this_one"))


@pytest.mark.usefixtures("extras")
def test_what_is_installed_is_not_complained_about() -> None:
    need("plot", "--report")


@pytest.mark.usefixtures("extras")
def test_the_error_names_the_feature_the_missing_packages_and_the_command() -> None:
    command = f"{shlex.quote(sys.executable)} -m pip install 'twostroke[draw]'"  # into this Python
    line = f"twostroke draw needs no_such_package and neither_this_one. Install with: {command}."
    with pytest.raises(MissingExtra) as caught:
        need("draw", "twostroke draw")
    assert str(caught.value) == line
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, ImportError)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("extra", PACKAGES)
def test_a_package_that_cannot_be_imported_is_named_with_its_reason(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES[extra]:
        monkeypatch.setitem(sys.modules, package, None)
    error = missing(extra, "this", ImportError("no library"))
    assert str(error).startswith(f"this needs {NAMES.get(PACKAGES[extra][0], PACKAGES[extra][0])}")
    command = f" -m pip install 'twostroke[{extra}]'{ALSO.get(extra, '')}."
    assert f": found no library. Install with: {shlex.quote(sys.executable)}{command}" in str(error)


def test_every_extra_is_one_of_the_project_s() -> None:
    file = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {"sklearn": "scikit-learn"}
    for extra, packages in PACKAGES.items():
        wanted = " ".join(extras[extra]).lower()
        assert not [package for package in packages if names.get(package, package) not in wanted], extra
