"""The site: every public name is documented and in the API reference; pages, links and navigation are whole."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import twostroke as ts
from tests.support import documentation
from tests.support.pages import ROOT, python

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. ``--strict`` makes a broken link, anchor or name and a page outside the navigation an error."""
    if not (ROOT / "mkdocs.yml").exists():
        pytest.skip("this copy of the project has no mkdocs.yml")
    for module in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(module, reason='mkdocs writes the site: pip install -e ".[docs]"')
    out = tmp_path_factory.mktemp("site")
    run = python("-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(out), folder=ROOT)
    assert run.returncode == 0, run.stderr
    return out


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """With its methods and properties, and the fields of a dataclass."""
    sklearn = vars(importlib.import_module("twostroke.sklearn")) if importlib.util.find_spec("sklearn") else {}
    classic = {key: getattr(ts.classic, key) for key in ("Network", "sigmoid", "sigmoid_prime")}
    modules = {"twostroke": vars(ts), "twostroke.classic": classic, "twostroke.sklearn": sklearn}
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    missing = []
    for module, members in modules.items():
        for public in members.get("__all__", list(members)):
            value = members[public]
            home = "twostroke.classic" if value is ts.Network else module
            inside = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
            if not (inspect.isclass(value) and issubclass(value, ts.TwoStrokeError)):  # inherit all they have
                inside |= parts(value).keys() - {""}
            names = [f"{home}.{public}", *(f"{home}.{public}.{name}" for name in inside)]
            missing += [name for name in names if f'id="{name}"' not in text]
    assert not missing


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    navigation = set(re.findall(r'<a href="([^"#]+)" class="md-nav__link', start))
    built = {str(page.relative_to(site)) for page in site.rglob("*.html")} - {"404.html", "index.html"}
    assert built == {link for link in navigation if link.endswith(".html")} - {"index.html"}
    docs = {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in (ROOT / "docs").rglob("*.md")}
    assert docs - {"README.html"} <= built


def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]* rel=[\"']?(?:stylesheet|preconnect|icon)[\"']?[^>]*>", text)
        assert not [each for each in loaded if "//" in each], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style.name


def test_the_chinese_readme_is_a_start_page(site: Path) -> None:
    text = (site / "zh.html").read_text(encoding="utf-8")
    assert '<html lang="zh-Hans"' in text
    assert "感知机" in text
    assert 'href="index.html"' in text


def test_formulas_are_formulas(site: Path) -> None:
    """MathML, which needs no script; as many as the pages have, and nothing left as it was written."""
    pages = [*(ROOT / "docs" / "tutorial").glob("*.md")]
    for page in pages:
        written = documentation.prose(page).count("$`") + sum(b.language == "math" for b in documentation.blocks(page))
        text = (site / "tutorial" / f"{page.stem}.html").read_text(encoding="utf-8")
        assert text.count("<math ") == written, page.name
        assert "$<code>" not in text
        assert "language-math" not in text
        assert not re.findall(r"<m\w+>\\", text)
    assert sum((site / "tutorial" / f"{page.stem}.html").read_text("utf-8").count("<math ") for page in pages) > 50
