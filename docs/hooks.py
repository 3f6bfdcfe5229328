"""What mkdocs.yml cannot say: pages from outside docs/, links out of docs/, and the defaults of dataclasses.

A link to a file that is no page leads to the repository, whose address is in pyproject.toml. Formulas, in blocks of
```math or between $` and `$ as forges read them, become MathML, which browsers show without a script.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import posixpath
import re
import tomllib
from html import unescape
from pathlib import Path
from typing import Any, Final

import griffe
import latex2mathml.converter
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[1]
LOG: Final = logging.getLogger("mkdocs.hooks.twostroke")  # a warning fails a strict build
URLS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
# Where a file of the repository is on the site.
PAGES: Final = {
    "README.md": "index.md",
    "README.zh-CN.md": "zh.md",
    "docs/README.md": "pages.md",
    "docker/README.md": "containers.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "bench.md",
    "tests/emulated_gpu/README.md": "emulated-gpu.md",
}
SOURCES: Final = {page: source for source, page in PAGES.items()}
CHECKED: Final = ("twostroke.engine.config.TrainConfig",)  # its fields are made by calls that check them
LINK: Final = re.compile(r"(?P<picture>!?)(?P<text>\[(?:[^][]|\[[^][]*\])*\]\()(?P<to>[^)\s]+)(?=[)\s])")
FORMULA: Final = re.compile(
    r'<pre class="math"><code>(?P<block>.*?)</code></pre>|\$<code>(?P<inline>[^<]*)</code>\$', re.DOTALL
)
FENCE: Final = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of ``PAGES``, and the pictures that any page shows from outside docs/."""
    index = files.get_file_from_path("README.md")
    if index:
        files.remove(index)
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        for link in LINK.finditer(file.content_string):
            target = _target(file.src_uri, link["to"].partition("#")[0])
            if link["picture"] and not target.startswith(("docs/", "http")) and not files.get_file_from_path(target):
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they must be on the site. What is inside a block of code stays."""
    markdown = re.sub(r"^(```\w+) .*$", r"\1", markdown, flags=re.MULTILINE)  # of "```py torch" the first word
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda found: _link(page.file.src_uri, found), part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Formulas as MathML."""

    def formula(found: re.Match[str]) -> str:
        display = "block" if found["block"] else "inline"
        made = latex2mathml.converter.convert(unescape(found["block"] or found["inline"]).strip(), display=display)
        # A prime is raised already: as a superscript it is above the line, but with fonts made for formulas.
        made = re.sub(r"<msup>(<mi>\w</mi>)<mi>(&#x02032;)</mi></msup>", r'\1<mo lspace="0" rspace="0">\2</mo>', made)
        if unknown := re.findall(r"\\\w+", made):
            LOG.warning("%s: no such command in a formula: %s", page.file.src_uri, ", ".join(unknown))
        return f'<div class="formula">{made}</div>' if found["block"] else made

    return FORMULA.sub(formula, html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A Chinese page says that it is Chinese, for fonts and screen readers."""
    chinese = SOURCES.get(page.file.src_uri, page.file.src_uri).endswith(".zh-CN.md")
    return output.replace('<html lang="en"', '<html lang="zh-Hans"') if chinese else output


def _target(page: str, to: str) -> str:
    """The path in the repository that the link ``to`` on a page of the site means."""
    source = SOURCES.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), to)) if to else source


def _link(page: str, found: re.Match[str]) -> str:
    to, hash_, anchor = found["to"].partition("#")
    if not to or re.match(r"[a-z]+:", to):
        return found[0]
    target = _target(page, to)
    place = ROOT / target
    if target in PAGES or found["picture"] or (place.suffix == ".md" and target.startswith("docs/")):
        on_site = PAGES.get(target) or target.removeprefix("docs/")
        address = posixpath.relpath(on_site, posixpath.dirname(page) or ".")
    else:
        if not place.exists():
            LOG.warning("%s: there is no %s", page, target)
        address = f"{URLS['Repository']}/{'tree' if place.is_dir() else 'blob'}/main/{target}"
    return f"{found['picture']}{found['text']}{address}{hash_}{anchor}"


class Attributes(griffe.Extension):  # type: ignore[misc, unused-ignore]
    """Hides what __init__ assigns without a type; shows the default of a field, not the call that makes the field."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        members: dict[str, Any] = cls.members
        for name, member in list(members.items()):
            bare = member.is_attribute and not (member.annotation or member.docstring)
            if bare and "class-attribute" not in member.labels:
                del members[name]
            elif {"instance-attribute", "class-attribute"} & member.labels == {"instance-attribute"}:
                member.value = None  # the call that checks an argument is no default

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for path in CHECKED:
            module, made = path.rsplit(".", 1)
            members: dict[str, Any] = pkg[path.partition(".")[2]].members
            for field in dataclasses.fields(getattr(importlib.import_module(module), made)):
                if field.default is not dataclasses.MISSING:
                    members[field.name].value = repr(field.default)
